# SPDX-License-Identifier: Apache-2.0
"""How far long work is, when it may end, and how it is told to stop. Shared by tasks and jobs; knows neither.

The working thread calls `at` and `check`; any other thread calls `stop`. What the work waits in (a child process)
registers a way to be cut short with `interruptible`.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from vdsm_mp.api.errors_task import TaskAborted
from vdsm_mp.common.clock import mono_s


class Estimate(msgspec.Struct, frozen=True):
    """pct: 0.0 to 100.0. left_s: seconds, None while nothing can be said."""

    pct: float
    left_s: float | None


class Progress:
    """One piece of work, possibly of several weighted parts run one after the other."""

    def __init__(self, draining: Callable[[], bool] = lambda: False) -> None:
        self._lock = threading.Lock()
        self._draining = draining
        self._stopped: str | None = None
        self._cut: list[Callable[[], None]] = []
        self._began = mono_s()
        self._pct = 0.0
        self._base = 0.0
        self._span = 100.0
        self.known = False

    def part(self, from_pct: float, to_pct: float) -> None:
        """What follows is that part of the whole."""
        self._base, self._span = from_pct, to_pct - from_pct

    def at(self, pct: float) -> None:
        """The current part is so far. Never goes back."""
        whole = self._base + self._span * min(max(pct, 0.0), 100.0) / 100.0
        self._pct = max(self._pct, whole)
        self.known = True

    def estimate(self) -> Estimate:
        spent_s = mono_s() - self._began
        left_s = spent_s * (100.0 - self._pct) / self._pct if self._pct > 1.0 else None
        return Estimate(self._pct, left_s)

    def check(self) -> None:
        """Between two steps. Raises: TaskAborted (asked to stop, or the worker is ending)."""
        if self._stopped is not None:
            raise TaskAborted(self._stopped)
        if self._draining():
            raise TaskAborted("the storage worker is stopping")

    @property
    def interrupted(self) -> bool:
        """Would `check` raise? For loops that wait."""
        return self._stopped is not None or self._draining()

    def stop(self, reason: str = "stopped on request") -> None:
        """Ask the work to end at its next step, and cut short what it waits in. Any thread; asking twice is fine."""
        with self._lock:
            self._stopped = self._stopped or reason
            cut = list(self._cut)
        for function in cut:
            function()

    @contextmanager
    def interruptible(self, cut: Callable[[], None]) -> Iterator[None]:
        """While inside, `stop` calls `cut` (from its thread). Raises: TaskAborted when stopped already."""
        with self._lock:
            self._cut.append(cut)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._cut.remove(cut)
