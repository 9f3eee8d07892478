# SPDX-License-Identifier: Apache-2.0
"""The checker finds what it is there to find: histories that are known to be bad."""

import asyncio
from pathlib import Path

import pytest

from tests.support.load import Faults, Journal, Kind, Load, Operation, check, outcome_of, summary
from vdsm_mp.api.errors import (
    Busy,
    DeadlineExceeded,
    NotAllowed,
    PeerRestarted,
    RemoteError,
    ResourceUnavailable,
    StillStarting,
)
from vdsm_mp.common.errors import Error, Internal


def asked(
    *outcomes: str, changes: bool = True, at_s: float = 0.5, value: object = None, due: object = None
) -> Operation:
    answers: list[tuple[float, str, object]] = [(100 + at_s, outcome, value) for outcome in outcomes]
    return Operation("7-1", "VM.create", changes, 100.0, 10.0, due, answers)


@pytest.mark.parametrize(
    ("operation", "times"),
    [
        (asked("done"), 1),
        (asked("not run"), 0),
        (asked("failed"), 0),
        (asked("failed"), 1),
        (asked("unknown"), 0),
        (asked("unknown"), 1),
        (asked("done", changes=False), 2),
        (asked("done", value="7", due="7"), 1),
        (asked("unknown", at_s=10.5), 1),
    ],
)
def test_what_is_allowed_to_happen_is_not_complained_about(operation: Operation, times: int) -> None:
    assert check([operation], {"7-1": times} if times else {}) == []


@pytest.mark.parametrize(
    ("operation", "times", "complaint"),
    [
        (asked(), 1, "never answered"),
        (asked("done", "done"), 1, "answered 2 times"),
        (asked("unknown", "done"), 1, "answered 2 times"),
        (asked("done"), 2, "ran 2 times"),
        (asked("unknown"), 2, "ran 2 times"),
        (asked("done"), 0, "answered as done and never ran"),
        (asked("not run"), 1, "told that it surely had not"),
        (asked("done", at_s=30), 1, "after 30.0s"),
        (asked("done", value="8", due="7"), 1, "answers another question"),
        (asked(changes=False), 0, "never answered"),
    ],
)
def test_a_broken_promise_is_found_and_named(operation: Operation, times: int, complaint: str) -> None:
    (said,) = check([operation], {"7-1": times} if times else {})
    assert complaint in said
    assert "VM.create 7-1" in said


def test_work_that_nobody_asked_for_is_found() -> None:
    assert check([], {"9-9": 1}) == ["9-9 ran, but nobody asked for it"]


def test_two_operations_of_one_id_prove_nothing() -> None:
    assert "proves nothing" in check([asked("done"), asked("done")], {"7-1": 1})[0]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StillStarting(), "not run"),
        (Busy("x"), "not run"),
        (RemoteError(99, "Recovering"), "not run"),
        (PeerRestarted("virt", "VM.create"), "unknown"),
        (DeadlineExceeded("VM.create", 3), "unknown"),
        (ResourceUnavailable("a", "b"), "failed"),
        (NotAllowed("a", "b"), "failed"),
        (Internal(), "failed"),
    ],
)
def test_errors_mean_what_the_callers_may_conclude(error: Error, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_the_journal_of_a_dead_worker_can_be_read(tmp_path: Path) -> None:
    for _ in range(2):
        journal = Journal(tmp_path / "journal")
        journal.ran("1-1")
        journal.close()
    assert journal.read() == {"1-1": 2}


def test_a_load_writes_down_every_question_and_its_answer() -> None:
    async def answer(name: str) -> object:
        await asyncio.sleep(0)
        if name.endswith("3"):
            raise PeerRestarted("virt", "x")
        return name

    async def main() -> Load:
        load = Load([Kind("x", True, 1, 5.0, answer, lambda name: name)], callers=3, seed=1)
        running = asyncio.ensure_future(load.run())
        while len(load.history) < 30:
            await asyncio.sleep(0)
        load.stop()
        await running
        return load

    load = asyncio.run(main())
    ran = {operation.id: 1 for operation in load.history}
    assert check(load.history, ran) == []
    assert {operation.outcome for operation in load.history} == {"done", "unknown"}
    faults = Faults()
    faults.happened("kill -9")
    assert "faults {'kill -9': 1}" in summary(load.history, faults)
