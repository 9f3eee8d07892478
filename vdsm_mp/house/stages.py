# SPDX-License-Identifier: Apache-2.0
"""How a house is emptied: stage after stage, each told to leave when the one before is gone or overdue.

Stages and times are in the process table. Nothing waits here: `go_on` is called whenever somebody has ended, `beat`
with time.
"""

import time
from collections.abc import Callable, Iterable

from vdsm_mp.common import log
from vdsm_mp.house import killing, members
from vdsm_mp.house.members import State, Worker
from vdsm_mp.ipc import control

logger = log.named("master")

#: A second SIGTERM leaves each stage this long.
HURRY_S = 1.0


class Stages:
    """tell: gives a worker a note."""

    def __init__(self, workers: Iterable[Worker], tell: Callable[[Worker, control.Note], object]) -> None:
        self._workers = tuple(workers)
        self._tell = tell
        self._stage = -1
        self._ends_mono = 0.0
        self._hurry = False

    def hurry(self) -> None:
        """Shorten all deadlines."""
        if not self._hurry:
            logger.warning("told to stop once more: deadlines are shortened to %gs", HURRY_S)
        self._hurry = True
        self._ends_mono = min(self._ends_mono, time.monotonic() + HURRY_S)

    def go_on(self) -> bool:
        """Tell the next stage to leave once the one before is gone. True: nobody is left."""
        alive = [w for w in self._workers if w.process is not None]
        if any(w.spec.stage <= self._stage for w in alive):
            return False
        if not alive:
            return True
        self._stage = min(w.spec.stage for w in alive)
        leaving = [w for w in alive if w.spec.stage == self._stage]
        grace_s = HURRY_S if self._hurry else max(w.spec.grace_s for w in leaving)
        self._ends_mono = time.monotonic() + grace_s
        for worker in leaving:
            worker.state = State.LEAVING
            self._tell(worker, control.Leave(within_s=max(0.2, grace_s - 0.5)))
        return False

    def beat(self, now: float) -> None:
        """End those whose stage is overdue."""
        if now < self._ends_mono:
            return
        self._ends_mono = now + members.DUMP_S + members.KILL_S + 1.0
        for worker in self._workers:
            process = worker.process
            if process is not None and worker.spec.stage <= self._stage and not process.killing:
                why = f"did not leave within {worker.spec.grace_s:g} s"
                killing.begin(process, why, now, stacks=not self._hurry)
