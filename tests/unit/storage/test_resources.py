# SPDX-License-Identifier: Apache-2.0
"""Claims: who gets in, in which order, and what is left when somebody gives up."""

import threading

import pytest

from tests.support.eventually import eventually
from vdsm_mp.api.errors_storage import ClaimTimedOut
from vdsm_mp.api.errors_task import TaskAborted
from vdsm_mp.storage.resources import Resources
from vdsm_mp.tasks.progress import Progress

D = ("domain", "1")
P = ("pool", "1")


class Visitor(threading.Thread):
    """Holds a claim until told to leave."""

    def __init__(self, resources: Resources, name: str, log: list[str], *, exclusive: bool) -> None:
        super().__init__(daemon=True)
        self.inside = threading.Event()
        self.leave = threading.Event()
        self._args = (resources, name, log, exclusive)
        self.start()

    def run(self) -> None:
        resources, name, log, exclusive = self._args
        names = {"exclusive": (D,)} if exclusive else {"shared": (D,)}
        with resources.claim(name, **names, within_s=10):
            log.append(name)
            self.inside.set()
            assert self.leave.wait(10)


def waiting(resources: Resources) -> int:
    queue = resources._queues.get(D)
    return len(queue.waiting) if queue else 0


def test_readers_share_and_a_writer_is_alone_and_not_overtaken() -> None:
    resources, log = Resources(), []
    first = Visitor(resources, "r1", log, exclusive=False)
    assert first.inside.wait(5)
    second = Visitor(resources, "r2", log, exclusive=False)
    assert second.inside.wait(5)
    writer = Visitor(resources, "w", log, exclusive=True)
    eventually(lambda: waiting(resources) == 1)
    late = Visitor(resources, "r3", log, exclusive=False)
    eventually(lambda: waiting(resources) == 2)
    first.leave.set()
    second.leave.set()
    assert writer.inside.wait(5)
    assert not late.inside.is_set()
    assert resources.holders() == {"domain/1": ["w"]}
    writer.leave.set()
    assert late.inside.wait(5)
    late.leave.set()
    for visitor in (first, second, writer, late):
        visitor.join(5)
    assert log == ["r1", "r2", "w", "r3"]
    assert resources.holders() == {}


def test_who_gives_up_holds_nothing_and_frees_the_way() -> None:
    resources, log = Resources(), []
    reader = Visitor(resources, "r1", log, exclusive=False)
    assert reader.inside.wait(5)
    with pytest.raises(ClaimTimedOut, match="r1"), resources.claim("w", exclusive=(P, D), within_s=0.01):
        raise AssertionError("got in")
    assert resources.holders() == {"domain/1": ["r1"]}
    with resources.claim("r2", shared=(D,), within_s=0):
        pass
    reader.leave.set()
    reader.join(5)


def test_two_of_one_holder_are_not_taken_for_each_other_when_one_gives_up() -> None:
    resources, log = Resources(), []
    first = Visitor(resources, "first", log, exclusive=True)
    assert first.inside.wait(5)
    patient = Visitor(resources, "look", log, exclusive=True)
    eventually(lambda: waiting(resources) == 1)
    with pytest.raises(ClaimTimedOut), resources.claim("look", exclusive=(D,), within_s=0.01):
        raise AssertionError("got in")
    first.leave.set()
    assert patient.inside.wait(5)
    patient.leave.set()
    for visitor in (first, patient):
        visitor.join(5)
    assert resources.holders() == {}


def test_a_name_in_both_lists_is_exclusive() -> None:
    resources = Resources()
    with (
        resources.claim("a", shared=(D,), exclusive=(D,)),
        pytest.raises(ClaimTimedOut),
        resources.claim("b", shared=(D,), within_s=0),
    ):
        raise AssertionError("got in")


def test_who_is_told_to_stop_waits_no_longer_and_does_not_begin() -> None:
    """The SPM role may have gone meanwhile."""
    resources, log, progress = Resources(), list[str](), Progress()
    first = Visitor(resources, "first", log, exclusive=True)
    assert first.inside.wait(5)
    ends: list[BaseException] = []

    def wait() -> None:
        try:
            with resources.claim("second", exclusive=(D,), within_s=60, progress=progress):
                log.append("second")
        except TaskAborted as e:
            ends.append(e)

    second = threading.Thread(target=wait)
    second.start()
    eventually(lambda: waiting(resources) == 1)
    progress.stop()
    second.join(5)
    assert not second.is_alive()
    assert len(ends) == 1
    assert resources.holders() == {"domain/1": ["first"]}
    first.leave.set()
    first.join(5)
    with pytest.raises(TaskAborted), resources.claim("third", exclusive=(D,), progress=progress):
        log.append("third")
    assert log == ["first"]
    assert resources.holders() == {}
