# SPDX-License-Identifier: Apache-2.0
"""Tasks whose records cannot be stored, or may be stored though nobody heard of it."""

import errno
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.background import HeldBackground
from tests.support.children import LocalChildren
from tests.support.spm_tasks import Undone, move, seen, spm, undo
from vdsm_mp.api.errors_storage import NoSpaceLeft
from vdsm_mp.api.errors_task import TaskAborted, TaskNotSaved
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.tasks.machine import TaskState
from vdsm_mp.tasks.record import Recovery, TaskRecord
from vdsm_mp.tasks.run import TaskRun
from vdsm_mp.tasks.store import TaskStore


def test_a_task_that_cannot_be_saved_is_not_begun(
    files: DomainIO, background: HeldBackground, undone: Undone, tmp_path: Path
) -> None:
    tasks = spm(files, background, undone)
    (tmp_path / "master/tasks").rmdir()
    with pytest.raises(TaskNotSaved):
        tasks.start("createVolume", lambda run: None, spm=True)
    assert background.waiting == []
    assert tasks.statuses() == {}


def test_success_is_not_told_when_it_could_not_be_saved(
    files: DomainIO, background: HeldBackground, undone: Undone, tmp_path: Path
) -> None:
    tasks = spm(files, background, undone)

    def job(run: TaskRun) -> None:
        (tmp_path / "master/tasks").rename(tmp_path / "master/away")

    task_id = tasks.start("createVolume", job, spm=True, recoveries=[undo(1)])
    background.run_all()
    assert seen(tasks, task_id) == ("finished", "cleanFailure", 407)
    assert set(undone) == {"1"}


def test_a_task_that_is_done_does_not_fail_because_a_child_died_while_that_was_stored(
    files: DomainIO, children: LocalChildren, background: HeldBackground, undone: Undone
) -> None:
    tasks = spm(files, background, undone)
    [name] = children.pids
    stopped: list[threading.Timer] = []

    def job(run: TaskRun) -> None:
        children.signal(*name, signal.SIGSTOP)
        stopped.append(threading.Timer(0.2, lambda: children.kill(*name)))
        stopped[0].start()

    task_id = tasks.start("switchMaster", job, spm=True)
    background.run_all()
    stopped[0].join()
    assert seen(tasks, task_id) == ("finished", "success", 0)
    assert seen(spm(files, HeldBackground(), undone), task_id) == ("finished", "success", 0)


class Full(TaskStore):
    """full: is there no room for this record?"""

    def __init__(self, files: DomainIO, full: Callable[[TaskRecord], bool]) -> None:
        super().__init__(files, store="/master/tasks")
        self._full = full

    def save(self, task: TaskRecord) -> None:
        if self._full(task):
            raise TaskNotSaved(task.id, "No space left on device")
        super().save(task)


def test_a_success_that_cannot_be_stored_is_undone_as_a_whole(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = spm(files, background, undone, Full(files, lambda task: task.state is TaskState.FINISHED))
    task_id = tasks.start("moveImage", move, spm=True, recoveries=[undo(1), undo(2)])
    background.run_all()
    assert undone == ["2", "1"]
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", TaskNotSaved.code)


def test_a_full_file_system_does_not_keep_a_task_from_undoing_what_fills_it(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    store = Full(files, lambda task: task.state is not TaskState.QUEUED and "1" not in undone)
    tasks = spm(files, background, undone, store)
    task_id = tasks.start("createVolume", lambda run: None, spm=True, recoveries=[undo(1), undo(2), undo(3)])
    background.run_all()
    assert undone == ["3", "2", "1"]
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", TaskNotSaved.code)
    assert [task.state for task in TaskStore(files, store="/master/tasks").load()[0]] == [TaskState.RECOVERED]


def test_what_the_next_spm_would_undo_once_more_is_told_until_it_is_cleared(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = spm(files, background, undone, Full(files, lambda task: task.state is not TaskState.QUEUED))
    task_id = tasks.start("createVolume", lambda run: None, spm=True, recoveries=[undo(1)])
    background.run_all()
    assert seen(tasks, task_id)[0] == "finished"
    assert tasks.unfinished_about("1") == task_id
    assert tasks.being_undone("1")
    tasks.clear(task_id)
    assert not tasks.being_undone("1")


def test_a_roll_back_waits_for_room_longer_than_for_anything_else(files: DomainIO, background: HeldBackground) -> None:
    tried = []

    def full(recovery: Recovery, task_id: str) -> None:
        tried.append(recovery)
        if len(tried) <= 10:
            raise NoSpaceLeft("a volume", "replace", errno.ENOSPC, "No space left on device")

    tasks = spm(files, background, full)
    task_id = tasks.start("createVolume", failing, spm=True, recoveries=[undo(1)])
    background.run_all()
    assert seen(tasks, task_id)[:2] == ("finished", "cleanSuccess")
    assert len(tried) == 11


def test_who_has_waited_for_room_does_not_give_up_at_the_next_mishap(
    files: DomainIO, background: HeldBackground
) -> None:
    tried: list[Recovery] = []

    def unlucky(recovery: Recovery, task_id: str) -> None:
        tried.append(recovery)
        if len(tried) <= 10:
            raise NoSpaceLeft("a volume", "replace", errno.ENOSPC, "No space left on device")
        if len(tried) <= 12:
            raise TaskAborted("the I/O process died")

    tasks = spm(files, background, unlucky)
    task_id = tasks.start("createVolume", failing, spm=True, recoveries=[undo(1)])
    background.run_all()
    assert seen(tasks, task_id)[:2] == ("finished", "cleanSuccess")
    assert len(tried) == 13


def failing(run: TaskRun) -> None:
    raise TaskAborted("it failed")


class LostAtTheEnd(TaskStore):
    """Saves that a task is done, but nobody hears of it. full: nothing finds room after that."""

    full = False
    lost = False

    def save(self, task: TaskRecord) -> None:
        if self.full and self.lost:
            raise TaskNotSaved(task.id, "No space left on device")
        super().save(task)
        if task.state is TaskState.FINISHED:
            self.lost = True
            raise TaskNotSaved(task.id, "the I/O process died during save_directory")


def test_a_success_that_may_be_stored_is_taken_back_before_anything_is_undone(
    files: DomainIO, background: HeldBackground
) -> None:
    def next_spm_sees(recovery: Recovery, task_id: str) -> None:
        [task] = TaskStore(files, store="/master/tasks").load()[0]
        seen_stored.append((task.state, len(task.recoveries)))

    seen_stored: list[tuple[TaskState, int]] = []
    tasks = spm(files, background, next_spm_sees, LostAtTheEnd(files, store="/master/tasks"))
    task_id = tasks.start("moveImage", move, spm=True, recoveries=[undo(1), undo(2)])
    background.run_all()
    assert seen_stored == [(TaskState.RECOVERING, 2), (TaskState.RECOVERING, 1)]
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", TaskNotSaved.code)


def test_what_is_stored_as_done_is_not_undone_as_long_as_that_cannot_be_taken_back(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    store = LostAtTheEnd(files, store="/master/tasks")
    store.full = True
    tasks = spm(files, background, undone, store)
    task_id = tasks.start("copyImage", lambda run: None, spm=True, recoveries=[undo(1)])
    background.run_all()
    assert undone == []
    assert seen(tasks, task_id) == ("finished", "cleanFailure", TaskNotSaved.code)
    assert [task.state for task in TaskStore(files, store="/master/tasks").load()[0]] == [TaskState.FINISHED]


def test_what_a_job_will_not_have_undone_any_more_is_stored_before_it_goes_on(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    stored: list[tuple[Recovery, ...]] = []

    def job(run: TaskRun) -> None:
        run.settle(undo(2), save=True)
        stored.append(TaskStore(files, store="/master/tasks").load()[0][0].recoveries)
        raise TaskAborted("and now it fails")

    tasks = spm(files, background, undone)
    tasks.start("createVolume", job, spm=True, recoveries=[undo(1)])
    background.run_all()
    assert (stored, undone) == ([(undo(2),)], ["2"])


class RevertUnheard(TaskStore):
    """Does not tell that a revert has begun. stored: whether that is stored."""

    stored = True

    def save(self, task: TaskRecord) -> None:
        if task.state is TaskState.RACQUIRING:
            if self.stored:
                super().save(task)
            raise TaskNotSaved(task.id, "the I/O process died during save_directory")
        super().save(task)


@pytest.mark.parametrize("stored", [True, False])
def test_a_revert_is_refused_only_when_the_next_spm_would_not_do_it_either(
    files: DomainIO, background: HeldBackground, undone: Undone, stored: bool
) -> None:
    store = RevertUnheard(files, store="/master/tasks")
    store.stored = stored
    tasks = spm(files, background, undone, store)
    task_id = tasks.start("createVolume", lambda run: None, spm=True, recoveries=[undo(1)])
    background.run_all()
    if stored:
        tasks.revert(task_id)
    else:
        with pytest.raises(TaskNotSaved):
            tasks.revert(task_id)
    background.run_all()
    assert undone == (["1"] if stored else [])
    [task] = TaskStore(files, store="/master/tasks").load()[0]
    assert task.state is (TaskState.RECOVERED if stored else TaskState.FINISHED)


class AnswerLost(TaskStore):
    """Saves, but nobody hears of it."""

    def save(self, task: TaskRecord) -> None:
        super().save(task)
        raise TaskNotSaved(task.id, "the I/O process died during save_directory")


def test_a_task_that_did_not_begin_leaves_nothing_stored(
    files: DomainIO, background: HeldBackground, undone: Undone, tmp_path: Path
) -> None:
    tasks = spm(files, background, undone, AnswerLost(files, store="/master/tasks"))
    with pytest.raises(TaskNotSaved):
        tasks.start("createVolume", lambda run: None, spm=True, recoveries=[undo(1)])
    assert list((tmp_path / "master/tasks").iterdir()) == []
    assert tasks.uncleared() == []
