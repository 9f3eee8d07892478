# SPDX-License-Identifier: Apache-2.0
"""A task that is over, cleared by one client and reverted by another at the same moment: one of them is refused."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.background import HeldBackground
from tests.support.spm_tasks import Undone, seen, spm, undo
from vdsm_mp.api.errors_task import TaskNotFinished, TaskStateRefuses, UnknownTask
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.tasks.registry import Tasks
from vdsm_mp.tasks.run import TaskRun
from vdsm_mp.tasks.store import TaskStore

pytestmark = pytest.mark.timeout(30)


def done(tasks: Tasks, background: HeldBackground) -> str:
    def job(run: TaskRun) -> None:
        run.settle(undo(7))

    task_id = tasks.start("createVolume", job, spm=True)
    background.run_all()
    return task_id


class Gate:
    """Whoever comes first waits in it, after it has said so; what is behind it is the real thing."""

    def __init__(self, behind: Callable[..., Any]) -> None:
        self._behind = behind
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, *args: Any) -> Any:
        if not self.reached.is_set():
            self.reached.set()
            assert self.open.wait(20)
        return self._behind(*args)


def test_one_that_is_being_cleared_is_not_reverted(
    files: DomainIO, background: HeldBackground, undone: Undone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told as being undone, and was not, or was there again after it was cleared."""
    store = TaskStore(files, store="/master/tasks")
    tasks = spm(files, background, undone, store)
    task_id = done(tasks, background)
    gate = Gate(store.remove)
    monkeypatch.setattr(store, "remove", gate)
    with ThreadPoolExecutor(2) as threads:
        clearing = threads.submit(tasks.clear, task_id)
        assert gate.reached.wait(20)
        reverting = threads.submit(tasks.revert, task_id)
        threading.Timer(0.3, gate.open.set).start()
        assert clearing.exception(20) is None
        assert isinstance(reverting.exception(20), UnknownTask)
    background.run_all()
    assert undone == []
    assert TaskStore(files, store="/master/tasks").load() == ([], [])


def test_one_that_is_about_to_be_undone_is_neither_cleared_nor_undone_twice(
    files: DomainIO, background: HeldBackground, undone: Undone, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TaskStore(files, store="/master/tasks")
    tasks = spm(files, background, undone, store)
    task_id = done(tasks, background)
    gate = Gate(store.save)
    monkeypatch.setattr(store, "save", gate)
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(tasks.revert, task_id)
        assert gate.reached.wait(20)
        second, clearing = threads.submit(tasks.revert, task_id), threads.submit(tasks.clear, task_id)
        threading.Timer(0.3, gate.open.set).start()
        assert first.exception(20) is None
        assert isinstance(second.exception(20), TaskNotFinished)
        assert isinstance(clearing.exception(20), TaskStateRefuses)
    background.run_all()
    assert undone == ["7"]
    assert seen(tasks, task_id)[:2] == ("finished", "cleanSuccess")
