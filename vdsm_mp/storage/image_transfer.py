# SPDX-License-Identifier: Apache-2.0
"""Tickets of ovirt-imageio, the neighbour that moves image data over HTTPS: asked over its control socket.

A ticket says who may read or write which URL for how long. Nothing is kept here; the daemon is asked each time.
"""

import json
import socket
from typing import Any

from vdsm_mp.api.errors_volume import ImageDaemonRefused, ImageDaemonUnreachable
from vdsm_mp.api.image_transfer import AddImageTicket, ExtendImageTicket, GetImageTicket, RemoveImageTicket
from vdsm_mp.api.verb import handles

#: Where ovirt-imageio listens for us.
CONTROL_SOCKET = "/run/ovirt-imageio/sock"
_DEADLINE_S = 10.0
_MAX_ANSWER = 1 << 20


class ImageDaemon:
    """control_socket: a unix socket that speaks HTTP."""

    def __init__(self, control_socket: str = CONTROL_SOCKET) -> None:
        self._socket = control_socket

    def ask(self, method: str, ticket_id: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Raises: ImageDaemonUnreachable (481), ImageDaemonRefused (482)."""
        # Not before: with all that it has of mail, HTTP is a megabyte.
        import http.client

        connection = http.client.HTTPConnection("localhost", timeout=_DEADLINE_S)
        data = None if body is None else json.dumps(body).encode()
        try:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(_DEADLINE_S)
            connection.sock.connect(self._socket)
            connection.request(method, f"/tickets/{ticket_id}", data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read(_MAX_ANSWER)
        except (OSError, http.client.HTTPException) as e:
            raise ImageDaemonUnreachable(str(e)) from e
        finally:
            connection.close()
        if answer.status >= 300:
            raise ImageDaemonRefused(
                ticket_id, f"{answer.status} {answer.reason}: {content[:300].decode('utf-8', 'replace')}"
            )
        try:
            found = json.loads(content or b"{}")
        except ValueError as e:
            raise ImageDaemonRefused(ticket_id, f"its answer is no JSON: {e}") from e
        return found if isinstance(found, dict) else {}


@handles(AddImageTicket)
def add(daemon: ImageDaemon, ask: AddImageTicket) -> None:
    daemon.ask("PUT", ask.ticket.uuid, ask.ticket.whole())


@handles(GetImageTicket)
def get(daemon: ImageDaemon, ask: GetImageTicket) -> dict[str, Any]:
    return daemon.ask("GET", ask.uuid)


@handles(ExtendImageTicket)
def extend(daemon: ImageDaemon, ask: ExtendImageTicket) -> None:
    daemon.ask("PATCH", ask.uuid, {"timeout": ask.timeout})


@handles(RemoveImageTicket)
def remove(daemon: ImageDaemon, ask: RemoveImageTicket) -> None:
    daemon.ask("DELETE", ask.uuid)
