# SPDX-License-Identifier: Apache-2.0
"""The state of the SPM role on this host, and who may change it. Pure but for its lock; `spm.py` does what it takes.

    FREE -> CONTEND -> SPM          each arrow is one step: of two who ask at the same moment one is refused
              |         |
              +--ending-+-> FREE    one gives it back, others wait for that

While it ends the lease may still be ours, so clients still read the old word; nothing new of the role begins.
"""

import enum
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vdsm_mp.api.errors_storage import IsSpm
from vdsm_mp.api.errors_task import TaskAborted

#: For whoever gives the role up: its tasks, the mailbox and sanlock each have less.
_ENDS_WITHIN_S = 120.0


class SpmState(enum.Enum):
    """value: as the engine reads it."""

    FREE = "Free"
    CONTEND = "Contend"
    SPM = "SPM"


class Role:
    """Thread-safe."""

    def __init__(self) -> None:
        self._turn = threading.Condition(threading.RLock())
        self._state = SpmState.FREE
        self._ending = False
        self._unwanted = ""
        #: How often it was begun: what was planned in one time is not done in another.
        self.times = 0

    @property
    def state(self) -> SpmState:
        return self._state

    @property
    def ours(self) -> bool:
        """SPM, and not about to be it no more."""
        with self._turn:
            return self._state is SpmState.SPM and not self._ending

    @contextmanager
    def still(self) -> Iterator[None]:
        """Inside, nobody takes a step. For moments."""
        with self._turn:
            yield

    def contend(self, pool_id: str) -> None:
        """Raises: IsSpm (656)."""
        with self._turn:
            if self._state is not SpmState.FREE:
                raise IsSpm(pool_id, f"this host is {self._state.value} already")
            self._state = SpmState.CONTEND
            self._unwanted = ""
            self.times += 1

    def win(self) -> None:
        """Raises: TaskAborted (it was asked to end meanwhile)."""
        with self._turn:
            if self._unwanted:
                raise TaskAborted(self._unwanted)
            self._state = SpmState.SPM

    def begin_end(self, reason: str) -> bool:
        """True: the caller gives the role up, and says `ended` or `stays`.

        False: there is none (any more); who contends for it is told, and gives it up.
        """
        with self._turn:
            if self._state is SpmState.CONTEND:
                self._unwanted = reason
                return False
            return self._begin_end()

    def begin_failure(self) -> bool:
        """As `begin_end`, of whoever contended for it and has failed, maybe after it had won."""
        with self._turn:
            return self._begin_end()

    def _begin_end(self) -> bool:
        if self._ending:
            self._turn.wait_for(lambda: not self._ending, _ENDS_WITHIN_S)
            return False
        if self._state is SpmState.FREE:
            return False
        self._ending = True
        return True

    def stays(self) -> None:
        """It could not be given up."""
        with self._turn:
            self._ending = False
            self._turn.notify_all()

    def ended(self) -> None:
        with self._turn:
            self._state = SpmState.FREE
            self._ending = False
            self._turn.notify_all()
