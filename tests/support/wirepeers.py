# SPDX-License-Identifier: Apache-2.0
"""Two raw clients of the public port that see more than a library shows.

`Records` speaks TLS over memory and sees each TLS record apart, with the time it came. `EngineReader` reads them as
the engine does: one record a turn, a header block of at most 1023 octets that must be whole, one frame a record; what
would make the engine close the connection, or miss a frame, raises `EngineConfused`. How far apart frames were sent
cannot be told from when a busy reader gets them; `arrivals` has the times for those who look at many.
"""

import json
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.memorytls import MemoryTls, cut_record
from vdsm_mp.wire import stomp
from vdsm_mp.wire.tls import Files


class EngineConfused(AssertionError):
    """The engine would have closed the connection, or would have missed a frame."""


@dataclass(frozen=True)
class Record:
    """What one TLS record carried. at: CLOCK_MONOTONIC seconds of its arrival."""

    octets: bytes
    at: float


class Records:
    """A TLS 1.2 connection, as the engine's, record by record. files None = clear text: one record a read."""

    def __init__(self, address: tuple[str, int], files: Files | None, *, timeout_s: float = 10.0) -> None:
        self.sock = socket.create_connection(address, timeout=timeout_s)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._raw = bytearray()
        self._tls: MemoryTls | None = None
        self.at = time.monotonic()
        if files is not None:
            self._tls = MemoryTls(self.sock, files)
            try:
                self._tls.handshake()
            except BaseException:
                self.sock.close()
                raise

    def send(self, octets: bytes) -> None:
        if self._tls is None:
            self.sock.sendall(octets)
            return
        self._tls.send(octets)

    def next(self, *, within_s: float = 10.0) -> Record:
        """The next record. Raises: TimeoutError, ConnectionError (closed: EOFError)."""
        until = time.monotonic() + within_s
        while True:
            if (record := self._cut()) is not None:
                return record
            self.sock.settimeout(max(0.001, until - time.monotonic()))
            octets = self.sock.recv(65536)
            self.at = time.monotonic()
            if not octets:
                raise EOFError("closed by the server")
            self._raw += octets

    def _cut(self) -> Record | None:
        if self._tls is None:
            if not self._raw:
                return None
            octets = bytes(self._raw)
            self._raw.clear()
            return Record(octets, self.at)
        while (record := cut_record(self._raw)) is not None:
            if octets := self._tls.unwrap(record):
                return Record(octets, self.at)
        return None

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EngineReader:
    """An engine's connection: CONNECT, two subscriptions, calls with its headers."""

    EVENTS = "jms.queue.events"
    RESPONSES = "jms.topic.vdsm_responses"

    def __init__(self, address: tuple[str, int], files: Files | None, *, heart_beat: str = "0,15000") -> None:
        self.records = Records(address, files)
        self.arrivals: list[float] = []
        self._calls = 0
        self.beats = 0
        self.send("CONNECT", {"accept-version": "1.2", "host": "null", "heart-beat": heart_beat})
        self.subscribe(self.EVENTS, "sub-events")
        self.subscribe(self.RESPONSES, "sub-responses")
        self.connected = self.frame()
        assert self.connected.command == "CONNECTED"

    def send(self, command: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """One frame as the engine writes it: nothing is escaped."""
        lines = [command, *(f"{name}:{value}" for name, value in headers.items())]
        if body:
            lines.append(f"content-length:{len(body)}")
        self.records.send("\n".join(lines).encode() + b"\n\n" + body + b"\0")

    def subscribe(self, destination: str, subscription: str) -> None:
        self.send("SUBSCRIBE", {"destination": destination, "id": subscription, "ack": "auto"})

    def ask(self, method: str, params: Mapping[str, Any] | None = None, *, flow_id: str = "f1") -> str:
        """Send a call; its id."""
        self._calls += 1
        request_id = f"call-{self._calls}"
        body = {"jsonrpc": "2.0", "method": method, "params": dict(params or {}), "id": request_id}
        headers = {"destination": "jms.topic.vdsm_requests", "reply-to": self.RESPONSES, "ovirtCorrelationId": flow_id}
        self.send("SEND", headers, json.dumps(body, separators=(",", ":")).encode())
        return request_id

    def frame(self, *, within_s: float = 10.0) -> stomp.Frame:
        """The next frame, heart-beats skipped, as far as the engine can read it. Raises: EngineConfused."""
        record = self.records.next(within_s=within_s)
        while record.octets == b"\n":
            self.beats += 1
            record = self.records.next(within_s=within_s)
        self.arrivals.append(record.at)
        first = record.octets
        head_end = first.find(b"\n\n", 0, 1024)
        if head_end < 0:
            raise EngineConfused(f"no whole header block in the first 1024 octets: {first[:200]!r}")
        parser = stomp.Parser()
        parser.feed(first)
        while (frame := parser.next()) is None:
            record = self.records.next(within_s=within_s)
            parser.feed(record.octets)
        if parser.pending:
            raise EngineConfused(f"more than one frame in a record: {record.octets[-200:]!r}")
        if frame.command not in ("CONNECTED", "RECEIPT") and "content-length" not in frame.headers:
            raise EngineConfused("no content-length")
        return frame

    def message(self, *, within_s: float = 10.0) -> Any:
        """The decoded body of the next MESSAGE."""
        frame = self.frame(within_s=within_s)
        assert frame.command == "MESSAGE", frame
        return json.loads(frame.body)

    def messages(self, count: int) -> Iterator[Any]:
        for _ in range(count):
            yield self.message()

    def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Ask and wait; the whole answer. Events that come meanwhile are an error."""
        request_id = self.ask(method, params)
        answer = self.message()
        assert answer["id"] == request_id, answer
        return answer

    def close(self) -> None:
        self.records.close()

    def __enter__(self) -> "EngineReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def was_reset(sock: socket.socket, *, within_s: float = 5.0) -> bool:
    """Did the server close with RST? What it sent before that is thrown away."""
    sock.settimeout(within_s)
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


def was_closed(sock: socket.socket, *, within_s: float = 5.0) -> bool:
    """Did the server close, either way? Raises: TimeoutError."""
    was_reset(sock, within_s=within_s)
    return True
