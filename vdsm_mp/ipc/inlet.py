# SPDX-License-Identifier: Apache-2.0
"""The subscribing half of events (`ipc/events.py`): follows each publisher's numbers, and catches up. On the loop."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from vdsm_mp.api.event import EventSpec, spec_of
from vdsm_mp.api.verb import Message
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.ipc import trace
from vdsm_mp.ipc.calls import Done
from vdsm_mp.ipc.codec import UNDECODABLE
from vdsm_mp.ipc.envelope import BUS_VERSION, Broken, Notice, Seal, notices
from vdsm_mp.ipc.events import END, LastValues
from vdsm_mp.ipc.pump import Pump
from vdsm_mp.ipc.wires import Wires

logger = log.named(__name__)

#: Events held back per publisher and topic while the last values are on their way.
MOST_HELD = 1000
ASK_AGAIN_S = 1.0

_last_values = msgspec.json.Decoder(LastValues)


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


#: Ask a publisher for the last values of a topic: (publisher, topic, done).
AskLast = Callable[[str, str, Done], None]


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

    def _ask_again(self, track: _Track, epoch: int, done: Done) -> None:
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
