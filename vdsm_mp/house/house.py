# SPDX-License-Identifier: Apache-2.0
"""The house: every process of the table, kept alive one for one until told to stop, then emptied in order.

Single-threaded; every step is short and nothing waits. `take_note`, `process_ended`, `beat` and the operator's wishes
are the only ways in; `house/loop.py` calls them. Stages of stopping and times are in the table.
"""

import enum
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from socket import socket

from vdsm_mp.common import log
from vdsm_mp.house import killing, members, remains, spawn
from vdsm_mp.house.ground import Ground
from vdsm_mp.house.incarnations import Incarnations, WorkerMain
from vdsm_mp.house.logwriter import LogWriter
from vdsm_mp.house.looks import Done
from vdsm_mp.house.members import Process, State, Worker
from vdsm_mp.house.notes import Notes
from vdsm_mp.house.stages import Stages
from vdsm_mp.ipc import control
from vdsm_mp.workers.table import ChildSpec, WorkerSpec

logger = log.named("master")

#: The kernel's count of its kills is read so often.
OOM_EVERY_S = 2.0


class HouseState(enum.Enum):
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    EMPTY = "empty"


class House:
    """See the module. `verdict` is the exit code once EMPTY. build: which program the house and its workers run.

    config: {"file", "digest"} of their configuration.
    """

    def __init__(
        self,
        workers: tuple[WorkerSpec, ...],
        kinds: tuple[ChildSpec, ...],
        main: WorkerMain,
        *,
        build: str,
        config: Mapping[str, str],
        inherited: Mapping[str, socket],
        log_writer: LogWriter,
        broadcast: Callable[[list[tuple[str, int]]], None],
    ) -> None:
        self.state = HouseState.STARTING
        self.verdict = 0
        self.workers = {spec.name: Worker(spec) for spec in workers}
        self.started_mono = time.monotonic()
        self.ground = Ground(build)
        self.config = config
        #: Who started us, to tell when it is gone; 0 = nobody who would start us again.
        self.supervisor_pid = 0
        #: Where the kernel leaves cores, None = there are none.
        self.cores: Path | None = None
        self._broadcast = broadcast
        self.log_writer = log_writer
        self._notes = Notes(self.workers.values())
        self._stages = Stages(self.workers.values(), self._notes.tell)
        self.incarnations = Incarnations(main, inherited, kinds, self._notes)
        self._kernel_kills = remains.KernelKills(self.started_mono, OOM_EVERY_S)

    # Beginning

    def start(self) -> None:
        for worker in self.workers.values():
            self.incarnations.begin(worker)
        self.log_writer.start()  # last: whoever is forked before the master goes on shares less of its memory

    # What workers say

    def take_note(self, worker: Worker, note: control.ToMaster) -> None:
        match note:
            case control.Alive():
                worker.beat_mono = time.monotonic()
                worker.late_s, worker.vitals = note.late_s, note.vitals
                worker.pss_kib = note.pss_kib or worker.pss_kib
            case control.Ready():
                self._ready(worker)
            case control.CannotStart():
                worker.said = note.reason
            case control.OpenChild():
                self._open_child(worker, note)
            case control.CloseChild():
                self.incarnations.children.close(note.kind, note.name)
            case control.Report():
                self.incarnations.looks.answered(note.id, note.text)

    def _ready(self, worker: Worker) -> None:
        now = time.monotonic()
        worker.ready_mono = now
        if worker.state is not State.STARTING or worker.process is None:
            return
        worker.state = State.READY
        logger.info("%s ready took=%dms", worker.spec.name, (now - worker.process.started_mono) * 1000)
        self._notes.introduce(worker)
        if self.state is HouseState.STARTING and all(w.up for w in self.workers.values()):
            self.state = HouseState.RUNNING
            logger.info("every worker is ready took=%dms", (now - self.started_mono) * 1000)

    def _open_child(self, worker: Worker, note: control.OpenChild) -> None:
        if self.state is HouseState.STOPPING:
            self._notes.tell(worker, control.ChildMade(id=note.id, refused="the house is stopping"))
            return
        sock, refused = self.incarnations.children.open(worker.spec.name, note.kind, note.name)
        if sock is None:
            self._notes.tell(worker, control.ChildMade(id=note.id, refused=refused))
            return
        self._notes.tell(worker, control.ChildMade(id=note.id), (sock.fileno(),))
        sock.close()

    # Endings

    def process_ended(self, pid: int, status: int) -> None:
        """A child of the master was reaped: ours, or one that was adopted."""
        name = next((w.spec.name for w in self.workers.values() if w.process and w.process.pid == pid), f"pid={pid}")
        remains.keep_cores(self.cores, name, status)
        if self.log_writer.ended(pid, status):
            return
        for worker in self.workers.values():
            if worker.process is not None and worker.process.pid == pid:
                self._worker_ended(worker, status)
                return
        if not self.incarnations.children.ended(pid, status):
            self.incarnations.came_back(pid)
        if self.state is HouseState.STOPPING:
            self._next_stage()

    def _worker_ended(self, worker: Worker, status: int) -> None:
        process = worker.process
        assert process is not None
        process.why_killed = process.why_killed or self._kernel_kills.reason(status)
        reason = members.how_it_ended(status, process.why_killed)
        if worker.said:
            reason += f": {worker.said}"
        self.incarnations.end(worker, process)
        remains.sweep(process.pid)
        remains.log_stacks(process)
        if self.state is HouseState.STOPPING or worker.state is State.LEAVING:
            self._worker_left(worker, reason)
        else:
            self._worker_died(worker, process, status, reason)

    def _worker_left(self, worker: Worker, reason: str) -> None:
        """It ended because it was told to."""
        logger.info("%s left: %s", worker.spec.name, reason)
        if self.state is HouseState.STOPPING:
            worker.state = State.STOPPED
            self._next_stage()
            return
        now = time.monotonic()
        worker.history.restarts += 1
        worker.history.last_reason, worker.history.last_at_mono = "restart asked for", now
        self._wait(worker, now)

    def _worker_died(self, worker: Worker, process: Process, status: int, reason: str) -> None:
        """It ended, and nobody had told it to."""
        name, now = worker.spec.name, time.monotonic()
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1
        if code == spawn.OTHER_PROGRAM or (worker.state is State.STARTING and self.ground.other_program()):
            if self.ground.lost_program():
                # Nobody could take over: those that live are all there is until it has been installed again.
                logger.critical("%s died: %s; the program is gone: it waits for that", name, reason)
                worker.history.last_reason, worker.history.last_at_mono = reason, now
                self._wait(worker, now, 1.0)
                return
            # Half an upgrade: parts of two programs must not work together, and what failed may have been that.
            logger.critical("%s died: %s; the program on the disk is another one: the house restarts", name, reason)
            self.stop(verdict=1)
            return
        if code == spawn.CANNOT_START:
            self._never_starts(worker, reason)
            return
        by_others = not process.why_killed and remains.by_others(status)
        wait_s = worker.history.died(now, now - process.started_mono, reason, by_others=by_others)
        logger.error("%s died: %s; restart in %gs", name, reason, wait_s)
        if worker.history.degraded(now):
            logger.error("%s is degraded: more than %d deaths within %gs", name, members.INTENSITY, members.WINDOW_S)
        self._wait(worker, now, wait_s)

    def _wait(self, worker: Worker, now: float, wait_s: float = 0.0) -> None:
        """Its place is free: the next one comes after so long, at once when that is nothing."""
        worker.state, worker.next_start_mono = State.WAITING, now + wait_s
        if wait_s == 0 and self._may_start(worker):
            self.incarnations.begin(worker)

    def _never_starts(self, worker: Worker, reason: str) -> None:
        worker.state = State.FAILED
        worker.history.last_reason, worker.history.last_at_mono = reason, time.monotonic()
        if self.state is HouseState.STARTING:
            logger.critical("%s cannot start: %s; the house stops", worker.spec.name, reason)
            self.stop(verdict=spawn.CANNOT_START)
        else:
            # The others serve on; trying again would not help before somebody has changed something.
            logger.critical("%s cannot start: %s; it is not tried again", worker.spec.name, reason)

    # Time

    @property
    def busy(self) -> bool:
        """Is anything under way that has deadlines of its own? Otherwise only heartbeats can be missed."""
        quiet = self.state is HouseState.RUNNING and self.incarnations.children.quiet and not self.log_writer.busy
        return not quiet or any(not w.up or w.process is None or w.process.killing for w in self.workers.values())

    @property
    def silence_mono(self) -> float:
        """When the first worker is to be called hung, unless it is heard of before."""
        heard = (w.beat_mono for w in self.workers.values() if w.up and w.process and not w.process.killing)
        return min(heard, default=float("inf")) + members.SILENCE_S

    def beat(self, late_s: float = 0.0) -> None:
        """Look at every deadline. Called several times a second while `busy`. late_s: after it should have been."""
        now = time.monotonic()
        self._kernel_kills.beat(now)
        for worker in self.workers.values():
            worker.forgive(late_s, now)
            if worker.process is not None:
                self._look_at(worker, worker.process, now)
            elif worker.state is State.WAITING and now >= worker.next_start_mono and self._may_start(worker):
                self.incarnations.begin(worker)
        self.incarnations.children.beat(now)
        self.log_writer.beat(now)
        if self.state is HouseState.STOPPING:
            self._next_stage()
            self._stages.beat(now)

    def _may_start(self, worker: Worker) -> bool:
        return self.ground.stands and not self._stopping and not self.incarnations.too_many_lost(worker.spec.name)

    @property
    def _stopping(self) -> bool:
        return self.state in (HouseState.STOPPING, HouseState.EMPTY)

    def _look_at(self, worker: Worker, process: Process, now: float) -> None:
        if process.killing:
            if killing.carry_on(process, now):
                self._lose(worker, process, now)
        elif why := worker.overdue(process, now):
            killing.begin(process, why, now)

    def _lose(self, worker: Worker, process: Process, now: float) -> None:
        """It survives SIGKILL: written off, and its place is free."""
        self.incarnations.write_off(worker.spec.name, "worker", process)
        self.incarnations.end(worker, process)
        os.close(process.stacks_fd)
        if self._stopping:
            worker.state = State.STOPPED
            self._next_stage()
        else:
            worker.history.died(now, 0.0, f"written off ({process.why_killed})")
            worker.state, worker.next_start_mono = State.WAITING, now

    # Stopping

    def stop(self, *, verdict: int = 0) -> None:
        """Begin to empty the house. A second call only shortens the deadlines."""
        if self._stopping:
            self._stages.hurry()
            return
        self.state, self.verdict = HouseState.STOPPING, verdict
        logger.info("stopping")
        self._notes.tell_all(control.PrepareForShutdown())
        self._broadcast([(w.spec.name, w.epoch) for w in self.workers.values() if w.process is not None])
        for worker in self.workers.values():
            if worker.process is None:
                worker.state = State.STOPPED
        self._next_stage()

    def _next_stage(self) -> None:
        if self._stages.go_on():
            self.incarnations.children.close_all()
            if self.incarnations.children.none_left:
                self._empty()

    def _empty(self) -> None:
        self.state = HouseState.EMPTY
        for lost in self.incarnations.lost:
            logger.critical("left behind, hanging in the kernel: %s pid=%d", lost.name, lost.pid)

    # Wishes of operators and signals

    def restart(self, name: str) -> str:
        """Let one worker leave and start it again. Returns "" or why not."""
        worker = self.workers.get(name)
        if worker is None:
            return f"no worker is called {name}; there are: {', '.join(self.workers)}"
        if self._stopping:
            return "the house is stopping"
        if self.ground.other_program():
            return "the program on the disk is not the one that runs: only the whole house can be restarted"
        if not self.ground.stands:
            return f"it could not start again: {self.ground.problem}"
        if worker.process is None:
            worker.history.in_a_row = 0
            self.incarnations.begin(worker)
            return ""
        if worker.state is State.LEAVING:
            return f"{name} is leaving already"
        worker.state = State.LEAVING
        grace_s = worker.spec.grace_s
        now = time.monotonic()
        # Not ready any more: peers must not send it new calls.
        self._notes.part(worker)
        self._notes.tell(worker, control.Leave(within_s=max(0.2, grace_s - 0.5)))
        killing.at(worker.process, now + grace_s)
        return ""

    def look(self, number: int, name: str, kind: str, seconds: float, done: Done) -> str:
        """Ask a worker for its stacks or a profile; done(text), or done(None) when it died first. "" or why not."""
        worker = self.workers.get(name)
        if worker is None:
            return f"no worker is called {name}; there are: {', '.join(self.workers)}"
        return self.incarnations.looks.ask(number, worker, kind, seconds, done)

    def reload(self) -> None:
        log.reopen()
        self.log_writer.reload()
        self._notes.tell_all(control.Reload())
        logger.info("log files opened again")

    def ground_stands(self, standing: bool, problem: str) -> None:
        """What was found of the ground; all workers that wait are started when it is back."""
        if standing and not self.ground.stands:
            for worker in self.workers.values():
                worker.next_start_mono = 0.0
        self.ground.stands, self.ground.problem = standing, problem

    def bind_again(self, worker: Worker) -> None:
        self._notes.tell(worker, control.BindAgain())

    def stop_spm(self) -> None:
        logger.warning("SIGUSR1: the SPM role is given up")
        self._notes.tell_all(control.StopSpm())
