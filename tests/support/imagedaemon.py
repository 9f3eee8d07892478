# SPDX-License-Identifier: Apache-2.0
"""A small daemon that keeps tickets as ovirt-imageio's control socket does, and moves data as long as one allows it.

Its answers were compared with those of ovirt-imageio 2.5.1: 200 and an empty body for PUT, PATCH and DELETE, the ticket
with its transfer state for GET, 404 for an unknown one, 400 for one that is not understood.
"""

import http.server
import json
import os
import socketserver
import threading
import time
from pathlib import Path
from typing import Any

from tests.support.ledger import run

_WHOLE = {"uuid", "size", "url", "timeout", "ops"}


class NoTicketError(Exception):
    """There is none any more, or it has expired."""


class ImageDaemon(socketserver.ThreadingUnixStreamServer):
    """path: of its control socket, which everybody may use. tickets: {id: ticket}."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Handler)
        path.chmod(0o666)
        self.path = path
        self.tickets: dict[str, dict[str, Any]] = {}
        self.until: dict[str, float] = {}
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def take(self, ticket: dict[str, Any]) -> None:
        self.tickets[ticket["uuid"]] = ticket
        self.prolong(ticket["uuid"], ticket["timeout"])

    def prolong(self, ticket_id: str, seconds: int) -> None:
        self.until[ticket_id] = time.monotonic() + seconds

    def write(self, ticket_id: str, form: str, offset: int, byte: int) -> None:
        """What a client uploads. Raises: NoTicketError."""
        ticket = self.tickets.get(ticket_id)
        if ticket is None or "write" not in ticket["ops"] or time.monotonic() > self.until[ticket_id]:
            raise NoTicketError(ticket_id)
        path = ticket["url"].removeprefix("file://")
        run("qemu-io", "-f", form, "-c", f"write -P {byte} {offset} 4096", "-c", "flush", path)

    def forget(self) -> None:
        """As one whose host has died."""
        self.tickets.clear()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        os.unlink(self.path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked has died."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ImageDaemon  # type: ignore[assignment]

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def address_string(self) -> str:
        return "unix"

    @property
    def _id(self) -> str:
        return self.path.rpartition("/")[2]

    def _answer(self, status: int, body: dict[str, Any] | None = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return found

    def do_PUT(self) -> None:
        ticket = self._body()
        if not set(ticket) >= _WHOLE:
            self._answer(400, {"error": "bad ticket"})
            return
        self.server.take(ticket)
        self._answer(200)

    def do_GET(self) -> None:
        found = self.server.tickets.get(self._id)
        if found is None:
            self._answer(404, {"error": "no such ticket"})
        else:
            self._answer(200, {**found, "active": False})

    def do_PATCH(self) -> None:
        found = self.server.tickets.get(self._id)
        if found is None:
            self._answer(404)
            return
        found["timeout"] = self._body()["timeout"]
        self.server.prolong(self._id, found["timeout"])
        self._answer(200)

    def do_DELETE(self) -> None:
        self.server.tickets.pop(self._id, None)
        self._answer(204)
