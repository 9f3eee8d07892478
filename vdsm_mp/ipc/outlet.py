# SPDX-License-Identifier: Apache-2.0
"""The publishing half of events (`ipc/events.py`). Runs on the loop; only `Outlet.publish` is for any thread."""

import asyncio
import threading
from collections import Counter, deque
from typing import Any

import msgspec

from vdsm_mp.api.event import EVENTS, EventSpec, spec_of
from vdsm_mp.api.verb import Message
from vdsm_mp.common import log
from vdsm_mp.ipc import trace
from vdsm_mp.ipc.envelope import BUS_VERSION, Notice, Seal
from vdsm_mp.ipc.events import END, LastValues
from vdsm_mp.ipc.inbox import Inbox
from vdsm_mp.ipc.pump import Pump
from vdsm_mp.ipc.wires import LINGER_MS, Wires

logger = log.named(__name__)

#: Events of this worker waiting for its loop.
MOST_WAITING = 10_000
#: Last values kept per topic; the one not published for longest goes first.
MOST_LAST_VALUES = 4096
#: A mark follows an event after the first, and is repeated every second interval: a lost tail is noticed by then.
MARK_AFTER_S = 0.5
MARK_EVERY_S = 10.0

_encode = msgspec.json.Encoder().encode


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
