# SPDX-License-Identifier: Apache-2.0
"""When a worker is ended, and when one that died is started again."""

import pytest

from vdsm_mp.house.members import (
    AWAY_S,
    BACK_OFF_S,
    HEALTHY_S,
    INTENSITY,
    SILENCE_S,
    STEADY_S,
    History,
    Process,
    State,
    Worker,
)
from vdsm_mp.workers.table import WorkerSpec


def test_deaths_in_a_row_are_answered_ever_later() -> None:
    history = History()
    waits = [history.died(float(n), 1.0, "exit 1") for n in range(len(BACK_OFF_S) + 2)]
    assert waits == [*BACK_OFF_S, BACK_OFF_S[-1], BACK_OFF_S[-1]]
    assert history.died(10_000.0, HEALTHY_S, "exit 1") == 0


def test_a_steady_worker_that_others_kill_is_back_at_once_and_yet_counted() -> None:
    history = History()
    waits = [history.died(float(n), STEADY_S, "signal SIGKILL", by_others=True) for n in range(INTENSITY + 1)]
    assert set(waits) == {0.0} and history.restarts == INTENSITY + 1
    assert history.degraded(float(INTENSITY + 1))


def test_killing_a_worker_as_soon_as_it_starts_waits_all_the_same() -> None:
    history = History()
    waits = [history.died(float(n), STEADY_S - 1, "signal SIGKILL", by_others=True) for n in range(3)]
    assert waits == list(BACK_OFF_S[:3])


def worker_that_was_heard_of(at: float, state: State) -> tuple[Worker, Process]:
    """Forked at 100, with 20 s to become ready."""
    process = Process("virt", pid=1, pidfd=-1, started_mono=100.0)
    return Worker(WorkerSpec("virt", "none", start_s=20.0), state=state, process=process, beat_mono=at), process


@pytest.mark.parametrize(
    ("state", "heard_at", "now", "why"),
    [
        (State.READY, 150.0, 150.0 + SILENCE_S, ""),
        (State.READY, 150.0, 154.0, "hung: no heartbeat for 4.0 s"),
        (State.STARTING, 110.0, 114.0, ""),
        (State.STARTING, 100.0, 109.0, "hung: no heartbeat for 9.0 s"),
        (State.STARTING, 120.0, 120.5, "not ready within 20 s"),
    ],
)
def test_a_worker_is_overdue_when_it_is_silent_or_never_ready(
    state: State, heard_at: float, now: float, why: str
) -> None:
    worker, process = worker_that_was_heard_of(heard_at, state)
    assert worker.overdue(process, now) == why


def test_silence_while_the_master_was_away_proves_nothing() -> None:
    worker, process = worker_that_was_heard_of(150.0, State.READY)
    worker.forgive(AWAY_S / 2, 160.0)
    assert worker.overdue(process, 160.0)
    worker.forgive(9.0, 160.0)
    assert worker.beat_mono == 160.0 and not worker.overdue(process, 160.0)
