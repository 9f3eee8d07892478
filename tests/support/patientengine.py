# SPDX-License-Identifier: Apache-2.0
"""An engine that goes on with a host after each death: connects anew, takes the pool and the role up, clears tasks.

What was asked while something died has an open outcome: `attempt` reads what came of it, and asks again if nothing did.
"""

import os
import random
import signal
import threading
from collections.abc import Callable
from typing import Any

from demonstration import sequences
from demonstration.sequences import Refused, Storage, TookTooLong
from tests.support.engine import Engine
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from vdsm_mp.api.errors import StillStarting
from vdsm_mp.common.errors import Error

#: How long after the beginning of an operation the death comes, at most.
_SOON_S = (0.005, 0.03, 0.1, 0.3, 0.6)


class Lost(Exception):
    """The answer did not come, or the host is not ready: the outcome is open."""


class PatientEngine:
    """`storages`: of one pool, the first is the master."""

    def __init__(self, house: RunningHouse, storages: list[Storage], rng: random.Random) -> None:
        self.house = house
        self.storages = storages
        self.rng = rng
        self.deaths = 0
        self._engine: Engine | None = None

    def ask(self, verb: str, /, **params: Any) -> Any:
        """Raises: Lost, Refused, Undecodable."""
        try:
            if self._engine is None:
                self._engine = Engine(self.house.client())
            return self._engine.ask(verb, **params)
        except Refused as refused:
            if refused.code == StillStarting.code or "died while it served" in refused.message:
                raise Lost(str(refused)) from refused
            raise
        except (Error, OSError) as error:
            self._engine = None
            raise Lost(f"{verb}: {error}") from error

    # Deaths

    def kill_soon(self, victim: str) -> threading.Thread:
        """A worker, "master", or "io" for the file access of a domain dies within a moment."""
        delay_s = self.rng.choice(_SOON_S) * self.rng.random()
        thread = threading.Timer(delay_s, self._kill, [victim])
        thread.start()
        return thread

    def _kill(self, victim: str) -> None:
        if victim == "master":
            assert self.house.process is not None
            self.house.process.kill()
            self.house.process.wait(10)
            self.house.begin()
        else:
            pids = [child["pid"] for child in self.house.status()["children"]]
            pid = self.house.worker(victim)["pid"] if victim != "io" else self.rng.choice(pids) if pids else None
            if pid is None:
                return  # it is dead already, from the last time
            os.kill(pid, signal.SIGKILL)
        self.deaths += 1

    def recover(self) -> None:
        """Until the host is an SPM without tasks again, and knows its VMs."""
        eventually(self._taken_up, within_s=90, every_s=0.1)

    def _taken_up(self) -> bool:
        try:
            sequences.take_role(self.ask, *self.storages)
            sequences.wait_for("tasks to end", self._no_task_runs, within_s=40, every_s=0.1)
            for task_id in self.ask("Host.getAllTasksStatuses"):
                self.ask("Task.clear", taskID=task_id)
            self.ask("Host.getAllVmStats")
        except Lost:
            return False
        return True

    def _no_task_runs(self) -> bool:
        return all(task["taskState"] == "finished" for task in self.ask("Host.getAllTasksStatuses").values())

    # Operations

    def attempt(self, what: str, act: Callable[[], object], happened: Callable[[], bool], victim: str) -> None:
        """`act` while `victim` dies; when it did not happen, once more in peace: then it must."""
        killer = self.kill_soon(victim)
        try:
            act()
        except (Lost, Refused, TookTooLong, AssertionError) as error:
            print(f"{what}, {victim} killed: {error}")
        killer.join()
        self.recover()
        if not self._patiently(happened):
            act()
            assert self._patiently(happened), f"{what} did not happen"

    def _patiently(self, look: Callable[[], bool]) -> bool:
        def looked() -> list[bool] | None:
            try:
                return [look()]
            except Lost:
                return None

        found = eventually(looked, within_s=60, every_s=0.1)
        assert found is not None
        return found[0]
