# SPDX-License-Identifier: Apache-2.0
"""A running task, as its job sees it: how far it is, how it is undone, what follows when it is done."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from vdsm_mp.tasks.progress import Progress
from vdsm_mp.tasks.record import Recovery
from vdsm_mp.tasks.table import TaskTable

#: What a task does. Returns what goes into the result ({"uuid": …} or None).
Job = Callable[["TaskRun"], Any]


class TaskRun:
    """A running task, as its job sees it.

    finish: what follows once success is stored and nothing is undone any more. The task is told of as finished after
    it; when this process dies before, the next SPM does it.
    """

    def __init__(self, tasks: TaskTable, task_id: str, progress: Progress) -> None:
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
