# SPDX-License-Identifier: Apache-2.0
"""Tasks that another SPM, or another master domain, takes over."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import domains
from tests.support.background import HeldBackground, ThreadBackground
from tests.support.children import LocalChildren
from tests.support.eventually import eventually
from tests.support.spm_tasks import Undone, move, seen, spm, undo
from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_task import UnknownTask
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.tasks.machine import TaskState
from vdsm_mp.tasks.record import Recovery, TaskRecord
from vdsm_mp.tasks.registry import Tasks
from vdsm_mp.tasks.run import TaskRun
from vdsm_mp.tasks.store import TaskStore


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
    assert (listed[broken]["taskState"], listed[broken]["state"]) == ("unknown", "unknown")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    second.clear(good)
    second.refuse_while_uncleared()
    second.clear(newer)
    assert newer not in second.all_tasks()


def test_tasks_of_vdsm_are_taken_over(tmp_path: Path, children: LocalChildren, background: HeldBackground) -> None:
    export = domains.unpack(tmp_path)["export"]
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


def test_a_record_that_is_kept_when_the_role_has_just_gone_does_not_come_back(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    tasks = spm(files, background, undone)

    class GoneMeanwhile(TaskStore):
        def save(self, task: TaskRecord) -> None:
            super().save(task)
            if task.state is TaskState.FINISHED:
                tasks.let_go(within_s=0)

    tasks.take_over(GoneMeanwhile(files, store="/master/tasks"))
    tasks.start("createVolume", lambda run: None, spm=True)
    background.run_all()
    assert tasks.all_tasks() == {}


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


def test_the_role_goes_when_what_it_had_begun_has_ended(files: DomainIO, undone: Undone) -> None:
    """Else it may be written when another host has the role, and has undone it."""
    threads = ThreadBackground()
    tasks, begun, written = spm(files, threads, undone), threading.Event(), threading.Event()

    def job(run: TaskRun) -> None:
        begun.set()
        eventually(lambda: run.progress.interrupted)
        time.sleep(0.3)  # one step, in the middle of which it is
        written.set()
        run.check()

    tasks.start("createVolume", job, spm=True, recoveries=[undo(1)])
    assert begun.wait(10)
    assert tasks.let_go()
    assert written.is_set()
    threads.stop()
    assert undone == []


@pytest.mark.parametrize("hangs", ["the work", "the storage"])
def test_that_something_goes_on_when_the_role_is_to_go_is_told_in_time(
    files: DomainIO, undone: Undone, hangs: str
) -> None:
    threads, begun, may_end = ThreadBackground(), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        assert may_end.wait(30)

    class Hanging(TaskStore):
        def save(self, task: TaskRecord) -> None:
            if hangs == "the storage":
                hang()
            super().save(task)

    tasks = spm(files, threads, undone, Hanging(files, store="/master/tasks"))
    starting = threading.Thread(target=_start, args=(tasks, hang))
    starting.start()
    assert begun.wait(10)
    began = time.monotonic()
    assert not tasks.let_go(within_s=0.2)
    assert time.monotonic() - began < 5
    may_end.set()
    starting.join(10)
    threads.stop()


def _start(tasks: Tasks, work: Callable[[], None]) -> None:
    with suppress(UnknownTask):  # the role goes while it is stored
        tasks.start("createVolume", lambda run: work(), spm=True)


def test_a_roll_back_that_was_put_off_is_not_done_again_when_the_role_has_come_back(
    files: DomainIO, background: HeldBackground
) -> None:
    """What is read from storage is rolled back then; twice at once, one would take what the other is at."""
    tries: list[str] = []

    def undo_later(recovery: Recovery, task_id: str) -> None:
        tries.append(task_id)
        if len(tries) == 1:
            raise Busy("storage")

    tasks = spm(files, background, undo_later)
    task_id = tasks.start("createVolume", lambda run: 1 // 0, spm=True, recoveries=[undo(1)])
    background.waiting.pop(0)[1]()
    assert len(background.waiting) == 1  # the next try
    assert tasks.let_go()
    tasks.take_over(TaskStore(files, store="/master/tasks"))
    background.run_all()
    assert tries == [task_id]
    assert tasks.recover() == [task_id]
    background.run_all()
    assert tries == [task_id, task_id]
    assert seen(tasks, task_id)[:2] == ("finished", "cleanSuccess")


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


def test_what_a_dead_worker_left_of_a_task_that_is_done_is_done_by_the_next_spm(
    files: DomainIO, background: HeldBackground, undone: Undone
) -> None:
    class Dies(Exception):
        pass

    def die(recovery: Recovery, task_id: str) -> None:
        raise Dies

    first = spm(files, background, die)
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
