# SPDX-License-Identifier: Apache-2.0
"""Where the SPM tasks of this host are stored: on the master domain, and while the master moves on both.

While it moves (`begin_move` … `end_move` or `cancel_move`) every save and every removal goes to the old master and then
to the new one, so that whichever of the two is master after a death has each task as clients were told of it.
"""

import threading
from collections.abc import Iterable

from vdsm_mp.api.errors_task import UnknownTask
from vdsm_mp.common.clock import mono_s
from vdsm_mp.tasks.record import TaskRecord
from vdsm_mp.tasks.store import TaskStore


class Kept:
    """Thread-safe; one task is saved or removed by one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stores: tuple[TaskStore, ...] = ()
        #: Of every task that is stored, or about to be.
        self._turns: dict[str, threading.Lock] = {}
        self._stored: dict[str, TaskRecord] = {}

    @property
    def active(self) -> bool:
        """The role is ours."""
        return bool(self._stores)

    def take(self, store: TaskStore, tasks: Iterable[TaskRecord]) -> None:
        """The role is ours; these are stored."""
        with self._lock:
            self._stores = (store,)
            self._stored = {task.id: task for task in tasks}
            self._turns = {task_id: threading.Lock() for task_id in self._stored}

    def drop(self) -> None:
        """The role is gone; what is stored stays."""
        with self._lock:
            self._stores = ()

    def is_quiet(self, within_s: float) -> bool:
        """After `drop`: is nothing being saved or removed any more? Waits for that, so long at most."""
        ends = mono_s() + within_s
        with self._lock:
            turns = list(self._turns.values())
        for turn in turns:
            if not turn.acquire(timeout=max(0.0, ends - mono_s())):
                return False
            turn.release()
        return True

    def save(self, record: TaskRecord) -> None:
        """Raises: TaskNotSaved, UnknownTask (the role is gone and the task with it)."""
        with self._turn(record.id):
            for store in self._where(record.id):
                store.save(record)
            self._stored[record.id] = record

    def stored(self, task_id: str) -> TaskRecord | None:
        """What was stored last, as far as that is known."""
        return self._stored.get(task_id)

    def tells_success(self, task_id: str) -> bool:
        """Would whoever is SPM next take the task for done? Raises: the storage's errors."""
        with self._turn(task_id):
            return any(store.tells_success(task_id) for store in self._stores)

    def remove(self, task_id: str) -> None:
        """Absent is fine, and so is a role that is gone. Raises: TaskNotCleared."""
        with self._turn(task_id):
            for store in self._stores:
                store.remove(task_id)
            self._stored.pop(task_id, None)
        with self._lock:
            self._turns.pop(task_id, None)

    def begin_move(self, store: TaskStore) -> None:
        """`store`, which is empty, has all tasks when this returns, and gets all that happens to them from then on.

        Raises: TaskNotSaved (cancel it then).
        """
        with self._lock:
            self._stores = (*self._stores[:1], store) if self._stores else ()
            before = list(self._turns)
        for task_id in before:
            with self._turn(task_id):
                record = self._stored.get(task_id)
                if record is not None:
                    store.save(record)

    def end_move(self) -> None:
        """The new master is the one."""
        with self._lock:
            self._stores = self._stores[-1:]

    def cancel_move(self) -> None:
        """The old master stays."""
        with self._lock:
            self._stores = self._stores[:1]

    def _turn(self, task_id: str) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(task_id, threading.Lock())

    def _where(self, task_id: str) -> tuple[TaskStore, ...]:
        stores = self._stores
        if not stores:
            raise UnknownTask(task_id)
        return stores
