# SPDX-License-Identifier: Apache-2.0
"""The HTTP side of `vdsm-mp metrics --listen`: three pages that can only be read.

    /metrics   numbers for Prometheus
    /healthz   200 when the agent runs and nothing of it is given up, else 503; both with the reasons as JSON
    /readyz    200 when it serves calls without a reservation, else 503; the same

Few requests at a time, each with a deadline; whoever asks more often than once a second gets the same answer again.
"""

import contextlib
import http.server
import ipaddress
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

#: Requests in work; more are closed unanswered.
MOST = 16
#: An answer serves all who ask within this time.
FRESH_S = 1.0

Status = Mapping[str, Any]


class BadAddress(Exception):
    """Nobody can listen there."""


def serve(listen: str, gather: Callable[[], Status], text: Callable[[Status], str]) -> int:
    """Serve until SIGTERM or SIGINT; 0. Raises: BadAddress (no address, in use, not ours)."""
    try:
        server = Server(_address(listen), gather, text)
    except OSError as error:
        raise BadAddress(f"--listen {listen}: {error.strerror}") from error
    # `shutdown` waits for the loop that this very thread runs.
    ends = lambda *_: threading.Thread(target=server.shutdown, daemon=True).start()  # noqa: E731 -- a signal handler
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ends)
    host, port = server.server_address[:2]
    print(f"vdsm-mp: metrics at http://{_in_url(str(host))}:{port}/metrics", flush=True)
    with server:
        server.serve_forever(poll_interval=0.2)
    return 0


class Server(http.server.ThreadingHTTPServer):
    """gather: the status now, may take seconds. text: its numbers."""

    daemon_threads = True
    request_queue_size = MOST
    #: Seconds from a connection to its end, the agent's answer included; a client that trickles is cut off.
    client_s = 30.0

    def __init__(self, address: tuple[str, int], gather: Callable[[], Status], text: Callable[[Status], str]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._gather = gather
        self.text = text
        self._room = threading.BoundedSemaphore(MOST)
        self._lock = threading.Lock()
        self._last: Status = {}
        self._read_mono = -FRESH_S
        super().__init__(address, _Handler)

    def status(self) -> Status:
        """One question to the agent at a time, for everybody who waits."""
        with self._lock:
            if time.monotonic() - self._read_mono >= FRESH_S:
                self._last = self._gather()
                self._read_mono = time.monotonic()
            return self._last

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        ends = threading.Timer(self.client_s, _cut, (request,))
        ends.daemon = True
        ends.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            ends.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away or is too slow is nobody's error."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    server_version = "vdsm-mp"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path not in ("/metrics", "/healthz", "/readyz"):
            self.send_error(HTTPStatus.NOT_FOUND, "there are /metrics, /healthz and /readyz")
            return
        status = self.server.status()
        match self.path:
            case "/metrics":
                self._say(HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", self.server.text(status))
            case "/healthz":
                self._verdict(status, well=not health_faults(status))
            case "/readyz":
                self._verdict(status, well=not status["problems"])

    do_HEAD = do_GET

    def _verdict(self, status: Status, *, well: bool) -> None:
        said = json.dumps({"ok": well, "problems": list(status["problems"])}, ensure_ascii=False)
        self._say(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", said + "\n")

    def _say(self, code: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Who reads numbers is not worth a line every few seconds."""


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        connection.shutdown(socket.SHUT_RDWR)


def health_faults(status: Status) -> list[str]:
    """Why this agent would need somebody: it does not run, or something of it was given up. [] when it heals itself."""
    house = status["house"]
    if house is None:
        return list(status["problems"])
    failed = [name for name, worker in house["workers"].items() if worker["state"] == "failed"]
    return [*(f"{name} cannot start" for name in failed), *(f"{one['name']} is written off" for one in house["lost"])]


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ValueError("a port is needed")
        return str(ipaddress.ip_address(host)), int(port)
    except ValueError as error:
        raise BadAddress(f"--listen {listen}: ADDRESS:PORT is needed, as 127.0.0.1:9595 or [::1]:9595") from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
