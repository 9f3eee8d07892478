# SPDX-License-Identifier: Apache-2.0
"""A worker's incarnations, one process each: forked with the next epoch, and let go with everything that hangs on it.

When it begins and why it ended is the house's business. Nothing waits here.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from vdsm_mp.common import kernel, log
from vdsm_mp.house import remains, spawn
from vdsm_mp.house.children import Children
from vdsm_mp.house.looks import Looks
from vdsm_mp.house.members import Lost, Process, State, Worker
from vdsm_mp.house.notes import Notes
from vdsm_mp.workers.table import ChildSpec, WorkerSpec

logger = log.named("master")

#: So many of one worker are written off, and no more are started in its place. The others' places are theirs.
MOST_LOST = 5

#: main of a worker: (spec, epoch, pipe, stacks_fd) -> exit code; given by the master, so that tests can give another.
WorkerMain = Callable[[WorkerSpec, int, socket.socket, int], int]


class Incarnations:
    """Of all workers, and the processes that workers ask for, which end with them.

    inherited: {name: socket} that the master holds for those whose row names it.
    """

    def __init__(
        self, main: WorkerMain, inherited: Mapping[str, socket.socket], kinds: tuple[ChildSpec, ...], notes: Notes
    ) -> None:
        self._main = main
        self._inherited = inherited
        self._notes = notes
        self.children = Children(kinds, self.write_off)
        self.looks = Looks(notes)
        #: What SIGKILL does not end.
        self.lost: list[Lost] = []
        #: Where workers' sockets are; None = no bus.
        self.bus_dir: Path | None = None
        #: Called when the pipe of a process is to be read, and when no longer.
        self.watch: Callable[[Process], None] = lambda process: None
        self.unwatch: Callable[[Process], None] = lambda process: None

    def begin(self, worker: Worker) -> None:
        """Fork the next one; when that fails it waits for its next try as after a death."""
        worker.epoch += 1
        spec = worker.spec
        keep = [self._inherited[name].fileno() for name in spec.inherits]
        now = time.monotonic()
        try:
            process = spawn.fork(spec.name, partial(self._main, spec, worker.epoch), keep)
        except OSError as error:
            wait_s = max(1.0, worker.history.died(now, 0.0, f"fork: {error}"))
            worker.state, worker.next_start_mono = State.WAITING, now + wait_s
            logger.error("%s cannot be forked: %s; next try in %gs", spec.name, error, wait_s)
            return
        worker.process = process
        worker.state, worker.beat_mono, worker.said = State.STARTING, now, ""
        self.watch(process)
        logger.info("%s forked pid=%d epoch=%d", spec.name, process.pid, worker.epoch)

    def end(self, worker: Worker, process: Process) -> None:
        """Let go of one that is gone or written off, but for its stacks; peers are told at once."""
        self.unwatch(process)
        if process.pipe is not None:
            process.pipe.close()
        os.close(process.pidfd)
        worker.process = None
        worker.vitals, worker.pss_kib = {}, 0
        self._notes.part(worker)
        remains.remove_sockets(self.bus_dir, worker.spec.name, worker.epoch)
        self.children.close_all_of(worker.spec.name)
        self.looks.died(worker.spec.name)

    def write_off(self, name: str, kind: str, process: Process) -> None:
        """Count it as lost. kind: "worker" or a kind of child."""
        tracer = kernel.tracer(process.pid)
        why = f"pid {tracer} debugs it and keeps it" if tracer else "it hangs in the kernel"
        logger.critical("%s pid=%d survives SIGKILL: %s; it is written off", name, process.pid, why)
        self.lost.append(Lost(name, kind, process.pid, time.monotonic()))

    def came_back(self, pid: int) -> None:
        """A process was reaped that nobody knows any more: maybe one that was written off."""
        self.lost = [lost for lost in self.lost if lost.pid != pid]

    def too_many_lost(self, name: str) -> bool:
        """Do so many of this worker hang that another one would only hang, too?"""
        return len([lost for lost in self.lost if (lost.kind, lost.name) == ("worker", name)]) >= MOST_LOST
