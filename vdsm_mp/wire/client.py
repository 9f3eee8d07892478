# SPDX-License-Identifier: Apache-2.0
"""A plain blocking client of the public port: for the command line, for tests, and for talking to another host.

One connection, one thread. Calls wait for their answer; what comes meanwhile (events, answers to calls that were
given up) is kept or dropped. Nothing reconnects by itself: a call that was sent may have run.
"""

import contextlib
import itertools
import re
import socket
import ssl
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from vdsm_mp.api.errors import DeadlineExceeded, RemoteError
from vdsm_mp.common.errors import Unavailable
from vdsm_mp.wire import jsonrpc, stomp

DEFAULT_QUEUE = "jms.topic.vdsm_requests"
EVENT_QUEUE = "jms.queue.events"
#: Events kept while nobody asks for them; older ones go first.
_KEPT_EVENTS = 10_000
#: The server is heard of at least this often, or it is gone.
_HEARTBEAT_MS = 15000
_SILENCE_S = 30.0


class ConnectionLost(Unavailable):
    """Cannot connect, or the connection ended. Calls in flight may have run."""

    code = -32603
    msg = "{self.address}: {self.why}"

    def __init__(self, address: str, why: str) -> None:
        super().__init__(address, why)
        self.address = address
        self.why = why


class Event(NamedTuple):
    """One notification. method: VDSM's `|component|operation|id`. params: decoded."""

    method: str
    params: Mapping[str, Any]


class _Error(msgspec.Struct):
    code: int
    message: str


class _Message(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"")
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"{}")
    result: msgspec.Raw = msgspec.Raw(b"")
    error: _Error | None = None


_messages = msgspec.json.Decoder(_Message | list[_Message])


class Client:
    """An open connection. Close it, or use it in a `with`.

    context: TLS as `wire.tls.client_context` makes it; None = clear text. queue: where requests are sent.
    Raises: ConnectionLost.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext | None,
        timeout_s: float = 15.0,
        queue: str = DEFAULT_QUEUE,
    ) -> None:
        self.address = f"{host}:{port}"
        self._queue = queue
        self._parser = stomp.Parser(max_header=1024, max_frame=1 << 30)
        self._events: deque[Event] = deque(maxlen=_KEPT_EVENTS)
        self._answers: dict[bytes, _Message] = {}
        self._waiting: set[bytes] = set()
        self._ids = itertools.count(1)
        self._subscription_ids = itertools.count(1)
        self._reply_to = str(uuid.uuid4())
        self._connected = False
        self._heard_mono = time.monotonic()
        until = time.monotonic() + timeout_s
        self._sock = _connect(self.address, host, port, context, timeout_s)
        try:
            heart_beat = f"0,{_HEARTBEAT_MS}"
            self._write(stomp.encode("CONNECT", (("accept-version", "1.2"), ("heart-beat", heart_beat))))
            self.subscribe(self._reply_to)
            while not self._connected:
                self._read(until, "connecting")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. Repeating is harmless."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def subscribe(self, destination: str = EVENT_QUEUE) -> None:
        """Receive what is sent to a destination; `events()` gives it."""
        number = next(self._subscription_ids)
        headers = (("destination", destination), ("ack", "auto"), ("id", f"sub-{number}"))
        self._write(stomp.encode("SUBSCRIBE", headers))

    def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float = 60.0, flow_id: str = ""
    ) -> Any:
        """Call a verb and wait. Returns the decoded result.

        Raises: RemoteError (the server's code and sentence), DeadlineExceeded (it may still be running),
        ConnectionLost.
        """
        sealed = msgspec.json.encode(params or {})
        return msgspec.json.decode(self.call_raw(method, sealed, timeout_s=timeout_s, flow_id=flow_id))

    def call_raw(self, method: str, params: bytes, *, timeout_s: float = 60.0, flow_id: str = "") -> bytes:
        """Like `call`, encoded JSON in and out."""
        return self.wait(self.start(method, params, flow_id=flow_id), timeout_s=timeout_s, method=method)

    def start(self, method: str, params: bytes, *, flow_id: str = "") -> bytes:
        """Send a call without waiting; the id that `wait` wants."""
        request_id = b'"%d"' % next(self._ids)
        headers = [("destination", self._queue), ("content-type", "application/json"), ("reply-to", self._reply_to)]
        if flow_id:
            headers.append((stomp.FLOW_ID, flow_id))
        # Before it is sent: a reply may be read while another call waits.
        self._waiting.add(request_id)
        self._write(_frame("SEND", headers, jsonrpc.request(method, params, request_id)))
        return request_id

    def wait(self, request_id: bytes, *, timeout_s: float, method: str = "the call") -> bytes:
        """The encoded result of a started call. Raises: as `call`."""
        until = time.monotonic() + timeout_s
        try:
            while request_id not in self._answers:
                self._read(until, method, timeout_s)
        finally:
            self._waiting.discard(request_id)
        answer = self._answers.pop(request_id)
        if answer.error is not None:
            raise RemoteError(answer.error.code, answer.error.message)
        if not answer.result:
            raise ConnectionLost(self.address, f"the server answers {method} with neither a result nor an error")
        return bytes(answer.result)

    def events(self, *, timeout_s: float | None = None) -> Iterator[Event]:
        """Events as they come, until `timeout_s` after this call (None: for ever). Raises: ConnectionLost."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            while self._events:
                yield self._events.popleft()
            try:
                self._read(until, "events", timeout_s or 0.0)
            except DeadlineExceeded:
                return

    def _write(self, frame: bytes) -> None:
        try:
            self._sock.sendall(frame)
        except OSError as error:
            raise ConnectionLost(self.address, _reason(error)) from error

    def _read(self, until: float | None, what: str, allowed_s: float = 0.0) -> None:
        """Read once and take what came."""
        now = time.monotonic()
        silent_at = self._heard_mono + _SILENCE_S
        if until is not None and now >= until:
            raise DeadlineExceeded(what, round(allowed_s, 3))
        self._sock.settimeout(max(0.001, min(silent_at, until or silent_at) - now))
        try:
            octets = self._sock.recv(256 * 1024)
        except TimeoutError as error:
            # Only now: what came while nobody read is waiting in the kernel.
            if now >= silent_at:
                raise ConnectionLost(self.address, f"silent for {_SILENCE_S:g} s") from error
            return
        except OSError as error:
            raise ConnectionLost(self.address, _reason(error)) from error
        finally:
            with contextlib.suppress(OSError):
                self._sock.settimeout(_SILENCE_S)
        if not octets:
            raise ConnectionLost(self.address, "closed by the server")
        self._heard_mono = time.monotonic()
        self._parser.feed(octets)
        try:
            while (frame := self._parser.next()) is not None:
                self._take(frame)
        except (stomp.Broken, msgspec.MsgspecError) as error:
            raise ConnectionLost(self.address, f"the server does not speak our language: {error}") from error

    def _take(self, frame: stomp.Frame) -> None:
        if frame.command == "CONNECTED":
            self._connected = True
        elif frame.command == "ERROR":
            raise ConnectionLost(self.address, f"the server says: {frame.body.decode('utf-8', 'replace')}")
        elif frame.command == "MESSAGE":
            messages = _messages.decode(frame.body)
            for message in messages if isinstance(messages, list) else [messages]:
                self._sort(message)

    def _sort(self, message: _Message) -> None:
        if message.method:
            self._events.append(Event(message.method, msgspec.json.decode(message.params, type=dict[str, Any])))
        elif (request_id := bytes(message.id)) in self._waiting:
            self._answers[request_id] = message


def _connect(address: str, host: str, port: int, context: ssl.SSLContext | None, timeout_s: float) -> socket.socket:
    sock = None
    try:
        sock = socket.create_connection((host, port), timeout=timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if context is None else context.wrap_socket(sock, server_hostname=host)
    except (OSError, UnicodeError) as error:
        if sock is not None:
            sock.close()
        why = _reason(error) if isinstance(error, OSError) else "this is no name of a host"
        raise ConnectionLost(address, why) from error


def _frame(command: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    return stomp.with_body(stomp.head(command, headers), body)


def _reason(error: OSError) -> str:
    said = str(getattr(error, "verify_message", None) or getattr(error, "reason", None) or error.strerror or error)
    if alert := re.search(r"(?:^|_)ALERT_(\w+)$", said):
        return f"the other end refuses this one: {alert[1].lower().replace('_', ' ')}"
    if said == "WRONG_VERSION_NUMBER":
        return "the other end does not speak TLS"
    # The TLS library names the line of its source.
    return re.sub(r"^_ssl\.c:\d+: ", "", said)
