# SPDX-License-Identifier: Apache-2.0
"""SPM tasks on the master domain: `master/tasks/ID/`, in VDSM's form (`record.py`), readable by any SPM of the pool.

Saving is all or nothing and on disk when it returns. Loading never fails as a whole: what cannot be read, or was
written by a newer program, is set aside with the reason, its files untouched, and the SPM starts without it.

On storage ID/ is the task, ID.temp/ one that is being written, ID.backup/ the one it replaces; a directory without
its ID.task file is a task whose clearing was cut short.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from vdsm_mp.api.errors_storage import IoChildDied, StorageFileMissing
from vdsm_mp.api.errors_task import TaskNotCleared, TaskNotLoaded, TaskNotSaved
from vdsm_mp.api.types import UUID_PATTERN
from vdsm_mp.common.errors import Error
from vdsm_mp.tasks.machine import TaskState
from vdsm_mp.tasks.record import TaskRecord, from_files, to_files

_log = logging.getLogger("storage.tasks")

_ID = re.compile(UUID_PATTERN)
_MAX_FILE_BYTES = 64 * 1024
#: In the order in which they are believed.
_FORMS = ("", ".temp", ".backup")


class ScannedFile(Protocol):
    @property
    def path(self) -> str: ...
    @property
    def data(self) -> bytes | None: ...


class Listed(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...


class Files(Protocol):
    """What is needed of the master domain's files; `storage.domain_io.DomainIO` is one. Paths are relative to it."""

    def readdir(self, path: str) -> Iterable[Listed]: ...

    def scan(self, path: str, suffix: str = "", *, data_limit: int = 0) -> Iterable[ScannedFile]: ...

    def save_directory(self, path: str, files: Mapping[str, str]) -> None:
        """The directory `path` has exactly these files, or is as it was. On disk when it returns."""
        ...

    def drop_directory(self, path: str, last: str) -> None:
        """Remove what `save_directory` made, beginning with the file `last`. Absent is fine."""
        ...


class SetAside(msgspec.Struct, frozen=True):
    """A stored task that is not run and not touched, and why."""

    id: str
    reason: str


class TaskStore:
    """The stored tasks of one pool. Calls block on the master domain; from pool threads only."""

    def __init__(self, files: Files, path: str = "master/tasks", *, store: str) -> None:
        """path: of the tasks directory, relative to files. store: the same as an absolute path, for VDSM's field."""
        self._files = files
        self._path = path
        self._store = store

    def save(self, task: TaskRecord) -> None:
        """Raises: TaskNotSaved; the stored task is then what it was, or (power cut, dead peer) already the new one."""
        files = to_files(task, self._store)
        try:
            _once_more(lambda: self._files.save_directory(f"{self._path}/{task.id}", files))
        except Error as e:
            raise TaskNotSaved(task.id, str(e)) from e

    def remove(self, task_id: str) -> None:
        """Forget a task; absent is fine. Raises: TaskNotCleared; it may come back with the next SPM."""
        try:
            # The name that makes it a task goes first: whatever is left without it is swept by the next load.
            _once_more(lambda: self._files.drop_directory(f"{self._path}/{task_id}", f"{task_id}.task"))
        except Error as e:
            raise TaskNotCleared(task_id, str(e)) from e

    def load(self) -> tuple[list[TaskRecord], list[SetAside]]:
        """All stored tasks, and those set aside. Remains of saves and clears that were cut short are removed.

        Raises: the storage's errors when the directory itself cannot be read.
        """
        stored = self._stored()
        tasks: list[TaskRecord] = []
        aside: list[SetAside] = []
        for task_id in sorted({name.partition(".")[0] for name in stored}):
            if not _ID.match(task_id):
                aside.append(SetAside(task_id, "its name is not an id"))
                continue
            forms = {form: stored[task_id + form] for form in _FORMS if task_id + form in stored}
            whole = {form: files for form, files in forms.items() if f"{task_id}.task" in files}
            try:
                if whole:
                    tasks.append(_first_readable(task_id, whole))
                    continue
            except TaskNotLoaded as e:
                if list(forms) != [".temp"]:
                    aside.append(SetAside(task_id, e.reason))
                    continue
            # Cleared, or never told to anybody: its first saving was cut short.
            self.remove(task_id)
        return tasks, aside

    def tells_success(self, task_id: str) -> bool:
        """Would the next SPM take the task for done? Raises: the storage's errors."""
        try:
            stored = self._stored()
        except StorageFileMissing:  # the directory of all tasks
            return False
        whole = {form: stored[task_id + form] for form in _FORMS if f"{task_id}.task" in stored.get(task_id + form, {})}
        try:
            return bool(whole) and _first_readable(task_id, whole).state is TaskState.FINISHED
        except TaskNotLoaded:
            return False

    def _stored(self) -> dict[str, dict[str, bytes]]:
        """{directory: {file: content}} of all tasks. Raises: the storage's errors."""
        stored: dict[str, dict[str, bytes]] = {
            entry.name: {} for entry in self._files.readdir(self._path) if entry.kind == "dir"
        }
        for found in self._files.scan(self._path, data_limit=_MAX_FILE_BYTES):
            directory, _, name = found.path.removeprefix(f"{self._path}/").partition("/")
            stored.setdefault(directory, {})[name] = found.data or b""
        return stored


def _once_more(act: Callable[[], None]) -> None:
    """Both calls end the same when they are made twice. A child that died is replaced for the next call; a task that is
    done must not fail for that."""
    try:
        act()
    except IoChildDied as e:
        _log.info("once more: %s", e)
        act()


def _first_readable(task_id: str, forms: Mapping[str, Mapping[str, bytes]]) -> TaskRecord:
    """The live form, else the one being written, else the one it replaces. Raises: TaskNotLoaded (the live one's)."""
    problem: TaskNotLoaded | None = None
    for files in forms.values():
        try:
            return from_files(task_id, files)
        except TaskNotLoaded as e:
            problem = problem or e
    assert problem is not None
    raise problem
