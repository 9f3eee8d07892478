# SPDX-License-Identifier: Apache-2.0
"""The table of this host's tasks: their records, where SPM tasks are stored, and what clients are told of them.

One lock for the table. Records are replaced. A record is saved before anybody can see it, so what a client was told is
on storage. What runs, and what is undone, is not known here.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_task import TaskInProgress, TaskNotLoaded, TaskNotSaved, TaskStateRefuses, UnknownTask
from vdsm_mp.common.oneatatime import OneAtATime
from vdsm_mp.tasks.kept import Kept
from vdsm_mp.tasks.machine import DONE, reported
from vdsm_mp.tasks.record import TaskRecord, status
from vdsm_mp.tasks.store import SetAside, TaskStore

_log = logging.getLogger("storage.tasks")

#: Clearing, and storing that a task is to be undone, are a request or two to storage.
_DECIDES_WITHIN_S = 30.0


class TaskTable:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, TaskRecord] = {}
        self._aside: tuple[SetAside, ...] = ()
        self._kept = Kept()
        #: How often the role has been ours: what was put off in an earlier time is not done in a later one.
        self.roles = 0
        #: Threads that do, undo or finish an SPM task, and the end of one.
        self._at_work = 0
        self._rest = threading.Condition(self._lock)
        self._decisions = OneAtATime()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Inside, something of an SPM task may be written."""
        with self._lock:
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1
                self._rest.notify_all()

    def record(self, task_id: str) -> TaskRecord:
        """Raises: UnknownTask."""
        try:
            return self._records[task_id]
        except KeyError:
            raise UnknownTask(task_id) from None

    def put(self, record: TaskRecord, *, save: bool) -> None:
        """Replace a record. save: on storage first, when it is an SPM task. Raises: TaskNotSaved, UnknownTask."""
        if save and record.tag == "spm":
            self.save(record)
        with self._lock:
            if record.tag == "spm" and not self._kept.active:  # it went just now, and its tasks with it
                raise UnknownTask(record.id)
            self._records[record.id] = record

    def save(self, record: TaskRecord) -> None:
        """On storage; what clients see stays. Raises: TaskNotSaved, UnknownTask."""
        self._kept.save(record)

    def revoke(self, record: TaskRecord) -> None:
        """A task that is stored as done, or may be, is to be undone: before anything is, this record is stored instead.

        Raises: TaskNotSaved (it is stored as done), UnknownTask, the storage's errors.
        """
        try:
            self.put(record, save=True)
        except TaskNotSaved:
            if self._kept.tells_success(record.id):
                raise
            # Only the answer was lost, or the success found no room either: the next SPM would undo it all the same.
            self.put(record, save=False)

    def spm_tasks(self) -> list[TaskRecord]:
        return [task for task in list(self._records.values()) if task.tag == "spm"]

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
        return {task.id: status(task, reported(task.state)) for task in self.spm_tasks()}

    def infos(self) -> dict[str, dict[str, object]]:
        """{task id: {"id", "verb"}} of the SPM tasks."""
        return {task.id: {"id": task.id, "verb": task.verb} for task in self.spm_tasks()}

    def all_tasks(self) -> dict[str, dict[str, object]]:
        """{task id: …} of every task of this host, and of those set aside (state "unknown", with the reason).

        `state` is the exact one, `taskState` what Task.getStatus makes of it.
        """
        found: dict[str, dict[str, object]] = {
            task.id: {
                **status(task, reported(task.state)),
                "id": task.id,
                "verb": task.verb,
                "tag": task.tag,
                "state": task.state.value,
                "result": task.result,
            }
            for task in list(self._records.values())
        }
        for aside in self._aside:
            found[aside.id] = {
                "taskID": aside.id,
                "id": aside.id,
                "verb": "unknown",
                "tag": "spm",
                "state": "unknown",
                "result": "",
                "taskState": "unknown",
                "taskResult": "",
                "code": TaskNotLoaded.code,
                "message": f"set aside: {aside.reason}",
            }
        return found

    def clear(self, task_id: str) -> None:
        """Forget a task that is over, or one set aside. Raises: UnknownTask, TaskStateRefuses, TaskNotCleared, Busy."""
        if any(aside.id == task_id for aside in self._aside):
            self._kept.remove(task_id)
            with self._lock:
                self._aside = tuple(aside for aside in self._aside if aside.id != task_id)
            return
        with self._deciding(task_id):
            record = self.record(task_id)
            if record.state not in DONE:
                raise TaskStateRefuses(task_id, record.state.value)
            if record.tag == "spm":
                self._kept.remove(task_id)
            with self._lock:
                self._records.pop(task_id, None)

    def _deciding(self, task_id: str) -> AbstractContextManager[None]:
        """Inside, nobody else clears the task or begins to revert it. Raises: Busy."""
        return self._decisions.turn(task_id, _DECIDES_WITHIN_S, lambda: Busy(f"task {task_id}"))

    def unfinished_about(self, thing_id: str) -> str | None:
        """Id of an SPM task that is not over, on storage at least, and would undo something about this thing."""
        return next((task.id for task in self._about(thing_id)), None)

    def _about(self, thing_id: str) -> Iterator[TaskRecord]:
        for task in self.spm_tasks():
            # One that is over, which could not be stored, is rolled back again by the next SPM.
            left = self._kept.stored(task.id) or task if task.state in DONE else task
            if left.state not in DONE and any(thing_id in param for r in left.recoveries for param in r.params):
                yield task

    def uncleared(self) -> list[str]:
        """Ids of SPM tasks that are running or that nobody has cleared."""
        return sorted(task.id for task in self.spm_tasks())

    def refuse_while_uncleared(self) -> None:
        """Raises: TaskInProgress (406)."""
        ids = self.uncleared()
        if ids:
            raise TaskInProgress(", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else ""))

    def vitals(self) -> dict[str, int]:
        """For status: how many run, wait to be cleared, were set aside."""
        records = list(self._records.values())
        return {
            "running": sum(task.state not in DONE for task in records),
            "finished": sum(task.state in DONE for task in records),
            "set_aside": len(self._aside),
        }

    # --- where SPM tasks are stored

    def take_over(self, store: TaskStore) -> None:
        """The role is being taken: the stored tasks are ours now and listed; none is touched yet.

        Tasks that cannot be read are set aside and logged. Raises: the storage's errors; nothing was taken.
        """
        found, aside = store.load()
        for one in aside:
            _log.error("stored task %s is set aside: %s", one.id, one.reason)
        with self._lock:
            self._kept.take(store, found)
            self.roles += 1
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
