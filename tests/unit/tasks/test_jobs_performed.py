# SPDX-License-Identifier: Apache-2.0
"""Jobs that somebody waits for: in their turn, with the failure as it was raised, listed only while nobody has it."""

import threading
from typing import Any

import pytest

from tests.support.background import ThreadBackground
from tests.support.eventually import eventually
from vdsm_mp.api.errors import DeadlineExceeded
from vdsm_mp.api.errors_virt import SnapshotFailed, VmUndecided
from vdsm_mp.common.clock import mono_s
from vdsm_mp.tasks import jobs as jobs_module
from vdsm_mp.tasks.jobs import Jobs, NotYet
from vdsm_mp.tasks.progress import Progress


class Told:
    """Publisher port."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def publish(self, event: Any) -> None:
        self.all.append(event)


def test_who_waits_has_the_failure_as_it_was_raised_and_the_job_is_not_listed() -> None:
    background = ThreadBackground()
    jobs, failure = Jobs(background, Told(), "virt"), SnapshotFailed("no")

    def fail(progress: Progress) -> None:
        raise failure

    with pytest.raises(SnapshotFailed) as raised:
        jobs.perform("1", "one", fail, key="x", deadline_mono=mono_s() + 10)
    assert raised.value is failure
    jobs.perform("2", "two", lambda progress: None, key="x", deadline_mono=float("inf"))
    assert jobs.infos() == {}
    background.stop()


def test_who_stops_waiting_leaves_a_job_that_goes_on_and_is_listed() -> None:
    background, gate = ThreadBackground(), threading.Event()
    jobs = Jobs(background, Told(), "virt")

    def wait(progress: Progress) -> None:
        assert gate.wait(30)

    jobs.start("first", "one", wait, key="x")
    with pytest.raises(DeadlineExceeded):
        jobs.perform("second", "two", lambda progress: None, key="x", deadline_mono=mono_s() + 0.05)
    assert jobs.infos(["second"])["second"]["status"] == "pending"
    gate.set()
    eventually(lambda: jobs.infos(["second"])["second"]["status"] == "done")
    background.stop()


def test_a_job_that_has_no_use_for_its_thread_gives_it_back_and_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "AGAIN_S", 0.05)
    background, hangs, looks = ThreadBackground(threads=1), threading.Event(), list[float]()
    jobs, undecided = Jobs(background, Told(), "virt"), VmUndecided("it hangs")

    def look(progress: Progress) -> None:
        looks.append(mono_s())
        if not hangs.is_set():
            raise NotYet(look, undecided)

    with pytest.raises(VmUndecided):
        jobs.perform("waits", "one", look, key="x", deadline_mono=mono_s() + 10)
    jobs.start("comes again", "two", look, key="y")
    eventually(lambda: len(looks) > 6)
    jobs.perform("other", "three", lambda progress: None, key="z", deadline_mono=mono_s() + 10)
    jobs.abort("comes again")
    assert [one["status"] for one in jobs.infos().values()] == ["running", "running"]
    hangs.set()
    eventually(lambda: [one["status"] for one in jobs.infos().values()] == ["done", "done"])
    background.stop()
