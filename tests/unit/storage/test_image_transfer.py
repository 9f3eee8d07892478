# SPDX-License-Identifier: Apache-2.0
"""Image tickets, against a small daemon that keeps them as ovirt-imageio's control socket does.

Its answers were compared with those of ovirt-imageio 2.5.1: 200 and an empty body for PUT, PATCH and DELETE, the ticket
with its transfer state for GET, 404 for an unknown one, 400 for one that is not understood.
"""

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from vdsm_mp.api.errors_volume import ImageDaemonRefused, ImageDaemonUnreachable
from vdsm_mp.api.image_transfer import AddImageTicket, ExtendImageTicket, GetImageTicket, RemoveImageTicket, Ticket
from vdsm_mp.storage import image_transfer
from vdsm_mp.storage.image_transfer import ImageDaemon

ID = "11111111-aaaa-4bbb-8ccc-111111111111"


class _Handler(http.server.BaseHTTPRequestHandler):
    tickets: ClassVar[dict[str, dict[str, Any]]] = {}

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def address_string(self) -> str:
        return "unix"

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
        if not {"uuid", "size", "url", "timeout", "ops"} <= set(ticket):
            self._answer(400, {"error": "bad ticket"})
            return
        self.tickets[self.path] = ticket
        self._answer(200)

    def do_GET(self) -> None:
        found = self.tickets.get(self.path)
        self._answer(404, {"error": "no such ticket"}) if found is None else self._answer(
            200, {**found, "active": False}
        )

    def do_PATCH(self) -> None:
        if self.path not in self.tickets:
            self._answer(404)
            return
        self.tickets[self.path]["timeout"] = self._body()["timeout"]
        self._answer(200)

    def do_DELETE(self) -> None:
        self.tickets.pop(self.path, None)
        self._answer(204)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ImageDaemon]:
    path = str(tmp_path / "sock")
    _Handler.tickets.clear()
    with _Server(path, _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield ImageDaemon(path)
        server.shutdown()
        thread.join()


TICKET = Ticket(uuid=ID, url="file:///a", size=1 << 20, ops=["read"], timeout=300, sparse=True)


def test_a_ticket_is_added_seen_prolonged_and_taken_back(daemon: ImageDaemon) -> None:
    image_transfer.add(daemon, AddImageTicket(ticket=TICKET))
    assert image_transfer.get(daemon, GetImageTicket(uuid=ID)) == {
        "uuid": ID,
        "url": "file:///a",
        "size": 1 << 20,
        "ops": ["read"],
        "timeout": 300,
        "sparse": True,
        "active": False,
    }
    image_transfer.extend(daemon, ExtendImageTicket(uuid=ID, timeout=600))
    assert image_transfer.get(daemon, GetImageTicket(uuid=ID))["timeout"] == 600
    for _ in range(2):
        image_transfer.remove(daemon, RemoveImageTicket(uuid=ID))
    with pytest.raises(ImageDaemonRefused) as e:
        image_transfer.get(daemon, GetImageTicket(uuid=ID))
    assert (e.value.code, "404" in str(e.value)) == (482, True)


def test_without_the_daemon_that_is_what_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImageDaemonUnreachable) as e:
        image_transfer.add(ImageDaemon(str(tmp_path / "nobody")), AddImageTicket(ticket=TICKET))
    assert e.value.code == 481
