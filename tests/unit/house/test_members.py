# SPDX-License-Identifier: Apache-2.0
"""When a worker that died is started again."""

from vdsm_mp.house.members import BACK_OFF_S, HEALTHY_S, INTENSITY, STEADY_S, History


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
