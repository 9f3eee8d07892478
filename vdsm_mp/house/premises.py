# SPDX-License-Identifier: Apache-2.0
"""Whether what the house has claimed in the run directory is still there; what somebody removed is made again.

Directories that only an administrator can make again are told as missing, before the next worker fails to start.

The lock, the pid file, the control socket, the directory of the bus and the workers' sockets in it: a cleaner of
temporary files, an `rm` too many or a reinstalled package takes them away, and nobody would notice before the next
worker starts, cannot bind and never comes back. Looked at in the master's loop; nothing here waits.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from vdsm_mp.common import log
from vdsm_mp.common.controlsocket import LOCK
from vdsm_mp.house import claim, spawn
from vdsm_mp.house.desk import Desk
from vdsm_mp.house.house import House, HouseState
from vdsm_mp.ipc import places

logger = log.named("master")

#: Four short calls to a file system in memory.
EVERY_S = 2.0
#: Another master has had the lock of the run directory for so long: it is the one that operators reach.
GIVE_WAY_S = 30.0


class Premises:
    """See the module. missing: says what is wrong with the directories that the agent was given."""

    def __init__(
        self,
        run_dir: Path,
        bus_dir: Path,
        lock_fd: int,
        house: House,
        desk: Desk,
        missing: Callable[[], list[str]] = lambda: [],
    ) -> None:
        self._run_dir, self._bus_dir, self._lock_fd = run_dir, bus_dir, lock_fd
        self._house, self._desk, self._missing = house, desk, missing
        self._due_mono = 0.0
        self._locked_out_mono = 0.0

    def beat(self) -> None:
        now = time.monotonic()
        if now < self._due_mono or self._house.state in (HouseState.STOPPING, HouseState.EMPTY):
            return
        self._due_mono = now + EVERY_S
        problem = ""
        try:
            self._look(now)
        except OSError as error:
            problem = f"{error.filename or self._run_dir} cannot be made again: {error.strerror}"
        except claim.CannotStart as error:
            problem = f"{self._run_dir} cannot be locked again: {error}"
        missing = self._missing()
        problem = "; ".join([*missing, *([problem] if problem else [])])
        if problem and problem != self._house.ground.problem:
            logger.critical("somebody took away what the agent needs: %s", problem)
        self._house.ground_stands(self._bus_dir.is_dir() and not missing, problem)

    def _look(self, now: float) -> None:
        if not self._run_dir.is_dir():
            self._run_dir.mkdir(mode=0o755)
            logger.error("the run directory %s was removed: made again", self._run_dir)
        self._keep_lock(now)
        if not self._desk.reachable:
            self._desk.open_again()
            logger.error("the control socket was removed: made again")
        if not claim.has_pid_file(self._run_dir):
            claim.write_pid_file(self._run_dir)
        self._keep_bus()

    def _keep_lock(self, now: float) -> None:
        path = self._run_dir / LOCK
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(self._lock_fd)):
                self._locked_out_mono = 0.0
                return
        try:
            fresh = claim.lock(self._run_dir)
        except claim.AlreadyRunning as error:
            self._locked_out_mono = self._locked_out_mono or now
            if now - self._locked_out_mono >= GIVE_WAY_S:
                logger.critical("%s was removed and another master has it now (%s): this one gives way", path, error)
                self._house.stop(verdict=spawn.CANNOT_START)
            raise
        os.dup2(fresh, self._lock_fd, inheritable=False)
        os.close(fresh)
        logger.error("%s was removed: made again", path)

    def _keep_bus(self) -> None:
        try:
            there = set(os.listdir(self._bus_dir))
        except FileNotFoundError:
            self._bus_dir.mkdir(mode=0o700)
            logger.error("the directory of the bus %s was removed: made again", self._bus_dir)
            there = set()
        for worker in self._house.workers.values():
            if worker.up and not there.issuperset(places.names(worker.spec.name, worker.epoch)):
                logger.error("sockets of %s were removed from the bus: it makes them again", worker.spec.name)
                self._house.bind_again(worker)
