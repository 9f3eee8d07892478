# SPDX-License-Identifier: Apache-2.0
"""Tasks that failed or were cut short are rolled back, and what follows a success is done. In the background.

Recoveries run last pushed first, each gone from the store once it has run. What fails is tried again a little later.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_storage import NoSpaceLeft
from vdsm_mp.api.errors_task import RecoveryInvalid, TaskNotSaved, UnknownTask
from vdsm_mp.api.ports import Background
from vdsm_mp.common.errors import Error
from vdsm_mp.tasks.machine import TaskState, begin_recovery
from vdsm_mp.tasks.record import Recovery, TaskRecord
from vdsm_mp.tasks.table import TaskTable

_log = logging.getLogger("storage.tasks")

#: A step that cannot be undone now may be in a moment: a full disk, a server that restarts.
UNDO_ATTEMPTS = 3
UNDO_PAUSE_S = 2.0
#: Somebody has to make room: about three quarters of an hour, in which clients see the task as being cleaned up. Given
#: up, and cleared by its client, it would leave a disk that cannot be used.
FULL_ATTEMPTS = 60
LONGEST_PAUSE_S = 60.0

#: Runs one recovery of a task. Raises: any Error; the task then ends as failed.
Undo = Callable[[Recovery, str], None]


class Tries(msgspec.Struct, frozen=True):
    """What has failed so far, counted apart: who has waited long for room tries what is in the way then as often."""

    full: int = 0
    other: int = 0

    def and_this(self, error: Error) -> "Tries":
        if isinstance(error, NoSpaceLeft) or isinstance(error.__cause__, NoSpaceLeft):
            return replace(self, full=self.full + 1)
        return replace(self, other=UNDO_ATTEMPTS if isinstance(error, RecoveryInvalid) else self.other + 1)

    @property
    def again(self) -> bool:
        return self.full < FULL_ATTEMPTS and self.other < UNDO_ATTEMPTS

    @property
    def pause_s(self) -> float:
        return min(UNDO_PAUSE_S * (self.full + self.other), LONGEST_PAUSE_S)


#: Of a roll-back that begins.
NONE_YET = Tries()


class Undoing:
    def __init__(self, table: TaskTable, background: Background, undo: Undo) -> None:
        self._table = table
        self._background = background
        self._undo = undo
        #: Their success may be stored.
        self._in_doubt: set[str] = set()

    def doubt(self, task_id: str) -> None:
        """Storing that it is done failed: this is taken back before it is undone, or the next SPM lists it as done."""
        self._in_doubt.add(task_id)

    def finish(self, done: TaskRecord, step: Recovery) -> None:
        """The step that is left of a task that is done; then it is forgotten. A step that fails stays stored."""
        try:
            self._undo(step, done.id)
        except Exception as e:  # the task is done, whatever comes of this
            foreseen = isinstance(e, Error)
            _log.error("task %s succeeded, what was to follow did not: %s", done.id, e, exc_info=not foreseen)
            self._table.put(replace(done, recoveries=(*done.recoveries, step)), save=False)
            return
        self._put_even_unsaved(done)

    def finish_later(self, task: TaskRecord) -> None:
        """What a worker that died left of a task that is done."""
        steps = [one for one in task.recoveries if one.finishes]
        rest = replace(task, recoveries=tuple(one for one in task.recoveries if not one.finishes))
        for step in steps:
            name = f"finish {task.id}"
            self._background.start(name, lambda step=step: self._finish_if_kept(rest, step))  # type: ignore[misc]

    def _finish_if_kept(self, done: TaskRecord, step: Recovery) -> None:
        with self._table.at_work(), suppress(UnknownTask):  # the role went meanwhile
            self._table.record(done.id)
            self.finish(done, step)

    def roll_back(self, task_id: str, before: Tries = NONE_YET) -> None:
        """before: what has failed already."""
        with self._table.at_work():
            self._roll_back(task_id, before)

    def _roll_back(self, task_id: str, before: Tries) -> None:
        try:
            self._attempt(task_id, before)
        except UnknownTask:  # the role went meanwhile
            self._in_doubt.discard(task_id)
        except Exception as e:
            _log.exception("task %s could not be rolled back", task_id)
            self._in_doubt.discard(task_id)
            record = replace(self._table.record(task_id), state=TaskState.FAILED)
            self._put_even_unsaved(replace(record, code=record.code or 100, message=f"roll-back failed: {e!r}"))

    def _attempt(self, task_id: str, before: Tries) -> None:
        """Run what is left of the recoveries, last pushed first. What fails is tried again a little later.

        Raises: UnknownTask (the role went meanwhile).
        """
        record = self._table.record(task_id)
        record = replace(record, state=begin_recovery(record.state))
        self._table.put(record, save=False)
        try:
            if task_id in self._in_doubt:
                self._table.revoke(record)
                self._in_doubt.discard(task_id)
            while record.recoveries:
                self._undo(record.recoveries[-1], task_id)
                record = replace(self._table.record(task_id), recoveries=record.recoveries[:-1])
                self._put_step_undone(record)
            self._table.put(record.moved(TaskState.RECOVERED), save=True)
        except UnknownTask:
            raise
        except Error as e:
            tries = before.and_this(e)
            if tries.again and not self._background.draining:
                _log.warning("task %s is not rolled back yet (%d): %s", task_id, tries.full + tries.other, e)
                again = partial(self._once_more, task_id, tries, self._table.roles)
                self._background.later(tries.pause_s, f"recover {task_id}", again)
                return
            _log.error("task %s could not be rolled back: %s", task_id, e)
            self._in_doubt.discard(task_id)
            failed = self._table.record(task_id).moved(TaskState.FAILED)
            if not failed.code:
                failed = replace(failed, code=e.kept_code, message=str(e))
            self._put_even_unsaved(failed)

    def _once_more(self, task_id: str, before: Tries, roles: int) -> None:
        if roles == self._table.roles:  # else it was read from storage again, and is rolled back since
            self.roll_back(task_id, before)

    def _put_step_undone(self, record: TaskRecord) -> None:
        """On a full file system this is not stored: the steps to come may be those that make room.

        Who goes on with what is stored undoes once more what is undone, which does nothing.
        """
        try:
            self._table.put(record, save=True)
        except TaskNotSaved as e:
            _log.warning("task %s: that a step is undone is not on storage: %s", record.id, e)
            self._table.put(record, save=False)

    def _put_even_unsaved(self, record: TaskRecord) -> None:
        try:
            self._table.put(record, save=True)
        except Error as e:
            # What is on storage is an earlier state of the same roll-back, which the next SPM runs again.
            _log.error("task %s ended, but this is not on storage: %s", record.id, e)
            self._table.put(record, save=False)


def unknown_recovery(recovery: Recovery) -> RecoveryInvalid:
    """For an `Undo` that does not know a name."""
    return RecoveryInvalid(recovery.name, f"{recovery.module}.{recovery.owner}.{recovery.function} is not known here")
