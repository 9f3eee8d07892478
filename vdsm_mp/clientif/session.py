# SPDX-License-Identifier: Apache-2.0
"""One STOMP client: its frames, subscriptions, heart-beats, and calls in flight.

Replies go to the connection that asked. A client that asks faster than it can be served, or does not read its answers,
is not read itself until that changes; one that writes and never reads is dropped.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from vdsm_mp.clientif.ears import Ears, message_head
from vdsm_mp.clientif.heartbeats import Heartbeats
from vdsm_mp.clientif.inflight import InFlight
from vdsm_mp.clientif.limits import ENGINE_GAP_S, Limits
from vdsm_mp.clientif.nudge import Nudge
from vdsm_mp.clientif.patience import Patience
from vdsm_mp.clientif.quota import Quota
from vdsm_mp.clientif.router import Caller, Router
from vdsm_mp.clientif.stream import Stream
from vdsm_mp.clientif.subscriptions import Broker, TooMuch
from vdsm_mp.common import log
from vdsm_mp.wire import jsonrpc, stomp

logger = log.named(__name__)

_MAX_FLOW_ID = 64
_MAX_RECEIPT = 512
#: A refused client has this long to read why.
_LAST_WORDS_S = 0.25


class Session:
    """See the module. On the loop only. ended: called once, when the connection is gone."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stream: Stream,
        caller: Caller,
        *,
        router: Router,
        broker: Broker,
        quota: Quota,
        request_queues: Sequence[str],
        limits: Limits,
        ended: Callable[["Session"], None],
    ) -> None:
        self._loop = loop
        self.stream = stream
        self.caller = caller
        self._router = router
        self._broker = broker
        self._ears = Ears(broker, caller.name, limits.subscriptions_per_connection)
        self._quota = quota
        self._queues = frozenset(request_queues)
        self._queue_prefixes = tuple(f"{queue}." for queue in request_queues)
        self._limits = limits
        self._ended = ended
        self._parser = stomp.Parser()
        self._in_flight = InFlight(loop, router, caller)
        self._heartbeats = Heartbeats(loop, stream)
        self._more: asyncio.Handle | None = None
        self._patience = Patience(loop, stream, limits, self.go_on)
        self._leaving = False
        #: Nothing more is read.
        self._full = False
        self.dropped = False
        self.is_engine = False
        # Until it has said who it is: in clear text the engine subscribes before that.
        stream.gap_s = ENGINE_GAP_S

    @property
    def calls(self) -> int:
        """Calls in flight."""
        return self._in_flight.calls

    def start(self, octets: bytes) -> None:
        """Begin with what was read to find out that this is STOMP."""
        self.stream.start(self._took, self._lost, self._patience.drained)
        self._took(octets)

    def _took(self, octets: bytes) -> None:
        if self._leaving:
            return
        self._parser.feed(octets)
        if self._more is None:
            self._turn()

    def _turn(self) -> None:
        """Handle frames until there are none, it is the others' turn, or answers must go out first."""
        self._more = None
        if self._full:
            return
        for _ in range(self._limits.frames_per_turn):
            if self._leaving or not self.stream.open:
                return
            if self._must_wait():
                self.stream.pause()
                return
            try:
                frame = self._parser.next()
            except stomp.Broken as error:
                self._refuse(str(error))
                return
            if frame is None:
                self._quota.waits_for_rest(self, self._parser.pending)
                self.stream.resume()
                return
            self._handle(frame)
        if self._leaving or not self.stream.open:
            return
        if self._parser.pending:
            self.stream.pause()
            self._more = self._loop.call_soon(self._turn)

    def _must_wait(self) -> bool:
        if self._in_flight.calls >= self._limits.calls_per_connection or self._patience.must_wait():
            return True
        return not self._quota.may_call(self)

    def take_no_more(self) -> None:
        """Read nothing more, so that it comes to an end."""
        self._full = True
        self.stream.pause()

    def go_on(self) -> None:
        """What this session had to wait for may be over."""
        if self._more is None and not self.stream.reading and not self._leaving and self.stream.open:
            self._more = self._loop.call_soon(self._turn)

    def _handle(self, frame: stomp.Frame) -> None:
        if frame.command == "SEND":
            self._send(frame)
        elif frame.command == "SUBSCRIBE":
            self._tell(self._ears.subscribe(frame.headers, self))
        elif frame.command == "UNSUBSCRIBE":
            self._tell(self._ears.unsubscribe(frame.headers, self))
        elif frame.command == "CONNECT":
            self._connect(frame)
        elif frame.command == "DISCONNECT":
            self._disconnect(frame)
        else:
            self._refuse(f"Unknown command: {jsonrpc.shown(frame.command)}")

    def _connect(self, frame: stomp.Frame) -> None:
        headers = frame.headers
        if headers.get("accept-version") != "1.2":
            self._error("Version unsupported")
            return
        if "host" in headers:
            # Of the two known clients only the engine names a host.
            self._greet_engine()
        elif not self.is_engine:
            self.stream.gap_s = 0.0
        agreed = self._heartbeats.agree(headers.get("heart-beat", "0,0"), self.drop, engine=self.is_engine)
        self.stream.write(stomp.encode("CONNECTED", (("version", "1.2"), ("heart-beat", agreed))))

    def _greet_engine(self) -> None:
        if not self.is_engine:
            self.is_engine = True
            self.stream.gap_s = ENGINE_GAP_S
            self.stream.nudge = Nudge(self._loop, self._heartbeats.beat)

    def _disconnect(self, frame: stomp.Frame) -> None:
        receipt = frame.headers.get("receipt", "")
        if not receipt or len(stomp.escape(receipt).encode()) > _MAX_RECEIPT:
            self.close()
            return
        # The peer closes.
        self.stream.write(stomp.encode("RECEIPT", (("receipt-id", receipt),)))

    def _send(self, frame: stomp.Frame) -> None:
        destination = frame.headers.get("destination", "")
        if destination in self._queues or destination.startswith(self._queue_prefixes):
            self._request(frame)
        elif not destination or not self._may_tell(destination) or not self._passed_on(destination, frame):
            self._error("Subscription not available")

    def _passed_on(self, destination: str, frame: stomp.Frame) -> bool:
        try:
            return self._broker.pass_on(destination, frame)
        except TooMuch as error:
            logger.warning("a message of %s to %s: %s", self.caller.name, jsonrpc.shown(destination), error)
            return False

    def _may_tell(self, destination: str) -> bool:
        return self.caller.trusted or destination in self._ears.destinations

    def _request(self, frame: stomp.Frame) -> None:
        headers = frame.headers
        reply_to = headers.get("reply-to", "")
        if reply_to.startswith("jms.topic."):
            self._greet_engine()
        parsed = jsonrpc.parse(frame.body)
        if not parsed.batch:
            item = parsed.items[0]
            if isinstance(item, jsonrpc.Refused):
                self._reply(reply_to, jsonrpc.error(item.id, item.code, item.message))
                return
            reply = self._router.at_once(item, self.caller)
            if isinstance(reply, bytes):
                if item.id:
                    self._reply(reply_to, reply)
                return
        self._quota.took(len(parsed.items))
        self._in_flight.start(parsed, _flow_id(headers), partial(self._reply, reply_to), self._calls_ended)

    def _calls_ended(self, calls: int) -> None:
        self._quota.gave_back(calls)
        self.go_on()

    def _reply(self, reply_to: str, body: bytes) -> None:
        head = self._ears.reply_head(reply_to, engine=self.is_engine)
        if head is not None:
            self._write(stomp.with_body(head, body))

    def deliver(self, destination: str, subscription: str, body: bytes) -> None:
        """See `subscriptions.Listener`."""
        self._write(stomp.with_body(message_head(destination, subscription), body))

    def pass_on(self, subscription: str, frame: stomp.Frame) -> None:
        """See `subscriptions.Listener`. What would not fit into the header block of a frame is not passed on."""
        headers = [
            (name, text) for name, text in frame.headers.items() if name not in ("content-length", "subscription")
        ]
        try:
            message = stomp.encode("MESSAGE", (*headers, ("subscription", subscription)), frame.body)
        except stomp.TooLong as error:
            logger.warning("a message for %s is not passed on: %s", self.caller.name, error)
            return
        self._write(message)

    def _write(self, frame: bytes) -> None:
        stream = self.stream
        stream.write(frame)
        if stream.unread_bytes > self._limits.unread_hard_bytes and stream.unread_bytes > len(frame):
            self.drop(f"{stream.unread_bytes} octets are waiting and it does not read")
        elif stream.unread_bytes:
            self._quota.check_unread()

    def _tell(self, why_not: str) -> None:
        if why_not:
            self._error(why_not)

    def _error(self, text: str) -> None:
        self.stream.write(stomp.encode("ERROR", (), text.encode("utf-8", "replace")))

    def _refuse(self, why: str) -> None:
        """Say what is wrong, then close: what follows cannot be understood."""
        logger.info("closing %s: %s", self.caller.name, why)
        self._error(why)
        self._leave()
        self.stream.pause()
        self._loop.call_later(_LAST_WORDS_S, self.reset)

    def _leave(self) -> None:
        """Stop everything that belongs to the session but the stream."""
        if self._leaving:
            return
        self._leaving = True
        self._heartbeats.stop()
        self._patience.end()
        if self._more is not None:
            self._more.cancel()
            self._more = None
        self._ears.close(self)
        self._in_flight.cancel()

    def _lost(self, why: str) -> None:
        logger.debug("%s has gone: %s", self.caller.name, why)
        self._leave()
        self._ended(self)

    def drop(self, why: str) -> None:
        """Throw the client out, so that it notices."""
        logger.warning("dropping %s: %s", self.caller.name, why)
        self.dropped = True
        self.reset()

    def reset(self) -> None:
        """Close with RST."""
        self._leave()
        if self.stream.open:
            self.stream.reset()
            self._ended(self)

    def close(self) -> None:
        """Close with FIN, for a client that asked to leave."""
        self._leave()
        if self.stream.open:
            self.stream.close()
            self._ended(self)


def _flow_id(headers: Mapping[str, str]) -> str:
    """The client's flow id as it may stand in a log."""
    return jsonrpc.printable(headers.get(stomp.FLOW_ID, "")[:_MAX_FLOW_ID])
