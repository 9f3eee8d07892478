# SPDX-License-Identifier: Apache-2.0
"""Long work, a few at a time."""

import threading
from collections.abc import Callable

import pytest

from tests.support.background import HeldBackground, ThreadBackground
from tests.support.eventually import eventually
from vdsm_mp.api.errors import Busy
from vdsm_mp.tasks.slots import Slots


class Gates:
    """Work that runs until it is let go; `running` and `order` tell what has begun."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.over: list[str] = []
        self._gates: dict[str, threading.Event] = {}

    def job(self, name: str) -> Callable[[], None]:
        gate = self._gates[name] = threading.Event()

        def work() -> None:
            self.order.append(name)
            assert gate.wait(10)
            self.over.append(name)

        return work

    def let(self, name: str) -> None:
        self._gates[name].set()
        eventually(lambda: name in self.over)


def test_no_more_runs_than_there_are_slots_and_the_rest_follows_in_order() -> None:
    threads, gates = ThreadBackground(8), Gates()
    slots = Slots(threads, slots=2)
    for name in "abcd":
        slots.start(name, gates.job(name))
    eventually(lambda: gates.order == ["a", "b"] or gates.order == ["b", "a"])
    assert slots.vitals() == {"running": 2, "waiting": 2}
    gates.let("b")
    eventually(lambda: gates.order[2:] == ["c"])
    gates.let("a")
    eventually(lambda: gates.order[3:] == ["d"])
    for name in "cd":
        gates.let(name)
    eventually(lambda: slots.vitals() == {"running": 0, "waiting": 0})
    threads.stop()


def test_work_of_one_key_takes_one_slot_and_keeps_its_order() -> None:
    threads, gates = ThreadBackground(8), Gates()
    slots = Slots(threads, slots=3)
    for name in ("one 1", "one 2", "one 3", "two 1"):
        slots.start(name, gates.job(name), key=name.split()[0])
    eventually(lambda: sorted(gates.order) == ["one 1", "two 1"])
    for name in ("one 1", "one 2", "one 3", "two 1"):
        gates.let(name)
    assert [name for name in gates.order if name.startswith("one")] == ["one 1", "one 2", "one 3"]
    threads.stop()


def test_a_job_that_fails_gives_its_slot_back() -> None:
    held = HeldBackground()
    slots = Slots(held, slots=1)
    done: list[int] = []
    slots.start("bad", lambda: print(1 // 0))
    slots.start("good", lambda: done.append(1))
    with pytest.raises(ZeroDivisionError):
        held.run_all()
    held.run_all()
    assert done == [1]


def test_what_waits_is_bounded() -> None:
    slots = Slots(HeldBackground(), slots=1, max_waiting=2)
    for _ in range(3):
        slots.start("x", lambda: None)
    with pytest.raises(Busy):
        slots.start("x", lambda: None)


class Full(HeldBackground):
    full = True

    def start(self, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        if self.full:
            raise Busy("threads")
        super().start(name, job, key=key)


def test_when_there_are_no_threads_nothing_was_begun() -> None:
    full = Full()
    slots = Slots(full)
    done: list[int] = []
    with pytest.raises(Busy):
        slots.start("x", lambda: done.append(1))
    full.full = False
    slots.start("y", lambda: done.append(2))
    full.run_all()
    assert done == [2]
    assert slots.vitals() == {"running": 0, "waiting": 0}


def test_what_finds_no_thread_when_its_turn_comes_is_begun_later() -> None:
    full = Full()
    full.full = False
    slots = Slots(full, slots=1)
    done: list[int] = []
    slots.start("x", lambda: setattr(full, "full", True))
    slots.start("y", lambda: done.append(2))
    full.waiting.pop(0)[1]()  # when x ends everybody else has taken the threads
    assert (done, slots.vitals()) == ([], {"running": 0, "waiting": 1})
    full.waiting.pop(0)[1]()
    full.full = False
    full.run_all()
    assert done == [2]
    assert slots.vitals() == {"running": 0, "waiting": 0}
