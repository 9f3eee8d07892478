# SPDX-License-Identifier: Apache-2.0
"""Shared and exclusive claims on named storage objects, first come first served. In memory of this worker only.

Names are (kind, id…) tuples: ("pool", id), ("domain", id), ("image", sd, image), ("volume", sd, volume), … Claims
are taken in sorted order and not re-entrant: who holds a name must not claim it again.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import msgspec

from vdsm_mp.api.errors_storage import ClaimTimedOut
from vdsm_mp.common.clock import mono_s
from vdsm_mp.tasks.progress import Progress

Name = tuple[str, ...]


class _Claim(msgspec.Struct, eq=False):
    """Compared by identity: two of one holder look alike, and who gives up must take away its own."""

    exclusive: bool
    holder: str
    granted: bool = False


class _Queue(msgspec.Struct):
    holding: list[_Claim] = msgspec.field(default_factory=list)
    waiting: deque[_Claim] = msgspec.field(default_factory=deque)

    def grant(self) -> None:
        """Let in from the front: readers together, a writer alone, nobody past a writer that waits."""
        while self.waiting:
            first = self.waiting[0]
            if self.holding and (first.exclusive or self.holding[0].exclusive):
                return
            self.waiting.popleft()
            first.granted = True
            self.holding.append(first)


class Resources:
    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._queues: dict[Name, _Queue] = {}

    @contextmanager
    def claim(
        self,
        holder: str,
        *,
        shared: tuple[Name, ...] = (),
        exclusive: tuple[Name, ...] = (),
        within_s: float = 120.0,
        progress: Progress | None = None,
    ) -> Iterator[None]:
        """Hold these names inside the block. holder: for the message of whoever waits.

        A name in both counts as exclusive. progress: of work that may be told to stop while it waits; the SPM role may
        have gone meanwhile, and its work with it. Raises: ClaimTimedOut, TaskAborted; nothing is held then.
        """
        wanted = {**dict.fromkeys(shared, False), **dict.fromkeys(exclusive, True)}
        until = mono_s() + within_s
        held: list[tuple[Name, _Claim]] = []
        try:
            with nullcontext() if progress is None else progress.interruptible(self._look_again):
                for name in sorted(wanted):
                    claim = _Claim(wanted[name], holder)
                    held.append((name, claim))
                    self._take(name, claim, until, within_s, progress)
            yield
        finally:
            for name, claim in reversed(held):
                self._give_back(name, claim)

    def holders(self) -> dict[str, list[str]]:
        """{name joined by "/": holders}, for status."""
        with self._turn:
            return {"/".join(name): [c.holder for c in queue.holding] for name, queue in self._queues.items()}

    def _look_again(self) -> None:
        with self._turn:
            self._turn.notify_all()

    def _take(self, name: Name, claim: _Claim, until: float, within_s: float, progress: Progress | None) -> None:
        with self._turn:
            queue = self._queues.setdefault(name, _Queue())
            queue.waiting.append(claim)
            queue.grant()
            while not claim.granted:
                if not self._turn.wait(until - mono_s()) and not claim.granted:
                    holder = queue.holding[0].holder if queue.holding else "nobody"
                    raise ClaimTimedOut(" ".join(name), holder, within_s)
                if progress is not None:
                    progress.check()

    def _give_back(self, name: Name, claim: _Claim) -> None:
        with self._turn:
            queue = self._queues[name]
            if claim.granted:
                queue.holding.remove(claim)
            else:
                queue.waiting.remove(claim)
            queue.grant()
            if not queue.holding and not queue.waiting:
                del self._queues[name]
            self._turn.notify_all()
