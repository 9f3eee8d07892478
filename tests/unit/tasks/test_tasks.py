# SPDX-License-Identifier: Apache-2.0
"""Tasks as clients see them, with a real directory behind them."""

import errno
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import domains
from tests.support.background import HeldBackground, ThreadBackground
from tests.support.children import LocalChildren
from tests.support.eventually import eventually
from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_storage import NoSpaceLeft
from vdsm_mp.api.errors_task import (
    TaskAborted,
    TaskInProgress,
    TaskNotFinished,
    TaskNotSaved,
    TaskStateRefuses,
    UnknownTask,
)
from vdsm_mp.common.errors import Internal
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.tasks.machine import TaskState
from vdsm_mp.tasks.record import FINISH, Recovery, TaskRecord
from vdsm_mp.tasks.registry import TaskRun, Tasks
from vdsm_mp.tasks.store import TaskStore
from vdsm_mp.tasks.undoing import Undo


def undo(n: int) -> Recovery:
    return Recovery(f"undo {n}", "fileVolume", "FileVolume", "shareVolumeRollback", (str(n),))


class Undone(list[str]):
    def __call__(self, recovery: Recovery, task_id: str) -> None:
        self.append(recovery.params[0])
        if recovery.params[0] == "13":
            raise TaskAborted("thirteen cannot be undone")


@pytest.fixture
def files(tmp_path: Path, children: LocalChildren) -> Iterator[DomainIO]:
    (tmp_path / "master/tasks").mkdir(parents=True)
    io = DomainIO(children, "tasks", str(tmp_path), deadline_s=10)
    yield io
    io.close()


@pytest.fixture
def children() -> Iterator[LocalChildren]:
    made = LocalChildren()
    yield made
    made.stop()


@pytest.fixture
def undone() -> Undone:
    return Undone()


@pytest.fixture
def background() -> HeldBackground:
    return HeldBackground()


def spm(files: DomainIO, background: HeldBackground | ThreadBackground, undo_step: Undo) -> Tasks:
    """A host that has just taken the role."""
    tasks = Tasks(background, undo_step)
    tasks.take_over(TaskStore(files, store="/master/tasks"))
    return tasks


def seen(tasks: Tasks, task_id: str) -> tuple[object, ...]:
    status = tasks.status(task_id)
    return status["taskState"], status["taskResult"], status["code"]


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

    tasks = Tasks(background, undo_at_the_second_attempt)
    tasks.take_over(TaskStore(files, store="/master/tasks"))
    task_id = tasks.start("x", lambda run: 1 // 0, spm=True, recoveries=[undo(1), undo(2)])
    background.run_all()
    assert tried == ["2", "1", "1"]
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", 100)


def test_the_next_spm_lists_what_is_over_and_rolls_back_what_was_running(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    first = spm(files, background, undone)
    done = first.start("createVolume", lambda run: {"uuid": "x"}, spm=True)
    failed = first.start("deleteImage", lambda run: 1 // 0, spm=True)
    background.run_all()
    running = first.start("copyImage", lambda run: None, spm=True, recoveries=[undo(1), undo(2)])

    second = spm(files, HeldBackground(), undone)
    assert seen(second, done) == ("finished", "success", 0)
    assert seen(second, failed) == ("finished", "cleanSuccess", 100)
    assert seen(second, running) == ("running", "", 0)

    threads = ThreadBackground()
    third = spm(files, threads, undone)
    assert third.recover() == [running]
    eventually(lambda: seen(third, running)[:2] == ("finished", "cleanSuccess"))
    threads.stop()
    assert undone == ["2", "1"]
    assert third.infos()[running]["verb"] == "copyImage"


def test_a_roll_back_that_was_cut_short_goes_on_where_it_was(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    class Killed(BaseException):
        pass

    def die_in_the_first(recovery: Recovery, task: str) -> None:
        undone(recovery, task)
        if recovery == undo(1):
            raise Killed

    first = spm(files, background, die_in_the_first)
    task_id = first.start("x", lambda run: 1 // 0, spm=True, recoveries=[undo(1), undo(2)])
    with pytest.raises(Killed):
        background.run_all()
    assert undone == ["2", "1"]
    second = spm(files, background, undone)
    second.recover()
    background.run_all()
    assert undone == ["2", "1", "1"]
    assert seen(second, task_id)[:2] == ("finished", "cleanSuccess")


def test_stored_tasks_that_cannot_be_read_are_set_aside_and_do_not_stop_the_spm(
    files: DomainIO, background: HeldBackground, undone: Undone, tmp_path: Path
) -> None:
    first = spm(files, background, undone)
    good, newer, broken = (first.start("createVolume", lambda run: None, spm=True) for _ in range(3))
    background.run_all()
    head = tmp_path / f"master/tasks/{newer}/{newer}.task"
    head.write_text(head.read_text().replace("metadataVersion = 1", "metadataVersion = 2"))
    (tmp_path / f"master/tasks/{broken}/{broken}.task").write_bytes(b"\xff\0garbage")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    second = spm(files, background, undone)
    assert set(second.statuses()) == {good}
    assert second.recover() == []
    listed = second.all_tasks()
    assert "newer" in str(listed[newer]["message"])
    assert listed[broken]["taskState"] == "unknown"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    second.clear(good)
    second.refuse_while_uncleared()
    second.clear(newer)
    assert newer not in second.all_tasks()


def test_tasks_of_vdsm_are_taken_over(tmp_path: Path, background: HeldBackground, undone: Undone) -> None:
    export = domains.unpack(tmp_path)["export"]
    children = LocalChildren()
    io = DomainIO(children, "tasks", str(export.root), deadline_s=10)
    done: list[str] = []
    try:
        tasks = Tasks(background, lambda recovery, task_id: done.append(recovery.function))
        tasks.take_over(TaskStore(io, store="x"))
        by_state = {status["taskResult"]: task_id for task_id, status in tasks.statuses().items()}
        assert set(by_state) == {"success", "cleanSuccess", ""}
        assert tasks.recover() == [by_state[""]]
        background.run_all()
        assert done == ["halfbakedVolumeRollback", "create_image_rollback"]
        assert seen(tasks, by_state[""])[:2] == ("finished", "cleanSuccess")
    finally:
        io.close()
        children.stop()


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


def test_remains_of_a_save_or_a_clear_that_was_cut_short_are_swept(
    files: DomainIO, background: HeldBackground, undone: Undone, tmp_path: Path
) -> None:
    tasks = spm(files, background, undone)
    kept, cleared, half, old = (tasks.start("x", lambda run: None, spm=True) for _ in range(4))
    background.run_all()
    where = tmp_path / "master/tasks"
    (where / cleared / f"{cleared}.task").unlink()
    (where / half).rename(where / f"{half}.temp")
    (where / half).with_suffix(".temp").joinpath(f"{half}.task").unlink()
    (where / old).rename(where / f"{old}.backup")
    again = spm(files, background, undone)
    assert set(again.statuses()) == {kept, old}
    assert {path.name for path in where.iterdir()} == {kept, f"{old}.backup"}
    again.clear(old)
    assert {path.name for path in where.iterdir()} == {kept}


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


class Narrow(HeldBackground):
    """Takes no more than so many at once, as the real one does."""

    def start(self, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        if len(self.waiting) >= 20:
            raise Busy("background work")
        super().start(name, job, key=key)


def test_more_tasks_are_rolled_back_than_the_background_takes_at_once(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    died = spm(files, background, undone)
    for n in range(100, 130):
        died.start("createVolume", lambda run: None, spm=True, recoveries=[undo(n)])
    narrow = Narrow()
    tasks = spm(files, narrow, undone)
    assert len(tasks.recover()) == 30
    narrow.run_all()
    assert sorted(undone) == [str(n) for n in range(100, 130)]
    assert {task["taskResult"] for task in tasks.statuses().values()} == {"cleanSuccess"}


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
    tasks = Tasks(background, undo_one)
    tasks.take_over(TaskStore(files, store="/master/tasks"))
    assert tasks.being_undone("thing")
    assert not tasks.being_undone("other")
    assert tasks.recover() == [died]
    background.waiting.pop()[1]()
    assert seen_inside == [False, True]
    assert not tasks.being_undone("thing")


def test_a_record_that_is_kept_when_the_role_has_just_gone_does_not_come_back(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = spm(files, background, undone)

    class GoneMeanwhile(TaskStore):
        def save(self, task: TaskRecord) -> None:
            super().save(task)
            if task.state is TaskState.FINISHED:
                tasks.let_go()

    tasks.take_over(GoneMeanwhile(files, store="/master/tasks"))
    tasks.start("createVolume", lambda run: None, spm=True)
    background.run_all()
    assert tasks.all_tasks() == {}


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


@pytest.mark.parametrize("dies", ["before", "after"])
def test_what_happens_to_tasks_while_the_master_moves_is_known_to_whoever_is_master_then(
    files: DomainIO, background: HeldBackground, undone: Undone, dies: str
) -> None:
    tasks = spm(files, background, undone)
    cleared, ends = (tasks.start("createVolume", lambda run: None, spm=True) for _ in range(2))
    background.run_all()
    runs = tasks.start("createVolume", lambda run: run.settle(), spm=True, recoveries=[undo(1)])
    files.mkdir("other")
    other = TaskStore(files, "other", store="/other")
    tasks.begin_move(other)
    tasks.clear(cleared)
    background.run_all()
    new = tasks.start("createVolume", lambda run: None, spm=True, recoveries=[undo(2)])
    kept = {ends: TaskState.FINISHED, runs: TaskState.FINISHED, new: TaskState.QUEUED}
    if dies == "after":
        tasks.end_move()
        tasks.clear(ends)
        del kept[ends]
    stored = {task.id: task for task in other.load()[0]}
    assert {task_id: task.state for task_id, task in stored.items()} == kept
    assert stored[runs].recoveries == ()


def test_a_move_of_the_master_that_is_given_up_leaves_tasks_where_they_were(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = spm(files, background, undone)
    task_id = tasks.start("createVolume", lambda run: None, spm=True)
    files.mkdir("other")
    other = TaskStore(files, "other", store="/other")
    tasks.begin_move(other)
    tasks.cancel_move()
    background.run_all()
    assert other.load()[0][0].state is TaskState.QUEUED
    assert seen(spm(files, HeldBackground(), undone), task_id) == ("finished", "success", 0)


def test_when_the_role_goes_its_tasks_go_from_memory_but_not_from_storage(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = spm(files, background, undone)
    mine = tasks.start("spmStart", lambda run: None, spm=False)
    task_id = tasks.start("createVolume", lambda run: None, spm=True, recoveries=[undo(1)])
    tasks.let_go()
    background.run_all()
    assert tasks.statuses() == {}
    assert seen(tasks, mine) == ("finished", "success", 0)
    assert undone == []
    assert set(spm(files, background, undone).statuses()) == {task_id}


def test_work_cut_short_by_the_end_of_the_worker_is_left_for_the_next_spm(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = spm(files, background, undone)
    task_id = tasks.start("createVolume", lambda run: None, spm=True, recoveries=[undo(1)])
    background.draining = True
    background.run_all()
    assert undone == []
    after = HeldBackground()
    again = spm(files, after, undone)
    again.recover()
    after.run_all()
    assert undone == ["1"]
    assert seen(again, task_id)[:2] == ("finished", "cleanSuccess")


def last_step(n: int) -> Recovery:
    return Recovery(f"finish {n}", "image", FINISH, "removeSource", (str(n),))


def move(run: TaskRun) -> None:
    run.settle()
    run.finish = last_step(7)


def test_what_is_left_of_a_task_that_is_done_is_done_before_it_is_told(
    files: DomainIO, background: HeldBackground
) -> None:
    told: list[object] = []
    stored: list[tuple[TaskState, tuple[Recovery, ...]]] = []

    def finish(recovery: Recovery, task_id: str) -> None:
        told.append(tasks.status(task_id)["taskState"])
        [task], _ = TaskStore(files, store="/master/tasks").load()
        stored.append((task.state, task.recoveries))

    tasks = Tasks(background, finish)
    tasks.take_over(TaskStore(files, store="/master/tasks"))
    task_id = tasks.start("moveImage", move, spm=True, recoveries=[undo(1)])
    background.run_all()
    assert told == ["running"] and stored == [(TaskState.FINISHED, (last_step(7),))]
    assert seen(tasks, task_id) == ("finished", "success", 0)
    [task], _ = TaskStore(files, store="/master/tasks").load()
    assert task.recoveries == ()


def test_what_a_dead_worker_left_of_a_task_that_is_done_is_done_by_the_next_spm(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    class Dies(Exception):
        pass

    def die(recovery: Recovery, task_id: str) -> None:
        raise Dies

    first = Tasks(background, die)
    first.take_over(TaskStore(files, store="/master/tasks"))
    task_id = first.start("moveImage", move, spm=True)
    background.run_all()
    assert seen(first, task_id) == ("finished", "success", 0)
    following = spm(files, background, undone)
    assert following.recover() == []
    background.run_all()
    assert undone == ["7"]
    assert seen(following, task_id) == ("finished", "success", 0)
    again = spm(files, background, undone)
    again.recover()
    background.run_all()
    assert undone == ["7"]


def test_a_task_that_is_done_is_reverted_without_its_last_step(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    def cannot(recovery: Recovery, task_id: str) -> None:
        if recovery.finishes:
            raise Internal("the source is not there now")
        undone(recovery, task_id)

    tasks = Tasks(background, cannot)
    tasks.take_over(TaskStore(files, store="/master/tasks"))

    def job(run: TaskRun) -> None:
        run.settle(undo(2))
        run.finish = last_step(7)

    task_id = tasks.start("moveImage", job, spm=True)
    background.run_all()
    tasks.revert(task_id)
    background.run_all()
    assert undone == ["2"]


class FullAtTheEnd(TaskStore):
    """No room for the record of a success."""

    def save(self, task: TaskRecord) -> None:
        if task.state is TaskState.FINISHED:
            raise TaskNotSaved(task.id, "No space left on device")
        super().save(task)


def test_a_success_that_cannot_be_stored_is_undone_as_a_whole(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = Tasks(background, undone)
    tasks.take_over(FullAtTheEnd(files, store="/master/tasks"))
    task_id = tasks.start("moveImage", move, spm=True, recoveries=[undo(1), undo(2)])
    background.run_all()
    assert undone == ["2", "1"]
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", TaskNotSaved.code)


class FullWhileUndoing(TaskStore):
    """Nothing finds room until `room` says so."""

    def __init__(self, files: DomainIO, room: Callable[[], bool]) -> None:
        super().__init__(files, store="/master/tasks")
        self._room = room

    def save(self, task: TaskRecord) -> None:
        if task.state is not TaskState.QUEUED and not self._room():
            raise TaskNotSaved(task.id, "No space left on device")
        super().save(task)


def test_a_full_file_system_does_not_keep_a_task_from_undoing_what_fills_it(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = Tasks(background, undone)
    tasks.take_over(FullWhileUndoing(files, lambda: "1" in undone))
    task_id = tasks.start("createVolume", lambda run: None, spm=True, recoveries=[undo(1), undo(2), undo(3)])
    background.run_all()
    assert undone == ["3", "2", "1"]
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", TaskNotSaved.code)
    assert [task.state for task in TaskStore(files, store="/master/tasks").load()[0]] == [TaskState.RECOVERED]


def test_what_the_next_spm_would_undo_once_more_is_told_until_it_is_cleared(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = Tasks(background, undone)
    tasks.take_over(FullWhileUndoing(files, lambda: False))
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
    tasks = Tasks(background, next_spm_sees)
    tasks.take_over(LostAtTheEnd(files, store="/master/tasks"))
    task_id = tasks.start("moveImage", move, spm=True, recoveries=[undo(1), undo(2)])
    background.run_all()
    assert seen_stored == [(TaskState.RECOVERING, 2), (TaskState.RECOVERING, 1)]
    assert seen(tasks, task_id) == ("finished", "cleanSuccess", TaskNotSaved.code)


def test_what_is_stored_as_done_is_not_undone_as_long_as_that_cannot_be_taken_back(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = Tasks(background, undone)
    store = LostAtTheEnd(files, store="/master/tasks")
    store.full = True
    tasks.take_over(store)
    task_id = tasks.start("copyImage", lambda run: None, spm=True, recoveries=[undo(1)])
    background.run_all()
    assert undone == []
    assert seen(tasks, task_id) == ("finished", "cleanFailure", TaskNotSaved.code)
    assert [task.state for task in TaskStore(files, store="/master/tasks").load()[0]] == [TaskState.FINISHED]


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
    tasks = Tasks(background, undone)
    store = RevertUnheard(files, store="/master/tasks")
    store.stored = stored
    tasks.take_over(store)
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
    tasks = Tasks(background, undone)
    tasks.take_over(AnswerLost(files, store="/master/tasks"))
    with pytest.raises(TaskNotSaved):
        tasks.start("createVolume", lambda run: None, spm=True, recoveries=[undo(1)])
    assert list((tmp_path / "master/tasks").iterdir()) == []
    assert tasks.uncleared() == []
