# SPDX-License-Identifier: Apache-2.0
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.eventually import eventually
from vdsm_mp.api.errors import Busy
from vdsm_mp.api.verb import Lane
from vdsm_mp.ipc.lanes import Lanes, Limits
from vdsm_mp.ipc.pool import Job, Pool

FOREVER = float("inf")


@contextmanager
def lanes(**limits: object) -> Iterator[tuple[Lanes, threading.Event]]:
    """Lanes and an event that lets all stuck jobs go."""
    made = Lanes(Limits(**limits))  # type: ignore[arg-type]
    go = threading.Event()
    try:
        yield made, go
    finally:
        go.set()
        eventually(lambda: made.serving == 0 and made.background_running == 0)
        made.close()
        eventually(lambda: all(numbers["threads"] == 0 for numbers in made.vitals().values()))


def job(run: Callable[[], object], what: str = "job", deadline_mono: float = FOREVER) -> Job:
    return Job(what, deadline_mono, lambda: run() and None)


def test_jobs_of_one_key_run_one_at_a_time_in_their_order() -> None:
    done: list[int] = []
    inside: list[int] = []
    overlaps: list[int] = []

    def work(number: int) -> None:
        inside.append(number)
        if len(inside) > 1:
            overlaps.append(number)
        time.sleep(0.0005)
        inside.remove(number)
        done.append(number)

    with lanes(per_key=200) as (lane, _):
        for number in range(100):
            lane.submit(Lane.KEYED, "vm=1", job(lambda number=number: work(number)))
        eventually(lambda: len(done) == 100)
    assert done == list(range(100))
    assert not overlaps


def test_a_stuck_key_does_not_hold_up_others_or_urgent_work() -> None:
    done: list[str] = []
    with lanes() as (lane, go):
        lane.submit(Lane.KEYED, "vm=1", job(go.wait))
        lane.submit(Lane.KEYED, "vm=1", job(lambda: done.append("behind")))
        lane.submit(Lane.KEYED, "vm=2", job(lambda: done.append("other key")))
        lane.submit(Lane.URGENT, None, job(lambda: done.append("urgent")))
        lane.submit(Lane.READ, None, job(lambda: done.append("read")))
        eventually(lambda: len(done) == 3)
        assert "behind" not in done
        go.set()
        eventually(lambda: "behind" in done)


def test_a_full_queue_says_busy_at_once_and_drops_nothing_that_was_accepted() -> None:
    done: list[int] = []
    with lanes(read=(2, 3)) as (lane, go):
        for number in range(5):
            lane.submit(Lane.READ, None, job(lambda number=number: (go.wait(), done.append(number))))
        with pytest.raises(Busy):
            lane.submit(Lane.READ, None, job(lambda: done.append(99)))
        assert lane.vitals()["read"]["refused"] == 1
        go.set()
        eventually(lambda: len(done) == 5)
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_one_key_cannot_fill_the_queue_of_all() -> None:
    done: list[str] = []
    with lanes(per_key=2) as (lane, go):
        for _ in range(3):
            lane.submit(Lane.KEYED, "vm=1", job(go.wait))
        with pytest.raises(Busy, match="vm=1"):
            lane.submit(Lane.KEYED, "vm=1", job(go.wait))
        lane.submit(Lane.KEYED, "vm=2", job(lambda: done.append("other")))
        eventually(lambda: done == ["other"])


def test_too_many_stuck_keys_are_busy_and_leave_the_other_lanes_alone() -> None:
    done: list[str] = []
    with lanes(keyed=(3, 2)) as (lane, go):
        for number in range(5):
            lane.submit(Lane.KEYED, f"vm={number}", job(go.wait))
        with pytest.raises(Busy):
            lane.submit(Lane.KEYED, "vm=9", job(go.wait))
        lane.submit(Lane.URGENT, None, job(lambda: done.append("urgent")))
        eventually(lambda: done == ["urgent"])
        go.set()
        eventually(lambda: lane.serving == 0)
        # What was refused left no trace: the key is free.
        lane.submit(Lane.KEYED, "vm=9", job(lambda: done.append("later")))
        eventually(lambda: done == ["urgent", "later"])


def test_what_nobody_waits_for_any_more_is_never_started_and_gives_its_place_away() -> None:
    done: list[str] = []
    with lanes(per_key=2) as (lane, go):
        lane.submit(Lane.KEYED, "vm=1", job(go.wait))
        past = time.monotonic() - 1
        lane.submit(Lane.KEYED, "vm=1", job(lambda: done.append("too old"), deadline_mono=past))
        lane.submit(Lane.KEYED, "vm=1", job(lambda: done.append("too old"), deadline_mono=past))
        lane.submit(Lane.KEYED, "vm=1", job(lambda: done.append("wanted")))
        lane.submit(Lane.KEYED, "vm=1", job(lambda: done.append("too old"), deadline_mono=past))
        go.set()
        eventually(lambda: lane.serving == 0)
        lane.submit(Lane.KEYED, "vm=1", job(lambda: done.append("after")))
        eventually(lambda: "after" in done)
    assert done == ["wanted", "after"]
    assert lane.vitals()["keyed"]["expired"] == 3


def test_a_job_that_overstays_is_reported_and_then_less_and_less_often(caplog: pytest.LogCaptureFixture) -> None:
    with lanes() as (lane, go), caplog.at_level(logging.WARNING):
        now = time.monotonic()
        lane.submit(Lane.KEYED, "vm=1", job(go.wait, "VM.pause vm=1", now + 5))
        eventually(lambda: lane.running() == ["VM.pause vm=1"])
        assert lane.report_stuck(now + 4) == []
        assert [lane.report_stuck(now + at)[0] for at in (6, 6.5, 8, 9, 12, 13, 40)]
        assert lane.report_stuck(now + 42) == ["VM.pause vm=1 42s"]
        reports = [record.getMessage() for record in caplog.records]
        assert [line.split()[4] for line in reports] == ["6s", "8s", "12s", "40s"]
        assert reports[0].startswith("lane stuck: VM.pause vm=1")


def test_a_job_that_raises_takes_neither_its_thread_nor_its_key_along(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def broken() -> None:
        raise SystemExit(1)

    with lanes(keyed=(1, 10)) as (lane, _):
        lane.submit(Lane.KEYED, "vm=1", job(broken))
        lane.submit(Lane.KEYED, "vm=1", job(lambda: done.append("next")))
        eventually(lambda: done == ["next"])
    assert "left the keyed lane by an exception" in caplog.text


def test_threads_end_when_they_have_nothing_to_do() -> None:
    pool = Pool("test", 4, 10, idle_s=0.02)
    done: list[int] = []
    for number in range(8):
        pool.submit(job(lambda number=number: done.append(number)))
    eventually(lambda: len(done) == 8)
    eventually(lambda: pool.vitals()["threads"] == 0)
    pool.submit(job(lambda: done.append(8)))
    eventually(lambda: len(done) == 9)
    eventually(lambda: pool.vitals()["threads"] == 0)


def test_threads_of_a_busy_time_end_while_work_goes_on() -> None:
    pool = Pool("test", 6, 10, idle_s=0.1)
    go_on = threading.Event()
    for _ in range(6):
        pool.submit(job(lambda: go_on.wait(10)))
    assert pool.vitals()["threads"] == 6
    go_on.set()

    def alone() -> bool:
        done = threading.Event()
        pool.submit(job(done.set))
        assert done.wait(10)
        return pool.vitals()["threads"] <= 2

    eventually(alone)


def test_many_submitters_lose_nothing() -> None:
    done: list[tuple[int, int]] = []
    with lanes(background=(4, 5000), per_key=5000) as (lane, _):

        def submit(thread: int) -> None:
            for number in range(200):
                lane.start_background(f"key {thread % 3}", job(lambda number=number: done.append((thread, number))))

        threads = [threading.Thread(target=submit, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        eventually(lambda: len(done) == 1200)
    for thread_number in range(6):
        assert [n for t, n in done if t == thread_number] == list(range(200))


class NoMoreThreads(threading.Thread):
    """The system's limit on processes is reached; root is not held back by it, so a test has to pretend."""

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def test_a_system_out_of_threads_makes_a_lane_slower_or_busy_and_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    with lanes() as (lane, go):
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Thread", NoMoreThreads)
            with pytest.raises(Busy):
                lane.submit(Lane.KEYED, "vm=1", job(lambda: done.append("refused")))
        lane.submit(Lane.KEYED, "vm=1", job(lambda: (go.wait(), done.append("first"))))
        eventually(lambda: len(lane.running()) == 1)
        with monkeypatch.context() as patch:
            patch.setattr(threading, "Thread", NoMoreThreads)
            lane.submit(Lane.KEYED, "vm=2", job(lambda: done.append("second")))
        go.set()
        eventually(lambda: done == ["first", "second"])
