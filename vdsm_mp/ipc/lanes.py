# SPDX-License-Identifier: Apache-2.0
"""Where blocking handlers run: bounded threads, bounded queues, one turn at a time per key.

A deadline frees the caller, never the key: a thread cannot be stopped, so a key is released when its job is really
done. A job that overstays is reported, shown in `vitals`, and URGENT still gets through. What has not started when
its deadline passes is never started. Nothing here knows zmq or verbs.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.verb import Lane
from vdsm_mp.common import log

logger = log.named(__name__)

#: A thread that has had nothing to do for so long ends.
IDLE_S = 30.0
#: An overstaying job is reported at its deadline and then whenever its lateness has doubled.
FIRST_REPORT_S = 1.0


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


class Keyed:
    """Jobs of one key run one at a time, in the order they came; keys do not wait for each other."""

    def __init__(self, pool: Pool, per_key: int, keys: int) -> None:
        self._pool = pool
        self._per_key = per_key
        self._keys = keys
        self._lock = threading.Lock()
        self._queues: dict[str, deque[Job]] = {}

    def submit(self, key: str, job: Job) -> None:
        """Queue a job behind the others of its key. Raises: Busy."""
        with self._lock:
            queue = self._queues.get(key)
            if queue is not None:
                if len(queue) >= self._per_key:
                    self._drop_expired(queue)
                if len(queue) >= self._per_key:
                    self._pool.refused += 1
                    raise Busy(key)
                queue.append(job)
                return
            if len(self._queues) >= self._keys:
                self._pool.refused += 1
                raise Busy(f"the {self._pool.name} lane")
            # Under our lock, so that nobody queues behind a first job that the pool then refuses.
            self._pool.submit(self._with_turn(key, job))
            self._queues[key] = deque()

    def _drop_expired(self, queue: deque[Job]) -> None:
        now = time.monotonic()
        alive = [job for job in queue if job.deadline_mono > now]
        self._pool.expired += len(queue) - len(alive)
        queue.clear()
        queue.extend(alive)

    def _with_turn(self, key: str, job: Job) -> Job:
        job.after = partial(self._pass_on, key)
        return job

    def _pass_on(self, key: str) -> None:
        with self._lock:
            queue = self._queues[key]
            if not queue:
                del self._queues[key]
                return
            job = queue.popleft()
        # Through the pool again, so that a key with much to do does not keep its thread from the others.
        self._pool.submit(self._with_turn(key, job), force=True)

    @property
    def waiting(self) -> int:
        with self._lock:
            return sum(len(queue) for queue in self._queues.values())


class Limits(msgspec.Struct, frozen=True):
    """(threads, waiting jobs) of each pool, and the bounds of keys. A stuck libvirt or storage takes a thread per
    call that it holds, so there are more threads than cores."""

    read: tuple[int, int] = (24, 200)
    keyed: tuple[int, int] = (48, 200)
    urgent: tuple[int, int] = (8, 64)
    background: tuple[int, int] = (24, 200)
    per_key: int = 32
    keys: int = 400


class Lanes:
    """The lanes of one worker, LOOP excepted: that one is the event loop itself."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.read = Pool("read", *self.limits.read)
        self._keyed_pool = Pool("keyed", *self.limits.keyed)
        self.urgent = Pool("urgent", *self.limits.urgent)
        self._background_pool = Pool("background", *self.limits.background)
        self.keyed = Keyed(self._keyed_pool, self.limits.per_key, self.limits.keys)
        self.background = Keyed(self._background_pool, self.limits.per_key, self.limits.keys)
        self._pools = (self.read, self._keyed_pool, self.urgent, self._background_pool)

    def submit(self, lane: Lane, key: str | None, job: Job) -> None:
        """Queue a job of a served call. Raises: Busy (at once, the job has not run and never will)."""
        if lane is Lane.KEYED:
            self.keyed.submit(key or "", job)
        elif lane is Lane.URGENT:
            self.urgent.submit(job)
        else:
            self.read.submit(job)

    def start_background(self, key: str | None, job: Job) -> None:
        """Queue work that outlives its call. Raises: Busy."""
        if key is None:
            self._background_pool.submit(job)
        else:
            self.background.submit(key, job)

    @property
    def serving(self) -> int:
        """Jobs of calls that run or wait; background work is not counted."""
        pools = (self.read, self._keyed_pool, self.urgent)
        return sum(len(pool.running) + pool.waiting for pool in pools) + self.keyed.waiting

    @property
    def background_running(self) -> int:
        return len(self._background_pool.running) + self._background_pool.waiting + self.background.waiting

    def report_stuck(self, now_mono: float) -> list[str]:
        """Log each job that has overstayed its deadline since the last report; all that overstay, for health."""
        stuck = []
        for pool in self._pools:
            for job in tuple(pool.running):
                if now_mono < job.deadline_mono:
                    continue
                stuck.append(f"{job.what} {now_mono - job.started_mono:.0f}s")
                if now_mono >= job.report_mono:
                    logger.warning("lane stuck: %s %.0fs (%s lane)", job.what, now_mono - job.started_mono, pool.name)
                    job.report_mono = now_mono + max(FIRST_REPORT_S, now_mono - job.deadline_mono)
        return stuck

    def running(self) -> list[str]:
        """What runs now, for people."""
        return [job.what for pool in self._pools for job in tuple(pool.running)]

    def close(self) -> None:
        for pool in self._pools:
            pool.close()

    def vitals(self) -> Mapping[str, Any]:
        lanes: dict[str, Any] = {pool.name: pool.vitals() for pool in self._pools}
        lanes["keyed"]["waiting"] += self.keyed.waiting
        lanes["background"]["waiting"] += self.background.waiting
        return lanes
