# SPDX-License-Identifier: Apache-2.0
"""Tasks as clients see them, with a real directory behind them."""

import threading
from collections.abc import Callable

import pytest

from tests.support.background import HeldBackground, ThreadBackground
from tests.support.eventually import eventually
from tests.support.spm_tasks import Undone, last_step, move, seen, spm, undo
from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_task import TaskAborted, TaskInProgress, TaskNotFinished, TaskStateRefuses, UnknownTask
from vdsm_mp.common.errors import Internal
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.tasks.machine import TaskState
from vdsm_mp.tasks.record import Recovery
from vdsm_mp.tasks.registry import Tasks
from vdsm_mp.tasks.run import TaskRun
from vdsm_mp.tasks.store import TaskStore


def test_a_task_runs_and_stays_until_it_is_cleared(files: DomainIO, background: HeldBackground, undone: Undone) -> None:
    tasks = spm(files, background, undone)
    task_id = tasks.start("createVolume", lambda run: {"uuid": "x"}, spm=True, recoveries=[undo(1)])
    assert seen(tasks, task_id) == ("running", "", 0)
    assert tasks.infos() == {task_id: {"id": task_id, "verb": "createVolume"}}
    with pytest.raises(TaskStateRefuses):
        tasks.clear(task_id)
    background.run_all()
    assert seen(tasks, task_id) == ("finished", "success", 0)
    assert tasks.status(task_id)["message"] == "1 jobs completed successfully"
    assert undone == []
    with pytest.raises(TaskInProgress):
        tasks.refuse_while_uncleared()
    tasks.clear(task_id)
    with pytest.raises(UnknownTask):
        tasks.status(task_id)
    assert files.readdir("master/tasks") == []
    tasks.refuse_while_uncleared()


def test_a_failed_task_undoes_its_steps_last_first(files: DomainIO, background: HeldBackground, undone: Undone) -> None:
    tasks = spm(files, background, undone)

    def job(run: TaskRun) -> None:
        run.push(undo(2), undo(3))
        raise TaskAborted("no luck")

    task_id = tasks.start("createVolume", job, spm=True, recoveries=[undo(1)])
    background.run_all()
    assert undone == ["3", "2", "1"]
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", 411)
    assert "no luck" in str(tasks.status(task_id)["message"])
    details = tasks.all_tasks()[task_id]
    assert details.items() >= {
        "id": task_id, "verb": "createVolume", "tag": "spm", "state": "recovered", "result": "", "code": 411,
        "taskResult": "cleanSuccess", "message": tasks.status(task_id)["message"],
    }.items()  # fmt: skip


def test_a_bug_in_a_job_is_a_failed_task_and_not_a_lost_one(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = spm(files, background, undone)
    task_id = tasks.start("createVolume", lambda run: 1 // 0, spm=True, recoveries=[undo(1)])
    background.run_all()
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", 100)
    assert undone == ["1"]


def test_a_task_keeps_no_number_that_only_an_answer_can_have(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = spm(files, background, undone)

    def job(run: TaskRun) -> None:
        raise Internal

    task_id = tasks.start("createVolume", job, spm=True)
    background.run_all()
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", 100)


def test_a_step_that_cannot_be_undone_ends_as_failed_and_keeps_the_rest(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = spm(files, background, undone)
    task_id = tasks.start("x", lambda run: 1 // 0, spm=True, recoveries=[undo(1), undo(13), undo(2)])
    background.run_all()
    assert undone == ["2", "13", "13", "13"]
    assert seen(tasks, task_id) == ("finished", "cleanFailure", 100)
    assert len(tasks.record(task_id).recoveries) == 2


def test_a_step_that_cannot_be_undone_now_is_tried_again(files: DomainIO, background: HeldBackground) -> None:
    tried: list[str] = []

    def undo_at_the_second_attempt(recovery: Recovery, task_id: str) -> None:
        tried.append(recovery.params[0])
        if tried.count("1") == 1:
            raise TaskAborted("the disk is full")

    tasks = spm(files, background, undo_at_the_second_attempt)
    task_id = tasks.start("x", lambda run: 1 // 0, spm=True, recoveries=[undo(1), undo(2)])
    background.run_all()
    assert tried == ["2", "1", "1"]
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", 100)


def test_stopping_a_task_cuts_short_what_it_waits_in_and_rolls_back(files: DomainIO, undone: Undone) -> None:
    threads = ThreadBackground()
    tasks = spm(files, threads, undone)
    inside, cut = threading.Event(), threading.Event()

    def job(run: TaskRun) -> None:
        with run.progress.interruptible(cut.set):
            inside.set()
            assert cut.wait(10)
        run.check()

    task_id = tasks.start("copyImage", job, spm=True, recoveries=[undo(1)])
    assert inside.wait(10)
    with pytest.raises(TaskNotFinished):
        tasks.revert(task_id)
    tasks.stop(task_id)
    eventually(lambda: seen(tasks, task_id) == ("finished", "cleanSuccess", 411))
    threads.stop()
    assert undone == ["1"]
    tasks.stop(task_id)


def test_a_task_that_waits_for_its_turn_is_stopped_without_waiting(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    queue = HeldBackground()
    tasks = Tasks(background, undone, queue)
    tasks.take_over(TaskStore(files, store="/master/tasks"))
    ran: list[str] = []
    task_id = tasks.start("copyImage", lambda run: ran.append("job"), spm=True, recoveries=[undo(1)])
    tasks.stop(task_id)
    tasks.stop(task_id)
    background.run_all()
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", 411)
    tasks.clear(task_id)
    queue.run_all()
    # What it was to undo may be another's: it has done nothing itself.
    assert (ran, undone) == ([], [])
    assert tasks.all_tasks() == {}


class Full(HeldBackground):
    """Takes nothing more for a while."""

    full = True

    def start(self, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        if self.full:
            raise Busy("background work")
        super().start(name, job, key=key)


@pytest.mark.parametrize("again", [True, False])
def test_a_task_whose_stop_found_no_thread_ends_when_it_is_asked_again_or_its_turn_comes(
    files: DomainIO, undone: Undone, *, again: bool
) -> None:
    queue, background = HeldBackground(), Full()
    tasks = Tasks(background, undone, queue)
    tasks.take_over(TaskStore(files, store="/master/tasks"))
    ran: list[str] = []
    task_id = tasks.start("copyImage", lambda run: ran.append("job"), spm=True)
    with pytest.raises(Busy):
        tasks.stop(task_id)
    background.full = False
    if again:
        tasks.stop(task_id)
        background.run_all()
    else:
        queue.run_all()
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", 411)
    assert ran == []


def test_a_revert_that_finds_no_thread_leaves_the_task_as_it_was(files: DomainIO, undone: Undone) -> None:
    queue, background = HeldBackground(), Full()
    tasks = Tasks(background, undone, queue)
    tasks.take_over(TaskStore(files, store="/master/tasks"))
    task_id = tasks.start("createVolume", lambda run: None, spm=True, recoveries=[undo(1)])
    queue.run_all()
    with pytest.raises(Busy):
        tasks.revert(task_id)
    assert seen(tasks, task_id) == ("finished", "success", 0)
    background.full = False
    tasks.revert(task_id)
    background.run_all()
    assert (seen(tasks, task_id), undone) == (("finished", "cleanSuccess", 0), ["1"])


def test_what_is_being_undone_is_told_until_it_is_over(files: DomainIO, background: HeldBackground) -> None:
    seen_inside: list[bool] = []

    def undo_one(recovery: Recovery, task_id: str) -> None:
        seen_inside.append(tasks.being_undone("thing"))

    about = Recovery("undo", "fileVolume", "FileVolume", "shareVolumeRollback", ("/images/thing/x",))
    tasks = spm(files, background, undo_one)
    job = lambda run: seen_inside.append(tasks.being_undone("thing"))  # noqa: E731 -- named for what it does
    task_id = tasks.start("copyImage", job, spm=True, recoveries=[about])
    background.run_all()
    tasks.clear(task_id)
    died = tasks.start("copyImage", lambda run: None, spm=True, recoveries=[about])
    assert not tasks.being_undone("thing")  # it waits for its turn
    tasks = spm(files, background, undo_one)
    assert tasks.being_undone("thing")
    assert not tasks.being_undone("other")
    assert tasks.recover() == [died]
    background.waiting.pop()[1]()
    assert seen_inside == [False, True]
    assert not tasks.being_undone("thing")


def test_a_finished_task_can_be_reverted(files: DomainIO, background: HeldBackground, undone: Undone) -> None:
    tasks = spm(files, background, undone)

    def job(run: TaskRun) -> None:
        run.settle(undo(7))

    task_id = tasks.start("createVolume", job, spm=True, recoveries=[undo(1), undo(2)])
    background.run_all()
    assert undone == []
    tasks.revert(task_id)
    background.run_all()
    assert undone == ["7"]
    assert seen(tasks, task_id)[:2] == ("finished", "cleanSuccess")


def test_what_is_left_of_a_task_that_is_done_is_done_before_it_is_told(
    files: DomainIO, background: HeldBackground
) -> None:
    told: list[object] = []
    stored: list[tuple[TaskState, tuple[Recovery, ...]]] = []

    def finish(recovery: Recovery, task_id: str) -> None:
        told.append(tasks.status(task_id)["taskState"])
        [task], _ = TaskStore(files, store="/master/tasks").load()
        stored.append((task.state, task.recoveries))

    tasks = spm(files, background, finish)
    task_id = tasks.start("moveImage", move, spm=True, recoveries=[undo(1)])
    background.run_all()
    assert told == ["running"] and stored == [(TaskState.FINISHED, (last_step(7),))]
    assert seen(tasks, task_id) == ("finished", "success", 0)
    [task], _ = TaskStore(files, store="/master/tasks").load()
    assert task.recoveries == ()


def test_a_task_that_is_done_is_reverted_without_its_last_step(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    def cannot(recovery: Recovery, task_id: str) -> None:
        if recovery.finishes:
            raise Internal("the source is not there now")
        undone(recovery, task_id)

    tasks = spm(files, background, cannot)

    def job(run: TaskRun) -> None:
        run.settle(undo(2))
        run.finish = last_step(7)

    task_id = tasks.start("moveImage", job, spm=True)
    background.run_all()
    tasks.revert(task_id)
    background.run_all()
    assert undone == ["2"]
