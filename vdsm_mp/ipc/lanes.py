# SPDX-License-Identifier: Apache-2.0
"""Where blocking handlers run: bounded threads, bounded queues, one turn at a time per key.

A deadline frees the caller, never the key: a thread cannot be stopped, so a key is released when its job is really
done. A job that overstays is reported, shown in `vitals`, and URGENT still gets through. What has not started when
its deadline passes is never started. Nothing here knows zmq or verbs.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.verb import Lane
from vdsm_mp.common import log
from vdsm_mp.ipc.pool import Job, Pool

logger = log.named(__name__)

#: An overstaying job is reported at its deadline and then whenever its lateness has doubled.
FIRST_REPORT_S = 1.0


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
