# SPDX-License-Identifier: Apache-2.0
"""Events between workers: numbered per publisher, epoch and topic, so that a loss is always noticed.

PUB/SUB may drop (a slow subscriber, one that joined late, a restart) and says nothing. So the publisher numbers its
events and, on every new subscription and now and then, sends a mark with the newest number. A subscriber that sees
a gap or a new epoch asks the publisher for the last values, hands them to the subscriber's function as if they had
just happened, and then calls `resync`. All queues are bounded; a full one is one more gap. Runs on the loop;
only `Outlet.publish` is for any thread.
"""

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from vdsm_mp.api.event import EVENTS, EventSpec, spec_of
from vdsm_mp.api.verb import Message
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.ipc import trace
from vdsm_mp.ipc.codec import UNDECODABLE
from vdsm_mp.ipc.envelope import BUS_VERSION, Broken, Notice, Seal, notices
from vdsm_mp.ipc.inbox import Inbox
from vdsm_mp.ipc.pump import Pump
from vdsm_mp.ipc.wires import LINGER_MS, Wires

logger = log.named(__name__)

#: Events of this worker waiting for its loop.
MOST_WAITING = 10_000
#: Last values kept per topic; the one not published for longest goes first.
MOST_LAST_VALUES = 4096
#: Events held back per publisher and topic while the last values are on their way.
MOST_HELD = 1000
#: A mark follows an event after the first, and is repeated every second interval: a lost tail is noticed by then.
MARK_AFTER_S = 0.5
MARK_EVERY_S = 10.0
ASK_AGAIN_S = 1.0

#: Ends a topic, so that no topic is the beginning of another one.
END = b"\0"

_encode = msgspec.json.Encoder().encode


class LastValues(msgspec.Struct, array_like=True, frozen=True):
    """The answer to `last`: the newest value per key, oldest first, and the number they are true for."""

    number: int
    values: list[msgspec.Raw]


_last_values = msgspec.json.Decoder(LastValues)


class Outlet:
    """The publishing half."""

    def __init__(self, worker: str, epoch: int, seal: Seal, inbox: Inbox, counts: "Counter[str]") -> None:
        self._worker = worker
        self._epoch = epoch
        self._seal = seal
        self._inbox = inbox
        self._counts = counts
        self._queue: deque[tuple[EventSpec, object, bytes]] = deque()
        self._lock = threading.Lock()
        #: What did not fit into the queue: only the newest value per key, so that no last value is lost.
        self._overflow: dict[tuple[str, object], tuple[EventSpec, object, bytes]] = {}
        self._numbers: Counter[str] = Counter()
        self._last: dict[str, dict[object, bytes]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pump: Pump | None = None
        self._marking: asyncio.TimerHandle | None = None
        self._unmarked: set[str] = set()
        self.traced = False

    def open(self, loop: asyncio.AbstractEventLoop, wires: Wires) -> None:
        self._loop = loop
        self._pump = Pump(loop, wires.publisher(wires.path(self._worker, self._epoch, "events")), self._subscribed)
        self._mark_all()

    def publish(self, event: Message) -> None:
        """See `ports.Publisher`. Any thread; also before `open`."""
        try:
            spec = spec_of(type(event))
            key = None if spec.last_value_by is None else getattr(event, spec.last_value_by)
            body = _encode(event)
        except Exception:
            logger.exception("%s cannot be published", type(event).__name__)
            return
        on_loop = self._inbox.on_loop
        if on_loop:
            self._flush()
        with self._lock:
            if len(self._queue) < MOST_WAITING:
                self._queue.append((spec, key, body))
            else:
                self._overflow[spec.topic, key] = (spec, key, body)
        if on_loop:
            self._flush()
        else:
            self._inbox.put(self._flush)

    def _flush(self) -> None:
        if not self._queue:
            return
        with self._lock:
            queue, self._queue = self._queue, deque()
            overflow, self._overflow = self._overflow, {}
        for spec, key, body in queue:
            self._send(spec, key, body)
        if overflow:
            self._counts["events_overflowed"] += 1
            # A number nobody gets: every subscriber sees the gap.
            for topic in EVENTS:
                self._numbers[topic] += 1
            for spec, key, body in overflow.values():
                self._send(spec, key, body)

    def _send(self, spec: EventSpec, key: object, body: bytes) -> None:
        self._numbers[spec.topic] += 1
        if key is not None:
            kept = self._last.setdefault(spec.topic, {})
            kept.pop(key, None)
            kept[key] = body
            if len(kept) > MOST_LAST_VALUES:
                del kept[next(iter(kept))]
        self._notify(spec.topic, "event", body)
        self._unmarked.add(spec.topic)
        if self._marking is None and self._loop is not None:
            self._marking = self._loop.call_later(MARK_AFTER_S, self._mark_new)

    def _notify(self, topic: str, kind: Any, body: bytes) -> None:
        if self._pump is None:
            return
        header = Notice(BUS_VERSION, kind, self._worker, self._epoch, self._numbers[topic])
        prefix = topic.encode() + END
        self._pump.send((prefix, self._seal.close(header, body, prefix), body))
        if self.traced:
            trace.notice(">", topic, header, body)

    def _subscribed(self, frames: list[bytes]) -> None:
        topic = frames[0][1:].removesuffix(END).decode("utf-8", "replace")
        if frames[0][:1] == b"\1" and topic in EVENTS:
            self._notify(topic, "mark", b"")

    def _mark_new(self) -> None:
        self._marking = None
        topics, self._unmarked = self._unmarked, set()
        for topic in topics:
            self._notify(topic, "mark", b"")

    def _mark_all(self) -> None:
        for topic in self._numbers:
            self._notify(topic, "mark", b"")
        if self._loop is not None and self._pump is not None:
            self._loop.call_later(MARK_EVERY_S, self._mark_all)

    def last_values(self, topic: str) -> bytes:
        """The body of the answer to `last`. A topic that was never published has number 0."""
        self._flush()
        values = [msgspec.Raw(body) for body in self._last.get(topic, {}).values()]
        return _encode(LastValues(self._numbers[topic], values))

    def close(self) -> None:
        if self._pump is not None:
            self._pump.close(LINGER_MS)
            self._pump = None


class _Subscription(msgspec.Struct, eq=False):
    spec: EventSpec
    decoder: "msgspec.json.Decoder[Any]"
    #: (function, resync), in the order of subscription.
    functions: list[tuple[Callable[[Any], None], Callable[[str], None] | None]] = msgspec.field(default_factory=list)


class _Track(msgspec.Struct, eq=False):
    """Where we are with one topic of one publisher. held: not None while its last values are on their way."""

    sender: str
    topic: str
    epoch: int = -1
    number: int = 0
    held: deque[tuple[int, bytes | None]] | None = None


#: Ask a publisher for the last values of a topic: (publisher, topic, done(body or None)).
AskLast = Callable[[str, str, Callable[[bytes | None, Error | None], None]], None]


class Inlet:
    """The subscribing half."""

    def __init__(self, seal: Seal, ask_last: AskLast, counts: "Counter[str]") -> None:
        self._seal = seal
        self._ask_last = ask_last
        self._counts = counts
        self._subscriptions: dict[str, _Subscription] = {}
        self._tracks: dict[tuple[str, str], _Track] = {}
        self._peers: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wires: Wires | None = None
        self._socket: Any = None
        self._pump: Pump | None = None
        self.traced = False

    def open(self, loop: asyncio.AbstractEventLoop, wires: Wires) -> None:
        self._loop = loop
        self._wires = wires
        if self._subscriptions:
            self._listen()

    def _listen(self) -> None:
        assert self._loop is not None and self._wires is not None
        self._socket = self._wires.subscriber()
        for topic in self._subscriptions:
            self._socket.subscribe(topic.encode() + END)
        self._pump = Pump(self._loop, self._socket, self._take)
        for name, epoch in self._peers.items():
            self._socket.connect(self._wires.path(name, epoch, "events"))

    def subscribe(
        self, event: type[Message], function: Callable[[Any], None], resync: Callable[[str], None] | None
    ) -> None:
        """See `Bus.subscribe`."""
        spec = spec_of(event)
        known = self._subscriptions.get(spec.topic)
        if known is None:
            known = self._subscriptions[spec.topic] = _Subscription(spec, msgspec.json.Decoder(event))
            if self._socket is not None:
                self._socket.subscribe(spec.topic.encode() + END)
            elif self._wires is not None:
                self._listen()
        known.functions.append((function, resync))

    def peer_up(self, name: str, epoch: int) -> None:
        old = self._peers.get(name)
        if old is not None:
            if old >= epoch:
                return
            self.peer_down(name, old)
        self._peers[name] = epoch
        if self._socket is not None and self._wires is not None:
            self._socket.connect(self._wires.path(name, epoch, "events"))

    def peer_down(self, name: str, epoch: int) -> None:
        old = self._peers.get(name)
        if old is None or old > epoch:
            return
        del self._peers[name]
        if self._socket is not None and self._wires is not None:
            self._socket.disconnect(self._wires.path(name, old, "events"))
        for track in self._tracks.values():
            if track.sender == name:
                track.held = None

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) != 3:
            self._counts["broken_events"] += 1
            return
        prefix, frame, body = frames
        subscription = self._subscriptions.get(prefix.removesuffix(END).decode("utf-8", "replace"))
        if subscription is None:
            return
        try:
            header: Notice = self._seal.open(notices, frame, body, prefix)
        except Broken as error:
            self._counts["broken_events"] += 1
            logger.warning("refused an event: %s", error)
            return
        topic = subscription.spec.topic
        if self.traced:
            trace.notice("<", topic, header, body)
        track = self._tracks.setdefault((header.sender, topic), _Track(header.sender, topic))
        current = self._peers.get(header.sender) == header.epoch
        if not current and track.epoch != header.epoch:
            # Of an incarnation that we never listened to, or not any more.
            return
        self._follow(subscription, track, header, body if header.kind == "event" else None)

    def _follow(self, subscription: _Subscription, track: _Track, header: Notice, body: bytes | None) -> None:
        if track.epoch != header.epoch:
            track.epoch = header.epoch
            self._catch_up(subscription, track, header.number, body)
        elif track.held is not None:
            if len(track.held) < MOST_HELD:
                track.held.append((header.number, body))
        elif body is not None and header.number == track.number + 1:
            track.number = header.number
            self._deliver(subscription, body)
        elif header.number > track.number:
            self._counts["event_gaps"] += 1
            self._catch_up(subscription, track, header.number, body)

    def _catch_up(self, subscription: _Subscription, track: _Track, number: int, body: bytes | None) -> None:
        """Something was missed before `number`: fetch what is kept, and tell the subscribers."""
        if subscription.spec.last_value_by is None or number == 0:
            track.number = number if body is None else number - 1
            self._settle(subscription, track, deque([(number, body)]))
            return
        track.held = deque([(number, body)])
        self._ask_last(track.sender, track.topic, partial(self._answered, subscription, track, track.epoch))

    def _answered(
        self, subscription: _Subscription, track: _Track, epoch: int, body: bytes | None, error: Error | None
    ) -> None:
        if track.epoch != epoch or track.held is None or self._loop is None:
            return
        try:
            if body is None:
                raise error or Error()
            last = _last_values.decode(body)
        except (Error, *UNDECODABLE) as problem:
            logger.warning("the last values of %s from %s: %s", track.topic, track.sender, problem)
            again = partial(self._answered, subscription, track, epoch)
            self._loop.call_later(ASK_AGAIN_S, self._ask_again, track, epoch, again)
            return
        held, track.held = track.held, None
        track.number = last.number
        for value in last.values:
            self._deliver(subscription, bytes(value))
        self._settle(subscription, track, held)

    def _ask_again(self, track: _Track, epoch: int, done: Callable[[bytes | None, Error | None], None]) -> None:
        if track.epoch == epoch and track.held is not None and self._peers.get(track.sender) == epoch:
            self._ask_last(track.sender, track.topic, done)

    def _settle(self, subscription: _Subscription, track: _Track, held: "deque[tuple[int, bytes | None]]") -> None:
        self._counts["resyncs"] += 1
        for _, resync in subscription.functions:
            if resync is not None:
                _guarded(resync, track.sender)
        while held:
            number, body = held.popleft()
            self._follow(subscription, track, Notice(BUS_VERSION, "event", track.sender, track.epoch, number), body)

    def _deliver(self, subscription: _Subscription, body: bytes) -> None:
        try:
            event = subscription.decoder.decode(body)
        except UNDECODABLE as error:
            self._counts["broken_events"] += 1
            logger.error("an event %s is not what is declared: %s", subscription.spec.topic, error)
            return
        for function, _ in subscription.functions:
            _guarded(function, event)

    def close(self) -> None:
        if self._pump is not None:
            self._pump.close()
            self._pump = self._socket = None
        self._peers.clear()


def _guarded(function: Callable[[Any], None], argument: object) -> None:
    try:
        function(argument)
    except Exception:
        logger.exception("a subscriber's function failed on %.200r", argument)
