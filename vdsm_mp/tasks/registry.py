# SPDX-License-Identifier: Apache-2.0
"""The tasks of this host: started, run in the background, stopped, reverted. Knows no storage.

Two tags. "hsm": in memory only (spmStart and the like). "spm": kept in a `TaskStore` from before the id is told to
the client until it is cleared; they come with the SPM role (`take_over`, then `recover`) and go with it (`let_go`).
The table of them is in `table.py`, what becomes of those that fail in `undoing.py`.
"""

import logging
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from vdsm_mp.api.errors_task import (
    TaskAborted,
    TaskInProgress,
    TaskNotFinished,
    TaskNotSaved,
    TooManyTasks,
    UnknownTask,
)
from vdsm_mp.api.ports import Background
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.errors import Error
from vdsm_mp.tasks.machine import DONE, TaskState, needs_recovery
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.tasks.record import Recovery, TaskRecord
from vdsm_mp.tasks.run import Job, TaskRun
from vdsm_mp.tasks.table import TaskTable
from vdsm_mp.tasks.undoing import Undo, Undoing

_log = logging.getLogger("storage.tasks")

#: VDSM's `irs.max_tasks`.
MAX_TASKS = 500

#: For work that is told to stop because the role goes. It ends at its next step, and programs are killed.
LET_GO_S = 10.0

#: So many stored tasks are rolled back at once: all of them would be more than the background takes.
RECOVERING = 8


class Tasks(TaskTable):
    def __init__(self, background: Background, undo: Undo, long_work: Background | None = None) -> None:
        """long_work: where SPM tasks run; the rest (taking the role, undoing) never waits behind them."""
        super().__init__()
        self._background = background
        self._long_work = long_work or background
        self._undoing = Undoing(self, background, undo)
        self._running: dict[str, Progress] = {}
        self._on_failure: dict[str, Callable[[], None]] = {}
        self._begun: set[str] = set()
        #: Called in the background once the role is ours and the stored tasks are being dealt with.
        self.after_recovery: Callable[[], None] | None = None

    # --- starting and running

    def start(
        self,
        verb: str,
        job: Job,
        *,
        spm: bool,
        key: str | None = None,
        recoveries: Iterable[Recovery] = (),
        job_name: str | None = None,
        on_failure: Callable[[], None] | None = None,
    ) -> str:
        """Begin a task; returns its id at once. `verb` is the name clients see ("createVolume", "spmStart").

        spm: saved with `recoveries` before this returns; the caller has checked that the role is ours. key: tasks of
        one key run one after the other. on_failure: when it has failed in this worker, before its turn, too. Raises:
        TooManyTasks, TaskNotSaved, UnknownTask (the role went just now),
        Busy; nothing was started.
        """
        progress = Progress(lambda: self._background.draining)
        task = TaskRecord(
            id=str(uuid.uuid4()),
            verb=verb,
            tag="spm" if spm else "hsm",
            jobs=(job_name or verb,),
            recoveries=tuple(recoveries),
            persist_policy="auto" if spm else "none",
        ).moved(TaskState.PREPARING, TaskState.ACQUIRING, TaskState.QUEUED)
        with self._lock:
            if len(self._running) >= MAX_TASKS:
                raise TooManyTasks(len(self._running))
            self._running[task.id] = progress
            if on_failure is not None:
                self._on_failure[task.id] = on_failure
        try:
            self.put(task, save=True)
            where, run = (self._long_work, self._run_spm) if spm else (self._background, self._run)
            where.start(f"{verb} {task.id}", lambda: run(task.id, job, progress), key=key)
        except Error:
            self._forget(task)
            raise
        return task.id

    def _run_spm(self, task_id: str, job: Job, progress: Progress) -> None:
        with self.at_work():
            self._run(task_id, job, progress)

    def _run(self, task_id: str, job: Job, progress: Progress) -> None:
        if not self._begin(task_id):
            return
        if progress.interrupted:
            self._stop_unbegun(task_id)
            return
        try:
            result = self._do(task_id, job, progress)
        except Error as e:
            self._fail(task_id, e.kept_code, str(e))
        except Exception as e:
            _log.exception("task %s failed in a way nobody foresaw", task_id)
            self._fail(task_id, 100, f"General exception: {e!r}")
        else:
            _log.info("task %s finished: %s", task_id, result)
        finally:
            self._end(task_id)

    def _begin(self, task_id: str) -> bool:
        """Whoever is first to ask has the task: its job, or a stop that came before its turn."""
        with self._lock:
            if task_id not in self._running or task_id in self._begun:
                return False
            self._begun.add(task_id)
            return True

    def _stop_unbegun(self, task_id: str) -> None:
        try:
            # It has done nothing, so what its steps would undo is somebody else's.
            self.put(replace(self.record(task_id), recoveries=()), save=False)
            self._fail(task_id, TaskAborted.code, str(TaskAborted("stopped before its turn")))
        except UnknownTask:  # the role went meanwhile
            return
        finally:
            self._end(task_id)

    def _end(self, task_id: str) -> None:
        with self._lock:
            self._running.pop(task_id, None)
            self._on_failure.pop(task_id, None)
            self._begun.discard(task_id)

    def _do(self, task_id: str, job: Job, progress: Progress) -> Any:
        record = self.record(task_id)
        self.put(replace(record.moved(TaskState.RUNNING), message="running job 1 of 1"), save=False)
        run = TaskRun(self, task_id, progress)
        result = job(run)
        record = self.record(task_id)
        done = replace(
            record.moved(TaskState.FINISHED),
            code=0,
            message="1 jobs completed successfully",
            result=_text(result),
            recoveries=record.recoveries if run.settled is None else run.settled,
        )
        try:
            if run.finish is None:
                self.put(done, save=True)
            else:
                self.save(replace(done, recoveries=(*done.recoveries, run.finish)))
        except TaskNotSaved:
            self._undoing.doubt(task_id)
            raise
        if run.finish is not None:
            self._undoing.finish(done, run.finish)
        return result

    def _fail(self, task_id: str, code: int, message: str) -> None:
        if self._background.draining:
            # On storage it is still queued: the next SPM rolls it back. Nothing may be undone half on the way out.
            _log.warning("task %s is left for recovery: %s", task_id, message)
            return
        try:
            record = self.record(task_id)
        except UnknownTask:  # the role was lost while it ran
            return
        _log.warning("task %s (%s) failed: %s", task_id, record.verb, message)
        self.put(replace(record, code=code, message=message), save=False)
        with self._lock:
            on_failure = self._on_failure.pop(task_id, None)
        if on_failure is not None:
            on_failure()
        self._undoing.roll_back(task_id)

    def _forget(self, record: TaskRecord) -> None:
        """It did not begin. Saving it may have failed half way, or only its answer was lost."""
        with self._lock:
            self._running.pop(record.id, None)
            self._on_failure.pop(record.id, None)
            self._records.pop(record.id, None)
        if record.tag == "spm":
            try:
                self._kept.remove(record.id)
            except Error as e:  # the next SPM rolls back, or sweeps, what is left of it
                _log.warning("task %s did not begin, but a part of it is stored: %s", record.id, e)

    def being_undone(self, thing_id: str) -> bool:
        """Is the roll-back of an SPM task about this volume, image or lease going on, or still to come?

        What is made by the same id meanwhile would go with it.
        """
        return any(
            task.id not in self._running or task.state not in (TaskState.QUEUED, TaskState.RUNNING)
            for task in self._about(thing_id)
        )

    def refuse_while_about(self, thing_id: str) -> None:
        """What is done to this thing has begun and may have to be undone. Raises: TaskInProgress (406).

        A task that waits for its turn has done nothing, and looks again when that has come.
        """
        ids = [task.id for task in self._about(thing_id) if task.id not in self._running or task.id in self._begun]
        if ids:
            raise TaskInProgress(", ".join(ids[:5]))

    # --- what clients ask for

    def stop(self, task_id: str) -> None:
        """Ask a task to end; it then rolls back. No effect when it is over.

        Raises: UnknownTask, Busy (it ends when its turn comes, or when it is asked again).
        """
        record = self.record(task_id)
        progress = self._running.get(task_id)
        if record.state in DONE or progress is None:
            return
        progress.stop()
        # One that still waits for its turn need not wait to be undone.
        if record.state is TaskState.QUEUED and self._begin(task_id):
            try:
                self._background.start(f"stop {task_id}", lambda: self._stop_unbegun(task_id))
            except Error:
                with self._lock:
                    self._begun.discard(task_id)
                raise

    def revert(self, task_id: str) -> None:
        """Undo a task that is over, in the background. Raises: UnknownTask, TaskNotFinished, TaskNotSaved, Busy."""
        with self._deciding(task_id):  # else one that is cleared meanwhile would be stored again, to be undone
            record = self.record(task_id)
            if record.state not in DONE:
                raise TaskNotFinished(task_id, record.state.value)
            if record.state is not TaskState.FINISHED:  # undone already, as far as that was possible
                return
            undone = tuple(one for one in record.recoveries if not one.finishes)
            self.revoke(replace(record.moved(TaskState.RACQUIRING), recoveries=undone))
            try:
                self._background.start(f"revert {task_id}", lambda: self._undoing.roll_back(task_id))
            except Error:
                self.put(record, save=True)  # else it would be neither over nor being undone
                raise

    # --- the SPM role

    def recover(self) -> list[str]:
        """The role is ours: tasks whose worker is gone are rolled back in the background. Returns their ids."""
        begun = []
        for task in self.spm_tasks():
            if task.id not in self._running and needs_recovery(task.state):
                begun.append(task.id)
            elif task.state is TaskState.FINISHED:
                self._undoing.finish_later(task)
        waiting = deque(begun)
        for _ in range(min(RECOVERING, len(begun))):
            self._background.start("recover stored tasks", lambda: self._recover_all(waiting))
        if self.after_recovery is not None:
            self._background.start("after recovery", self.after_recovery)
        return begun

    def _recover_all(self, waiting: deque[str]) -> None:
        """Shared by a few threads. What is left of it when the role goes is nobody's."""
        with self.at_work():
            while not self._background.draining:
                try:
                    task_id = waiting.popleft()
                except IndexError:
                    return
                self._undoing.roll_back(task_id)

    def let_go(self, within_s: float = LET_GO_S) -> bool:
        """The role is given up: SPM tasks leave the memory, those that run are stopped unsaved, and waited for.

        False: something of them goes on, and may be written when another host has the role.
        """
        ends = mono_s() + within_s
        with self._lock:
            self._kept.drop()
            self._aside = ()
            gone = [task.id for task in self._records.values() if task.tag == "spm"]
            progress = [self._running[task_id] for task_id in gone if task_id in self._running]
            for task_id in gone:
                del self._records[task_id]
        for one in progress:
            one.stop("this host is not SPM any more")
        with self._lock:
            resting = self._rest.wait_for(lambda: not self._at_work, max(0.0, ends - mono_s()))
        return resting and self._kept.is_quiet(max(0.0, ends - mono_s()))


def _text(result: Any) -> str:
    return "" if result is None else repr(result)
