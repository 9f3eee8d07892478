# SPDX-License-Identifier: Apache-2.0
"""The tasks of this host: started, run in the background, listed, stopped, cleared. Knows no storage.

Two tags. "hsm": in memory only (spmStart and the like). "spm": kept in a `TaskStore` from before the id is told to
the client until it is cleared; they come with the SPM role (`take_over`, then `recover`) and go with it (`let_go`).
A failed or interrupted task runs its recoveries, last pushed first, each gone from the store once it has run.

Locking: one lock for the table. Records are replaced. A record is saved before anybody can see it, so what a client
was told is on storage.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from vdsm_mp.api.errors_task import (
    RecoveryInvalid,
    TaskAborted,
    TaskInProgress,
    TaskNotFinished,
    TaskNotLoaded,
    TaskStateRefuses,
    TooManyTasks,
    UnknownTask,
)
from vdsm_mp.api.ports import Background
from vdsm_mp.common.errors import Error
from vdsm_mp.tasks.kept import Kept
from vdsm_mp.tasks.machine import DONE, TaskState, begin_recovery, needs_recovery, reported
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.tasks.record import Recovery, TaskRecord, status
from vdsm_mp.tasks.store import SetAside, TaskStore

_log = logging.getLogger("storage.tasks")

#: VDSM's `irs.max_tasks`.
MAX_TASKS = 500
#: A step that cannot be undone now may be in a moment: a full disk, a server that restarts.
UNDO_ATTEMPTS = 3
UNDO_PAUSE_S = 2.0

#: What a task does. Returns what goes into the result ({"uuid": …} or None).
Job = Callable[["TaskRun"], Any]
#: Runs one recovery of a task. Raises: any Error; the task then ends as failed.
Undo = Callable[[Recovery, str], None]


class TaskRun:
    """A running task, as its job sees it.

    finish: what follows once success is stored and nothing is undone any more. The task is told of as finished after
    it; when this process dies before, the next SPM does it.
    """

    def __init__(self, tasks: "Tasks", task_id: str, progress: Progress) -> None:
        self._tasks = tasks
        self.task_id = task_id
        self.progress = progress
        self.finish: Recovery | None = None
        #: What its recoveries are once success is stored; None: as they are.
        self.settled: tuple[Recovery, ...] | None = None

    @property
    def recoveries(self) -> tuple[Recovery, ...]:
        return self._tasks.record(self.task_id).recoveries

    def check(self) -> None:
        """Between two steps. Raises: TaskAborted."""
        self.progress.check()

    def push(self, *recoveries: Recovery) -> None:
        """Save how to undo the next steps; call it before them. Raises: TaskNotSaved (do not do the steps)."""
        record = self._tasks.record(self.task_id)
        self._tasks.put(replace(record, recoveries=record.recoveries + recoveries), save=True)

    def settle(self, *recoveries: Recovery, save: bool = False) -> None:
        """Replace all recoveries by these, together with the task's success: if that cannot be stored, the old ones
        undo it. save: now."""
        if save:
            self._tasks.put(replace(self._tasks.record(self.task_id), recoveries=recoveries), save=True)
        else:
            self.settled = recoveries


class Tasks:
    def __init__(self, background: Background, undo: Undo, long_work: Background | None = None) -> None:
        """long_work: where SPM tasks run; the rest (taking the role, undoing) never waits behind them."""
        self._background = background
        self._long_work = long_work or background
        self._undo = undo
        self._lock = threading.Lock()
        self._records: dict[str, TaskRecord] = {}
        self._running: dict[str, Progress] = {}
        self._begun: set[str] = set()
        self._aside: tuple[SetAside, ...] = ()
        self._kept = Kept()
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
    ) -> str:
        """Begin a task; returns its id at once. `verb` is the name clients see ("createVolume", "spmStart").

        spm: saved with `recoveries` before this returns; needs the role (TaskStateRefuses otherwise cannot happen:
        the caller has checked 654). key: tasks of one key run one after the other.
        Raises: TooManyTasks, TaskNotSaved (nothing was started), Busy.
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
        try:
            self.put(task, save=True)
            where = self._long_work if spm else self._background
            where.start(f"{verb} {task.id}", lambda: self._run(task.id, job, progress), key=key)
        except Error:
            self._forget(task)
            raise
        return task.id

    def _run(self, task_id: str, job: Job, progress: Progress) -> None:
        if not self._begin(task_id):
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
            self._fail(task_id, TaskAborted.code, str(TaskAborted("stopped before its turn")))
        finally:
            self._end(task_id)

    def _end(self, task_id: str) -> None:
        with self._lock:
            self._running.pop(task_id, None)
            self._begun.discard(task_id)

    def _do(self, task_id: str, job: Job, progress: Progress) -> Any:
        progress.check()
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
        if run.finish is None:
            self.put(done, save=True)
        else:
            self._save(replace(done, recoveries=(*done.recoveries, run.finish)))
            self._finish(done, run.finish)
        return result

    def _finish(self, done: TaskRecord, step: Recovery) -> None:
        """The step that is left of a task that is done; then it is forgotten. A step that fails stays stored."""
        try:
            self._undo(step, done.id)
        except Exception as e:  # the task is done, whatever comes of this
            foreseen = isinstance(e, Error)
            _log.error("task %s succeeded, what was to follow did not: %s", done.id, e, exc_info=not foreseen)
            self.put(replace(done, recoveries=(*done.recoveries, step)), save=False)
            return
        self._put_even_unsaved(done)

    def _finish_later(self, task: TaskRecord) -> None:
        """What a worker that died left of a task that is done."""
        steps = [one for one in task.recoveries if one.finishes]
        rest = replace(task, recoveries=tuple(one for one in task.recoveries if not one.finishes))
        for step in steps:
            name = f"finish {task.id}"
            self._background.start(name, lambda step=step: self._finish_if_kept(rest, step))  # type: ignore[misc]

    def _finish_if_kept(self, done: TaskRecord, step: Recovery) -> None:
        try:
            self._finish(done, step)
        except UnknownTask:  # the role went meanwhile
            return

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
        self._roll_back_safely(task_id)

    def _roll_back(self, task_id: str, attempt: int = 1) -> None:
        """Run what is left of the recoveries, last pushed first. What fails is tried again a little later.

        Raises: UnknownTask (the role went meanwhile).
        """
        record = self.record(task_id)
        record = replace(record, state=begin_recovery(record.state))
        self.put(record, save=False)
        try:
            while record.recoveries:
                self._undo(record.recoveries[-1], task_id)
                record = replace(self.record(task_id), recoveries=record.recoveries[:-1])
                self.put(record, save=True)
            self.put(record.moved(TaskState.RECOVERED), save=True)
        except UnknownTask:
            raise
        except Error as e:
            if attempt < UNDO_ATTEMPTS and not isinstance(e, RecoveryInvalid) and not self._background.draining:
                _log.warning("task %s is not rolled back yet (%d): %s", task_id, attempt, e)
                again = lambda: self._roll_back_safely(task_id, attempt + 1)  # noqa: E731 -- named for what it does
                self._background.later(UNDO_PAUSE_S * attempt, f"recover {task_id}", again)
                return
            _log.error("task %s could not be rolled back: %s", task_id, e)
            failed = self.record(task_id).moved(TaskState.FAILED)
            if not failed.code:
                failed = replace(failed, code=e.kept_code, message=str(e))
            self._put_even_unsaved(failed)

    def _put_even_unsaved(self, record: TaskRecord) -> None:
        try:
            self.put(record, save=True)
        except Error as e:
            # What is on storage is an earlier state of the same roll-back, which the next SPM runs again.
            _log.error("task %s ended, but this is not on storage: %s", record.id, e)
            self.put(record, save=False)

    # --- the table

    def record(self, task_id: str) -> TaskRecord:
        """Raises: UnknownTask."""
        try:
            return self._records[task_id]
        except KeyError:
            raise UnknownTask(task_id) from None

    def put(self, record: TaskRecord, *, save: bool) -> None:
        """Replace a record. save: on storage first, when it is an SPM task. Raises: TaskNotSaved, UnknownTask."""
        if record.tag == "spm":
            if save:
                self._save(record)
            elif not self._kept.active:
                raise UnknownTask(record.id)
        with self._lock:
            self._records[record.id] = record

    def _save(self, record: TaskRecord) -> None:
        """On storage; what clients see stays. Raises: TaskNotSaved, UnknownTask."""
        self._kept.save(record)

    def _forget(self, record: TaskRecord) -> None:
        """It did not begin. Saving it may have failed half way, or only its answer was lost."""
        with self._lock:
            self._running.pop(record.id, None)
            self._records.pop(record.id, None)
        if record.tag == "spm":
            try:
                self._kept.remove(record.id)
            except Error as e:  # the next SPM rolls back, or sweeps, what is left of it
                _log.warning("task %s did not begin, but a part of it is stored: %s", record.id, e)

    # --- what clients ask

    def status(self, task_id: str) -> dict[str, object]:
        """Task.getStatus. Raises: UnknownTask."""
        record = self.record(task_id)
        return status(record, reported(record.state))

    def info(self, task_id: str) -> dict[str, object]:
        """Task.getInfo: {"id", "verb"}. Raises: UnknownTask."""
        return {"id": task_id, "verb": self.record(task_id).verb}

    def statuses(self) -> dict[str, dict[str, object]]:
        """{task id: Task.getStatus} of the SPM tasks."""
        return {task.id: status(task, reported(task.state)) for task in self._spm_tasks()}

    def infos(self) -> dict[str, dict[str, object]]:
        """{task id: {"id", "verb"}} of the SPM tasks."""
        return {task.id: {"id": task.id, "verb": task.verb} for task in self._spm_tasks()}

    def all_tasks(self) -> dict[str, dict[str, object]]:
        """{task id: …} of every task of this host, and of those set aside (state "unknown", with the reason)."""
        found: dict[str, dict[str, object]] = {
            task.id: {**status(task, reported(task.state)), "verb": task.verb, "tag": task.tag, "id": task.id}
            for task in list(self._records.values())
        }
        for aside in self._aside:
            found[aside.id] = {
                "taskID": aside.id,
                "id": aside.id,
                "verb": "unknown",
                "tag": "spm",
                "taskState": "unknown",
                "taskResult": "",
                "code": TaskNotLoaded.code,
                "message": f"set aside: {aside.reason}",
            }
        return found

    def clear(self, task_id: str) -> None:
        """Forget a task that is over, or one set aside. Raises: UnknownTask, TaskStateRefuses, TaskNotCleared."""
        if any(aside.id == task_id for aside in self._aside):
            self._kept.remove(task_id)
            self._aside = tuple(aside for aside in self._aside if aside.id != task_id)
            return
        record = self.record(task_id)
        if record.state not in DONE:
            raise TaskStateRefuses(task_id, record.state.value)
        if record.tag == "spm":
            self._kept.remove(task_id)
        with self._lock:
            self._records.pop(task_id, None)

    def stop(self, task_id: str) -> None:
        """Ask a task to end; it then rolls back. No effect when it is over. Raises: UnknownTask."""
        record = self.record(task_id)
        progress = self._running.get(task_id)
        if record.state in DONE or progress is None:
            return
        progress.stop()
        # One that still waits for its turn need not wait to be undone.
        if record.state is TaskState.QUEUED and self._begin(task_id):
            self._background.start(f"stop {task_id}", lambda: self._stop_unbegun(task_id))

    def revert(self, task_id: str) -> None:
        """Undo a task that is over, in the background. Raises: UnknownTask, TaskNotFinished."""
        record = self.record(task_id)
        if record.state not in DONE:
            raise TaskNotFinished(task_id, record.state.value)
        if record.state is not TaskState.FINISHED:  # undone already, as far as that was possible
            return
        undone = tuple(one for one in record.recoveries if not one.finishes)
        self.put(replace(record.moved(TaskState.RACQUIRING), recoveries=undone), save=True)
        self._background.start(f"revert {task_id}", lambda: self._roll_back_safely(task_id))

    # --- the SPM role

    def take_over(self, store: TaskStore) -> None:
        """The role is being taken: the stored tasks are ours now and listed; none is touched yet.

        Tasks that cannot be read are set aside and logged. Raises: the storage's errors; nothing was taken.
        """
        found, aside = store.load()
        for one in aside:
            _log.error("stored task %s is set aside: %s", one.id, one.reason)
        with self._lock:
            self._kept.take(store, found)
            self._aside = tuple(aside)
            self._records.update((task.id, task) for task in found)

    def begin_move(self, store: TaskStore) -> None:
        """The master role is about to move to where `store` is, which is empty: it has all SPM tasks from now on, too.

        Tasks set aside are the caller's to copy. `end_move` once the role has moved, `cancel_move` when it did not.
        Raises: TaskNotSaved.
        """
        self._kept.begin_move(store)

    def end_move(self) -> None:
        self._kept.end_move()

    def cancel_move(self) -> None:
        self._kept.cancel_move()

    def set_aside(self) -> set[str]:
        """Ids of stored tasks that could not be read."""
        return {one.id for one in self._aside}

    def recover(self) -> list[str]:
        """The role is ours: tasks whose worker is gone are rolled back in the background. Returns their ids."""
        begun = []
        for task in self._spm_tasks():
            if task.id not in self._running and needs_recovery(task.state):
                begun.append(task.id)
                self._background.start(f"recover {task.id}", lambda task_id=task.id: self._roll_back_safely(task_id))  # type: ignore[misc]
            elif task.state is TaskState.FINISHED:
                self._finish_later(task)
        if self.after_recovery is not None:
            self._background.start("after recovery", self.after_recovery)
        return begun

    def _roll_back_safely(self, task_id: str, attempt: int = 1) -> None:
        try:
            self._roll_back(task_id, attempt)
        except UnknownTask:  # the role went meanwhile
            return
        except Exception as e:
            _log.exception("task %s could not be rolled back", task_id)
            record = replace(self.record(task_id), state=TaskState.FAILED)
            self._put_even_unsaved(replace(record, code=record.code or 100, message=f"roll-back failed: {e!r}"))

    def unfinished_about(self, thing_id: str) -> str | None:
        """Id of an SPM task that is not over and would undo something about this volume or image."""
        for task in self._spm_tasks():
            if task.state not in DONE and any(thing_id in param for r in task.recoveries for param in r.params):
                return task.id
        return None

    def uncleared(self) -> list[str]:
        """Ids of SPM tasks that are running or that nobody has cleared."""
        return sorted(task.id for task in self._spm_tasks())

    def refuse_while_uncleared(self) -> None:
        """Raises: TaskInProgress (406)."""
        ids = self.uncleared()
        if ids:
            raise TaskInProgress(", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else ""))

    def let_go(self) -> None:
        """The role is gone (given up, or lost): SPM tasks leave the memory, those that run are stopped unsaved."""
        with self._lock:
            self._kept.drop()
            self._aside = ()
            gone = [task.id for task in self._records.values() if task.tag == "spm"]
            progress = [self._running[task_id] for task_id in gone if task_id in self._running]
            for task_id in gone:
                del self._records[task_id]
        for one in progress:
            one.stop("this host is not SPM any more")

    def vitals(self) -> dict[str, int]:
        """For status: how many run, wait to be cleared, were set aside."""
        records = list(self._records.values())
        return {
            "running": sum(task.state not in DONE for task in records),
            "finished": sum(task.state in DONE for task in records),
            "set_aside": len(self._aside),
        }

    def _spm_tasks(self) -> list[TaskRecord]:
        return [task for task in list(self._records.values()) if task.tag == "spm"]


def _text(result: Any) -> str:
    return "" if result is None else repr(result)


def unknown_recovery(recovery: Recovery) -> RecoveryInvalid:
    """For an `Undo` that does not know a name."""
    return RecoveryInvalid(recovery.name, f"{recovery.module}.{recovery.owner}.{recovery.function} is not known here")
