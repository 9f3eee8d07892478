# SPDX-License-Identifier: Apache-2.0
"""The asking half of the bus: one DEALER per peer, made when first needed, and every question in flight.

Each question is answered exactly once: by the peer, by its deadline, or by the note that the peer is gone. A safe
verb whose worker died is asked once more of the next one, if that comes soon; nothing else is ever repeated. What
comes after that answer is dropped and counted. Runs on the loop only.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec

from vdsm_mp.api.errors import Busy, DeadlineExceeded, InvalidParameters, PeerRestarted, StillStarting
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.ipc import codec, trace
from vdsm_mp.ipc.envelope import BUS_VERSION, Broken, Reply, Request, Seal, replies
from vdsm_mp.ipc.pump import Pump
from vdsm_mp.ipc.wires import QUEUE, Wires

logger = log.named(__name__)

#: (encoded result, None) or (None, error).
Done = Callable[[bytes | None, Error | None], None]
#: Room for the header beside the body.
HEADER_ROOM = 8192
#: A safe question waits for the next worker so long: a restart takes less than one second. Where a back-off of up to
#: half a minute comes first, who asks hears so as those do who ask meanwhile.
NEXT_WORKER_S = 5.0


class Question(msgspec.Struct, eq=False):
    """One question in flight, from `Calls.ask` to its one answer."""

    kind: Literal["call", "last"]
    to: str
    verb: str
    safe: bool
    params: bytes
    asked_mono: float
    deadline_mono: float
    flow: str
    peer: str
    done: Done | None
    id: int = 0
    again: bool = False
    link: "_Link | None" = None
    timer: asyncio.TimerHandle | None = None

    def answer(self, body: bytes | None, error: Error | None) -> None:
        """Deliver the answer, once; later ones do nothing."""
        done, self.done = self.done, None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if done is not None:
            done(body, error)


class _Link(msgspec.Struct, eq=False):
    """The way to one incarnation of a peer."""

    name: str
    epoch: int
    pump: Pump | None = None
    waiting: dict[int, Question] = msgspec.field(default_factory=dict)


def _unlink(question: Question) -> None:
    link, question.link = question.link, None
    if link is not None:
        link.waiting.pop(question.id, None)


class Calls:
    """Every question of this worker. All methods on the loop."""

    def __init__(self, worker: str, epoch: int, seal: Seal, counts: "Counter[str]") -> None:
        self._worker = worker
        self._epoch = epoch
        self._seal = seal
        self._counts = counts
        self._ids = itertools.count(1)
        self._links: dict[str, _Link] = {}
        self._parked: dict[str, list[Question]] = {}
        self._wires: Wires | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.traced = False

    def open(self, loop: asyncio.AbstractEventLoop, wires: Wires) -> None:
        self._loop = loop
        self._wires = wires

    def ask(self, question: Question) -> None:
        """Send a question to its peer, or answer it at once: StillStarting (the peer is not there), Busy, …"""
        assert self._loop is not None and self._wires is not None
        if len(question.params) > self._wires.max_message_bytes - HEADER_ROOM:
            question.answer(None, InvalidParameters(question.verb, "larger than a message may be"))
            return
        link = self._links.get(question.to)
        if link is None:
            question.answer(None, StillStarting())
            return
        if time.monotonic() >= question.deadline_mono:
            self.too_late(question)
            return
        if self._send(link, question):
            self._time(question, question.deadline_mono)

    def _time(self, question: Question, at_mono: float) -> None:
        """When it is answered if nobody does; the time that was set before goes."""
        assert self._loop is not None
        if question.timer is not None:
            question.timer.cancel()
        question.timer = None if question.done is None else self._loop.call_at(at_mono, self.too_late, question)

    def _send(self, link: _Link, question: Question) -> bool:
        if len(link.waiting) >= QUEUE:
            question.answer(None, Busy(f"the {link.name} worker"))
            return False
        assert self._loop is not None and self._wires is not None
        if link.pump is None:
            socket = self._wires.dealer(self._wires.path(link.name, link.epoch, "call"))
            link.pump = Pump(self._loop, socket, lambda frames: self._take(link, frames))
        question.id = next(self._ids)
        header = Request(
            BUS_VERSION,
            question.kind,
            question.id,
            self._worker,
            self._epoch,
            link.name,
            question.verb,
            question.deadline_mono,
            question.flow,
            question.peer,
        )
        body = question.params
        # Waiting before sending: the answer may be read inside send().
        link.waiting[question.id] = question
        question.link = link
        if not link.pump.send((self._seal.close(header, body), body)):
            del link.waiting[question.id]
            question.link = None
            question.answer(None, Busy(f"the {link.name} worker"))
            return False
        if self.traced:
            trace.request(">", link.name, header, body)
        return True

    def _take(self, link: _Link, frames: list[bytes]) -> None:
        if len(frames) != 2:
            self._broken(link, f"{len(frames)} frames")
            return
        frame, body = frames
        try:
            header: Reply = self._seal.open(replies, frame, body)
        except Broken as error:
            self._broken(link, str(error))
            return
        if self.traced:
            trace.reply("<", link.name, header, body)
        if header.sender != link.name or header.epoch != link.epoch:
            self._broken(link, f"an answer of {header.sender}.{header.epoch}")
            return
        question = link.waiting.pop(header.id, None)
        if question is None:
            self._counts["late_replies"] += 1
        elif header.kind == "done":
            question.answer(body, None)
        else:
            question.answer(None, codec.decode_failure(body))

    def _broken(self, link: _Link, why: str) -> None:
        self._counts["broken_replies"] += 1
        logger.warning("refused a message from the path of %s.%d: %s", link.name, link.epoch, why)

    def too_late(self, question: Question) -> None:
        """The deadline of a question has passed."""
        parked = self._parked.get(question.to, [])
        if question in parked:
            parked.remove(question)
            question.answer(None, StillStarting())
            return
        _unlink(question)
        self._counts["deadlines"] += 1
        allowed_s = max(0.0, question.deadline_mono - question.asked_mono)
        question.answer(None, DeadlineExceeded(question.verb, round(allowed_s, 3)))

    def forget(self, question: Question) -> None:
        """Nobody wants the answer any more; when it comes it is counted as late."""
        _unlink(question)
        question.done = None
        question.answer(None, None)

    def peer_up(self, name: str, epoch: int) -> None:
        """The master says that this incarnation of a worker is ready."""
        link = self._links.get(name)
        if link is not None:
            if link.epoch >= epoch:
                return
            self._lose(link)
        link = self._links[name] = _Link(name, epoch)
        for question in self._parked.pop(name, []):
            if question.done is not None:
                self._counts["asked_again"] += 1
                self._time(question, question.deadline_mono)
                self._send(link, question)

    def peer_down(self, name: str, epoch: int) -> None:
        """The master says that it is gone: whatever it was asked is answered now."""
        link = self._links.get(name)
        if link is not None and link.epoch <= epoch:
            self._lose(link)

    def _lose(self, link: _Link) -> None:
        del self._links[link.name]
        if link.pump is not None:
            link.pump.close()
        lost, link.waiting = link.waiting, {}
        for question in lost.values():
            question.link = None
            if question.safe and not question.again:
                question.again = True
                self._parked.setdefault(link.name, []).append(question)
                self._time(question, min(question.deadline_mono, time.monotonic() + NEXT_WORKER_S))
            elif question.safe:
                question.answer(None, StillStarting())
            else:
                question.answer(None, PeerRestarted(link.name, question.verb))

    def close(self) -> None:
        """Answer everything that waits with StillStarting or PeerRestarted, and close."""
        for link in list(self._links.values()):
            self._lose(link)
        parked, self._parked = self._parked, {}
        for questions in parked.values():
            for question in questions:
                question.answer(None, StillStarting())

    def in_flight(self) -> dict[str, int]:
        return {name: len(link.waiting) for name, link in self._links.items()}
