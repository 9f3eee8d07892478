# SPDX-License-Identifier: Apache-2.0
"""The processes that workers ask for: one per storage domain. Forked here, ended here, written off here."""

import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from vdsm_mp.common import log
from vdsm_mp.house import members, spawn
from vdsm_mp.house.members import Child, Process
from vdsm_mp.workers.table import ChildSpec

logger = log.named("master")


class Children:
    """write_off(name, kind, process) is called for what SIGKILL does not end."""

    def __init__(self, kinds: tuple[ChildSpec, ...], write_off: Callable[[str, str, Process], None]) -> None:
        self._kinds = {spec.kind: spec for spec in kinds}
        self._write_off = write_off
        self._running: dict[tuple[str, str], Child] = {}
        self._ending: list[Child] = []
        self._lost: dict[int, Child] = {}
        self.deaths = 0

    def open(self, owner: str, kind: str, name: str) -> tuple[socket.socket | None, str]:
        """Fork a child; (its owner's end of the pipe, "") or (None, why not)."""
        spec = self._kinds.get(kind)
        if spec is None or spec.owner != owner:
            return None, f"{owner} may not have children of kind {kind}"
        self.close(kind, name)
        if len([c for c in self._lost.values() if c.spec is spec]) >= spec.most_lost:
            return None, "lost"
        if len([c for c in self._running.values() if c.spec is spec]) >= spec.most:
            return None, f"there are {spec.most} children of kind {kind} already"
        try:
            process = spawn.fork(f"{kind} {name}", spawn.child_main(spec.main), ())
        except OSError as error:
            return None, f"fork: {error}"
        pipe, process.pipe = process.pipe, None
        self._running[kind, name] = Child(spec, name, process)
        return pipe, ""

    def close(self, kind: str, name: str) -> None:
        """Kill a child; beat() writes it off when that does not help. Unknown names are fine."""
        child = self._running.pop((kind, name), None)
        if child is None:
            return
        process = child.process
        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
        process.killing = [(-1.0, 0)]
        self._ending.append(child)

    def close_all_of(self, owner: str) -> None:
        for kind, name in [key for key, child in self._running.items() if child.spec.owner == owner]:
            self.close(kind, name)

    def close_all(self) -> None:
        for kind, name in list(self._running):
            self.close(kind, name)

    @property
    def quiet(self) -> bool:
        """Is none of them being ended?"""
        return not self._ending

    @property
    def none_left(self) -> bool:
        """Has every child ended or been written off?"""
        return not self._running and not self._ending

    def ended(self, pid: int, status: int) -> bool:
        """Was the reaped process one of ours?"""
        for key, child in list(self._running.items()):
            if child.process.pid == pid:
                del self._running[key]
                self.deaths += 1
                logger.info("%s ended: %s", child.process.name, members.how_it_ended(status, ""))
                _let_go(child.process)
                return True
        for child in self._ending:
            if child.process.pid == pid:
                self._ending.remove(child)
                _let_go(child.process)
                return True
        if (back := self._lost.pop(pid, None)) is not None:
            logger.info("%s pid=%d has come out of the kernel after all", back.process.name, pid)
            return False  # the house's list forgets it too
        return False

    def beat(self, now: float) -> None:
        for child in list(self._ending):
            process = child.process
            if process.killing[0][0] < 0:
                process.killing = [(now + members.KILL_S, 0)]
            elif now >= process.killing[0][0]:
                self._ending.remove(child)
                self._lost[process.pid] = child
                self._write_off(process.name, child.spec.kind, process)
                _let_go(process)

    def status(self) -> list[dict[str, Any]]:
        """For `status`: [{"kind", "name", "pid"}]."""
        return [{"kind": kind, "name": name, "pid": c.process.pid} for (kind, name), c in self._running.items()]


def _let_go(process: Process) -> None:
    os.close(process.pidfd)
    os.close(process.stacks_fd)
