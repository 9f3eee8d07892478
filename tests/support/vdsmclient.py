# SPDX-License-Identifier: Apache-2.0
"""The Python client library of hosts (vdsm-client, mom, hosted-engine-ha, the other end of migrations) as it behaves.

    with VdsmClient(address, files) as client:
        assert client.call("Host.ping2") is True

A reply queue with a random name; CONNECT and SUBSCRIBE at once, no call before CONNECTED; each call an array of one.
It reads 4,096 octets at a time, is strict about escapes and about the NUL after a body, looks its handler up by the
header `subscription`, and dies of an ERROR. What CONNECTED says of heart-beats it does not look at: when nothing came
for as long as it had in mind, it connects again and subscribes with new ids; calls in flight are not made again. A
connection that is closed under it leaves it deaf for good: it takes calls, and none is answered. `piece` cuts what it
writes, `reads` what it reads.
"""

import contextlib
import json
import re
import socket
import ssl
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from vdsm_mp.wire.tls import Files, client_context

REQUESTS = "jms.topic.vdsm_requests"
#: Of its 30 s it asks for four fifths.
SILENCE_MS = 30_000
CONNECT_S = 15.0
_PLAIN = {"\\\\": "\\", "\\c": ":", "\\n": "\n", "\\r": "\r"}
_ESCAPED = {"\\": "\\\\", ":": "\\c", "\n": "\\n", "\r": "\\r"}


class ClientDied(AssertionError):
    """Its reader raised: what came is nothing that it understands."""


class Deaf(TimeoutError):
    """Its connection was closed under it, so this call would run into its time-out. Told at once."""


class ServerError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code
        self.message = message


def encode(command: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
    """Escapes everything; content-length last, and only with a body."""
    lines = [command, *(f"{_escape(name)}:{_escape(value)}" for name, value in headers.items())]
    if body is not None:
        lines.append(f"content-length:{len(body)}")
    return "\n".join(lines).encode() + b"\n\n" + (body or b"") + b"\0"


def _escape(text: str) -> str:
    return re.sub(r"[\\:\n\r]", lambda match: _ESCAPED[match[0]], text)


def unescape(text: str) -> str:
    """Raises: ClientDied."""
    if ":" in text:
        raise ClientDied(f"a raw colon in {text!r}")
    try:
        return re.sub(r"\\.", lambda match: _PLAIN[match[0]], text)
    except KeyError as error:
        raise ClientDied(f"an unknown escape in {text!r}") from error


Frame = tuple[str, dict[str, str], bytes]


def cut(buffer: bytearray) -> Frame | None:
    """The first whole frame, taken out of the buffer. Raises: ClientDied."""
    while buffer[:1] == b"\n":
        del buffer[:1]
    end = buffer.find(b"\n\n")
    if end < 0:
        return None
    command, *lines = bytes(buffer[:end]).decode().split("\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers.setdefault(unescape(name), unescape(value))
    begin = end + 2
    stop = begin + int(headers["content-length"]) if "content-length" in headers else buffer.find(b"\0", begin)
    if stop < begin or len(buffer) <= stop:
        return None
    if buffer[stop]:
        raise ClientDied("no NUL after the body")
    body = bytes(buffer[begin:stop])
    del buffer[: stop + 1]
    return command, headers, body


class VdsmClient:
    """See the module. piece: octets written at a time, 0 = a frame at once. silence_ms: how much it bears."""

    def __init__(
        self,
        address: tuple[str, int],
        files: Files | None,
        *,
        piece: int = 0,
        reads: int = 4096,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        silence_ms: int = SILENCE_MS,
        events: str = "",
        dial: Callable[[], socket.socket] | None = None,
    ) -> None:
        self._dial = dial or partial(socket.create_connection, address, CONNECT_S)
        self._files = files
        self._piece = piece
        self._reads = reads
        self._version = version
        self._silence_ms = silence_ms
        self._heard_at = 0.0
        self._destinations = [str(uuid.uuid4()), *([events] if events else [])]
        #: {subscription id: destination} of this connection.
        self._subscriptions: dict[str, str] = {}
        self._answers: dict[str, Any] = {}
        self.events: deque[Any] = deque()
        #: Answers whose id nobody waits for.
        self.unknown: list[Any] = []
        self.connections = 0
        self._sock: socket.socket | None = None
        self._buffer = bytearray()
        self._connected = False
        self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> None:
        sock = self._dial()
        sock.settimeout(CONNECT_S)
        if self._files is not None:
            context = client_context(self._files)
            context.maximum_version = self._version
            sock = context.wrap_socket(sock)
        self._sock = sock
        self.connections += 1
        self._connected = False
        self._heard_at = time.monotonic()
        self._buffer.clear()
        self._subscriptions = {str(uuid.uuid4()): destination for destination in self._destinations}
        self._write(encode("CONNECT", {"accept-version": "1.2", "heart-beat": f"0,{self._silence_ms * 4 // 5}"}))
        for subscription, destination in self._subscriptions.items():
            self._write(encode("SUBSCRIBE", {"destination": destination, "ack": "auto", "id": subscription}))
        until = time.monotonic() + CONNECT_S
        while not self._connected:
            self._read(until)

    def _write(self, octets: bytes) -> None:
        assert self._sock is not None
        if not self._piece:
            self._sock.sendall(octets)
            return
        for at in range(0, len(octets), self._piece):
            self._sock.sendall(octets[at : at + self._piece])
            time.sleep(0.0005)

    def _read(self, until: float) -> None:
        """Read once and handle what came, or connect again. Raises: TimeoutError, OSError, ClientDied."""
        assert self._sock is not None
        gives_up_at = self._heard_at + self._silence_ms / 1000
        self._sock.settimeout(max(0.001, min(until, gives_up_at) - time.monotonic()))
        try:
            octets = self._sock.recv(self._reads)
        except TimeoutError:
            if time.monotonic() < gives_up_at:
                raise
            self.reconnect()
            return
        if not octets:
            raise ConnectionResetError("closed by the server")
        self._heard_at = time.monotonic()
        self._sock.settimeout(CONNECT_S)
        self._buffer += octets
        while (frame := cut(self._buffer)) is not None:
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        command, headers, body = frame
        if command == "CONNECTED":
            self._connected = True
        elif command == "ERROR":
            raise ClientDied(f"ERROR: {body.decode()}")
        elif command == "MESSAGE":
            destination = self._subscriptions.get(headers.get("subscription", ""))
            if destination is None:
                raise ClientDied(f"no handler for {headers}")
            decoded = json.loads(body)
            for item in decoded if isinstance(decoded, list) else [decoded]:
                if "id" not in item:
                    self.events.append(item)
                elif self._answers.get(item["id"], self) is None:
                    self._answers[item["id"]] = item
                else:
                    self.unknown.append(item)

    def start(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        flow_id: str = "",
        call_id: str = "",
        twice: bool = False,
    ) -> str:
        """Send a call; its id. twice: as one goes out that is made just while it connects again."""
        call_id = call_id or str(uuid.uuid4())
        body = json.dumps([{"jsonrpc": "2.0", "method": method, "params": dict(params or {}), "id": call_id}])
        headers = {"destination": REQUESTS, "content-type": "application/json", "reply-to": self._destinations[0]}
        if flow_id:
            headers["ovirtCorrelationId"] = flow_id
        self._answers[call_id] = None
        message = encode("SEND", headers, body.encode())
        if self._sock is not None:
            for _ in range(2 if twice else 1):
                self._write(message)
        return call_id

    def wait(self, call_id: str, within_s: float = 60.0) -> Any:
        """Raises: ServerError, TimeoutError, Deaf."""
        until = time.monotonic() + within_s
        while (answer := self._answers[call_id]) is None:
            if self._sock is None:
                raise Deaf
            try:
                self._read(until)
            except TimeoutError:
                raise
            except OSError as error:
                self._drop()
                raise Deaf from error
        del self._answers[call_id]
        if "error" in answer:
            raise ServerError(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, flow_id: str = "", within_s: float = 60.0
    ) -> Any:
        return self.wait(self.start(method, params, flow_id=flow_id), within_s)

    def reconnect(self) -> None:
        """What it does after silence. Raises: OSError."""
        self._drop()
        self._connect()

    def _drop(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def close(self) -> None:
        """Unsubscribe and close at once."""
        if self._sock is not None:
            with contextlib.suppress(OSError):  # the server went first
                for subscription in self._subscriptions:
                    self._sock.sendall(encode("UNSUBSCRIBE", {"id": subscription}))
        self._drop()
