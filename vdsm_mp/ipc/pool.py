# SPDX-License-Identifier: Apache-2.0
"""Threads for blocking work, made on demand and bounded, and the queue before them. Knows neither keys nor calls."""

import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from vdsm_mp.api.errors import Busy
from vdsm_mp.common import log

logger = log.named(__name__)

#: A thread that has had nothing to do for so long ends.
IDLE_S = 30.0


class Job(msgspec.Struct, eq=False):
    """One piece of work. what: for people. deadline_mono: CLOCK_MONOTONIC seconds.

    after: called when the job is over or was found too old to run; a key is passed on there.
    """

    what: str
    deadline_mono: float
    run: Callable[[], None]
    after: Callable[[], None] | None = None
    started_mono: float = 0.0
    report_mono: float = msgspec.field(default=float("inf"))


class Pool:
    """Threads made on demand up to a number, and a queue up to another."""

    def __init__(self, name: str, threads: int, queue: int, idle_s: float = IDLE_S) -> None:
        self.name = name
        self._most = threads
        self._queue = queue
        self._idle_s = idle_s
        self._lock = threading.Lock()
        #: Threads without work; the last to come is woken first, so that those a busy time has made can end.
        self._sleepers: list[threading.Condition] = []
        self._jobs: deque[Job] = deque()
        self._idle = 0
        self._count = 0
        self._made = 0
        self._closed = False
        self.running: set[Job] = set()
        self.expired = 0
        self.refused = 0

    def submit(self, job: Job, *, force: bool = False) -> None:
        """Queue a job. force: beyond the bound (a key that goes on). Raises: Busy."""
        with self._lock:
            if len(self._jobs) < self._idle:
                self._jobs.append(job)
                if self._sleepers:  # else one is on its way
                    self._sleepers.pop().notify()
                return
            if self._count < self._most and not self._closed:
                self._count += 1
                self._made += 1
                name = f"{self.name}-{self._made}"
                if self._thread(job, name):
                    return
            if not force and len(self._jobs) >= self._queue + self._idle:
                self._drop_expired()
                if len(self._jobs) >= self._queue + self._idle:
                    self.refused += 1
                    raise Busy(f"the {self.name} lane")
            self._jobs.append(job)

    def _thread(self, job: Job, name: str) -> bool:
        """Start one more thread with this job. False: the system has no more; those that we have must do."""
        try:
            # Daemons: a thread stuck in the kernel must not keep the process from ending.
            threading.Thread(target=self._serve, args=(job,), name=name, daemon=True).start()
        except RuntimeError as error:
            self._count -= 1
            logger.warning("the %s lane stays with %d threads: %s", self.name, self._count, error)
            if self._count == 0:
                raise Busy(f"the {self.name} lane") from error
            return False
        return True

    def _drop_expired(self) -> None:
        now = time.monotonic()
        alive = [job for job in self._jobs if job.deadline_mono > now or job.after]
        self.expired += len(self._jobs) - len(alive)
        self._jobs.clear()
        self._jobs.extend(alive)

    def _serve(self, job: Job | None) -> None:
        wake = threading.Condition(self._lock)
        while job is not None:
            self.run(job)
            job = self._next(wake)

    def _next(self, wake: threading.Condition) -> Job | None:
        with self._lock:
            until = time.monotonic() + self._idle_s
            self._idle += 1
            while not self._jobs and not self._closed and (left_s := until - time.monotonic()) > 0:
                if wake not in self._sleepers:  # also when somebody else was faster than the one that was woken
                    self._sleepers.append(wake)
                wake.wait(left_s)
            self._idle -= 1
            if wake in self._sleepers:
                self._sleepers.remove(wake)
            if not self._jobs:
                self._count -= 1
                return None
            return self._jobs.popleft()

    def run(self, job: Job) -> None:
        """Run a job on this thread, unless nobody waits for it any more."""
        job.started_mono = time.monotonic()
        if job.started_mono >= job.deadline_mono:
            self.expired += 1
        else:
            self._run(job)
        if job.after is not None:
            job.after()

    def _run(self, job: Job) -> None:
        job.report_mono = job.deadline_mono
        self.running.add(job)
        try:
            job.run()
        except BaseException:  # a lane outlives whatever its jobs do
            logger.exception("%s left the %s lane by an exception", job.what, self.name)
        finally:
            self.running.discard(job)

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def close(self) -> None:
        """Let idle threads end; running jobs are not touched."""
        with self._lock:
            self._closed = True
            for sleeper in self._sleepers:
                sleeper.notify()

    def vitals(self) -> dict[str, int]:
        return {
            "threads": self._count,
            "running": len(self.running),
            "waiting": self.waiting,
            "refused": self.refused,
            "expired": self.expired,
        }
