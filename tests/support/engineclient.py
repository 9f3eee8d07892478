# SPDX-License-Identifier: Apache-2.0
"""The engine's client library as it behaves, its weaknesses included: what it writes, how it reads, when it gives up.

    with EngineClient(address, files) as engine:
        assert engine.call("Host.ping2").result is True
        engine.event()

One thread is its loop. A pass takes what the kernel has into a buffer of 16,709 octets and unwraps ONE record of it; it
comes round again when the kernel has more, when something is to be sent, or after a second. Then it writes one message,
however long that takes: it does not read meanwhile. `lag_s` is the time that the loop is busy with other hosts before
each pass, so that records lie together. FIN and close_notify are not seen.
What the library would choke on is an `EngineConfused`: it closes, and every call in flight fails with 5022. The next
call connects again, with heart-beats as the last connection left them; what was not sent yet goes out after CONNECT,
but for one message.
"""

import contextlib
import json
import select
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support.enginereader import EngineConfused, FrameReader, JavaHeaders, Message
from tests.support.memorytls import MemoryTls, cut_record
from vdsm_mp.wire.tls import Files

NETWORK_ERROR = 5022
#: What one read of the socket takes: JSSE's packet buffer.
PACKET_BUFFER = 16709
#: The loop's own time-out, which is all that brings it round to what lies in its buffers.
LOOP_S = 1.0
CONNECT_S = 20.0


class Queues(NamedTuple):
    """Where a connection sends and listens. events: "" = not at all."""

    requests: str = "jms.topic.vdsm_requests"
    responses: str = "jms.topic.vdsm_responses"
    events: str = "jms.queue.events"


HOST = Queues()
#: The second connection of an engine, to the SPM.
SPM = Queues("jms.topic.vdsm_irs_requests", "jms.topic.vdsm_irs_responses", "")


class Answer(NamedTuple):
    """How a call ended. code: 0, the server's, or 5022 when the connection or the time ended."""

    code: int
    message: str
    result: Any = None


class EngineClient:
    """See the module. events: what the engine's publisher would have got, in order."""

    def __init__(
        self,
        address: tuple[str, int],
        files: Files | None,
        *,
        queues: Queues = HOST,
        identifier: str = "null",
        lag_s: float = 0.0,
        dial: Callable[[], socket.socket] | None = None,
    ) -> None:
        self._dial = dial or partial(socket.create_connection, address, CONNECT_S)
        self._files = files
        self._queues = queues
        self._identifier = identifier
        self.lag_s = lag_s
        #: Milliseconds of silence after which it gives up; each connection begins with what the last one left.
        self.limit_ms = 30_000
        #: What it asked for, connection by connection.
        self.asked_ms: list[int] = []
        self.handshake_s = 0.0
        #: How often nothing but the loop's own time-out brought it round to what had come.
        self.slept = 0
        self.lost: list[str] = []
        self.events: deque[dict[str, Any]] = deque()
        self.unknown: list[Any] = []
        self._outbox: deque[bytes] = deque()
        self._calls: dict[str, Answer | None] = {}
        self._changed = threading.Condition()
        self._sock: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._wake_in, self._wake_out = socket.socketpair()
        self._connected = False
        self._subscriptions: list[str] = []

    # What the rest of an engine does with it

    def start(
        self, method: str, params: Mapping[str, Any] | None = None, *, flow_id: str = "", call_id: str = ""
    ) -> str:
        """Send a call and return its id; connects when there is no connection. Raises: OSError (cannot connect)."""
        body = {"jsonrpc": "2.0", "method": method, "params": dict(params or {}), "id": call_id or str(uuid.uuid4())}
        self._send_body(
            json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode(), (str(body["id"]),), flow_id
        )
        return str(body["id"])

    def batch(self, methods: Sequence[str]) -> list[str]:
        """Several calls in one message; their ids."""
        bodies = [{"jsonrpc": "2.0", "method": method, "params": {}, "id": str(uuid.uuid4())} for method in methods]
        ids = [str(body["id"]) for body in bodies]
        self._send_body(json.dumps(bodies, separators=(",", ":")).encode(), ids, "")
        return ids

    def _send_body(self, body: bytes, ids: Sequence[str], flow_id: str) -> None:
        self.connect()
        headers = {"destination": self._queues.requests, "reply-to": self._queues.responses}
        if flow_id:
            headers["ovirtCorrelationId"] = flow_id
        with self._changed:
            self._calls.update(dict.fromkeys(ids))
            self._outbox.appendleft(frame("SEND", headers, body))
        self._wake()

    def wait(self, call_id: str, within_s: float = 30.0) -> Answer:
        """The end of a call. Raises: TimeoutError, so that a lost answer shows."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._calls[call_id] is not None, within_s):
                raise TimeoutError(f"no answer within {within_s} s")
            answer = self._calls.pop(call_id)
        assert answer is not None
        return answer

    def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, flow_id: str = "", within_s: float = 30.0
    ) -> Answer:
        return self.wait(self.start(method, params, flow_id=flow_id), within_s)

    def written(self, within_s: float = 10.0) -> None:
        """Wait until all that was asked is on its way. Raises: TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._outbox, within_s):
                raise TimeoutError(f"not written within {within_s} s")

    def event(self, within_s: float = 10.0) -> dict[str, Any]:
        """The next event: {"method": without the host's name, "params": …}."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.events, within_s):
                raise TimeoutError(f"no event within {within_s} s")
            return self.events.popleft()

    def connect(self) -> None:
        """TCP, TLS, CONNECT and the subscriptions, unless there is a connection. Raises: OSError, TimeoutError."""
        if self._sock is not None:
            return
        if self._thread is not None:
            self._thread.join(10)
        sock = self._dial()
        tls = None
        began = time.monotonic()
        try:
            if self._files is not None:
                tls = MemoryTls(sock, self._files)
                tls.handshake()
        except BaseException:
            sock.close()
            raise
        self.handshake_s = time.monotonic() - began
        self._connected = False
        self._greet()
        self._sock = sock
        self._thread = threading.Thread(target=self._loop, args=(sock, tls), name="engine", daemon=True)
        self._thread.start()
        with self._changed:
            if not self._changed.wait_for(lambda: self._connected or self._sock is None, CONNECT_S):
                raise TimeoutError("no CONNECTED")

    def _greet(self) -> None:
        """Its "send now" is a stack on top of what waits, so CONNECT, which is pushed last, goes first.

        But the pass that ends the handshake writes already: one of those that wait, or what is left of it, goes before.
        """
        first = self._outbox.pop() if self._outbox and self._files is not None else b""
        self._subscriptions = []
        for queue in (self._queues.responses, self._queues.events):
            if queue:
                self._subscriptions.append(str(uuid.uuid4()))
                subscribe = {"destination": queue, "id": self._subscriptions[-1], "ack": "auto"}
                self._outbox.append(frame("SUBSCRIBE", subscribe))
        asks_ms = self.limit_ms - self.limit_ms // 2
        self.asked_ms.append(asks_ms)
        hello = {"accept-version": "1.2", "host": self._identifier, "heart-beat": f"0,{asks_ms}"}
        self._outbox.append(frame("CONNECT", hello))
        if first:
            self._outbox.append(first)

    def leave(self) -> None:
        """Say goodbye as it does: unsubscribe, DISCONNECT with a receipt, and close without waiting for it."""
        for subscription in self._subscriptions:
            self._outbox.appendleft(frame("UNSUBSCRIBE", {"id": subscription}))
        self._outbox.appendleft(frame("DISCONNECT", {"receipt": str(uuid.uuid4())}))
        self._wake()
        with self._changed:
            self._changed.wait_for(lambda: not self._outbox or self._sock is None, 10)
        self.drop()

    def drop(self) -> None:
        """Be gone without a word."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(10)

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.drop()
        self._wake_in.close()
        self._wake_out.close()

    # The loop

    def _wake(self) -> None:
        self._wake_in.send(b"x")

    def _loop(self, sock: socket.socket, tls: MemoryTls | None) -> None:
        records = Records(sock, tls)
        reader = FrameReader(records)
        heard_at = time.monotonic()
        why = "closed by itself"
        try:
            while self._sock is sock:
                writers = [sock] if self._outbox else []
                ready, _, _ = select.select([sock, self._wake_out], writers, [], LOOP_S)
                if self._wake_out in ready:
                    self._wake_out.recv(4096)
                if self.lag_s:
                    time.sleep(self.lag_s)
                lay = not (ready or writers) and records.lying
                heard = reader.heard
                for message in reader.take():
                    self._take(message)
                if reader.heard != heard:
                    heard_at = time.monotonic()
                    self.slept += lay
                elif reader.at_end:
                    time.sleep(0.05)  # it does not see that; a real one spins
                if (time.monotonic() - heard_at) * 1000 > self.limit_ms:
                    raise EngineConfused(f"nothing heard for {self.limit_ms} ms")
                if self._outbox:
                    octets = self._outbox[-1]
                    (tls.send if tls is not None else sock.sendall)(octets)
                    with self._changed:
                        self._outbox.remove(octets)
                        self._changed.notify_all()
        except (OSError, EngineConfused) as error:
            why = str(error)
            self.lost.append(why)
        finally:
            sock.close()
            with self._changed:
                if self._sock is sock:
                    self._sock = None
                for call_id, answer in self._calls.items():
                    if answer is None:
                        self._calls[call_id] = Answer(NETWORK_ERROR, why)
                self._changed.notify_all()

    def _take(self, message: Message) -> None:
        with self._changed:
            if message.command == "CONNECTED":
                self._heart_beat(message.headers.get("heart-beat", ""))
                self._connected = True
            elif message.command == "MESSAGE":
                # NaN and the like are no JSON to it; whoever sent that sees a lost answer.
                with contextlib.suppress(ValueError):
                    decoded = json.loads(message.body, parse_constant=_refuse)
                    for item in decoded if isinstance(decoded, list) else [decoded]:
                        self._sort(item)
            self._changed.notify_all()

    def _heart_beat(self, text: str) -> None:
        incoming, _, outgoing = text.partition(",")
        if incoming.isdigit() and outgoing.isdigit() and int(incoming) != self.limit_ms:
            self.limit_ms = int(incoming) + int(incoming) // 2

    def _sort(self, item: dict[str, Any]) -> None:
        """An error is an error only when it is not null; then its `result` is not looked at."""
        call_id, error = item.get("id"), item.get("error")
        if error is None and call_id is None:
            if len(f"host{item['method']}".split("|")) == 4:
                self.events.append({"method": item["method"], "params": item["params"]})
            return
        if call_id not in self._calls or item.get("jsonrpc") != "2.0":
            self.unknown.append(item)
        elif error is not None:
            self._calls[call_id] = Answer(error["code"], error["message"])
        else:
            # With `"error": null` it reports success and throws the result away.
            self._calls[call_id] = Answer(0, "Done", item.get("result") if "error" not in item else None)


def frame(command: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """As it is written: headers in the order of a Java HashMap, nothing escaped, content-length last."""
    lines = [command, *(f"{name}:{headers[name]}" for name in JavaHeaders(headers))]
    if body:
        lines.append(f"content-length:{len(body)}")
    return "\n".join(lines).encode() + b"\n\n" + body + b"\0"


def _refuse(word: str) -> Any:
    raise ValueError(word)


class Records:
    """The receiving side below frames: packet buffer, one record a pass, application buffer."""

    def __init__(self, sock: socket.socket, tls: MemoryTls | None) -> None:
        self._sock = sock
        self._tls = tls
        self._packets = bytearray()
        self._plain = bytearray()
        self.at_end = False

    @property
    def lying(self) -> bool:
        """Has something come that no pass has looked at?"""
        return bool(self._packets or self._plain)

    def read(self, room: int) -> tuple[bytes, int]:
        """(octets for the reader, octets unwrapped in this very read)."""
        produced = 0
        if not self._plain:
            self._receive()
            plain = self._unwrap()
            self._plain += plain
            produced = len(plain)
        given = bytes(self._plain[:room])
        del self._plain[:room]
        return given, produced

    def _receive(self) -> None:
        room = PACKET_BUFFER - len(self._packets)
        if room and select.select([self._sock], [], [], 0)[0]:
            octets = self._sock.recv(room)
            self.at_end = not octets
            self._packets += octets

    def _unwrap(self) -> bytes:
        if self._tls is None:
            octets = bytes(self._packets)
            self._packets.clear()
            return octets
        record = cut_record(self._packets)
        return self._tls.unwrap(record) if record is not None else b""
