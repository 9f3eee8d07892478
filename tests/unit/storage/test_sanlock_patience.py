# SPDX-License-Identifier: Apache-2.0
"""How long a daemon is waited for that has no deadlines: as long as it answers anybody."""

import threading
import time
from collections.abc import Callable

import pytest

from tests.support.eventually import eventually
from vdsm_mp.storage.sanlock_patience import NotBegun, Patience


class Daemon:
    """Answers whoever asks, unless it is silent."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()

    def answer(self) -> str:
        assert self.goes_on.wait(20)
        return "yes"

    def patience(self, change_s: float = 20) -> Patience:
        return Patience(0.2, 0.1, change_s, self.answer)


def slow(for_s: float) -> Callable[[], str]:
    """Storage is slow, or a host is not dead yet; the daemon is well."""

    def work() -> str:
        time.sleep(for_s)
        return "done"

    return work


def test_a_change_that_takes_its_time_is_waited_for_while_the_daemon_answers() -> None:
    assert Daemon().patience().change(slow(1)) == "done"


def test_a_change_that_takes_more_than_any_does_is_not_waited_for() -> None:
    patience, undone = Daemon().patience(change_s=0.3), []
    with pytest.raises(TimeoutError):
        patience.change(slow(1), undone.append)
    with pytest.raises(NotBegun):
        patience.change(slow(0))
    eventually(lambda: undone == ["done"])
    eventually(lambda: works(patience))


def works(patience: Patience) -> bool:
    try:
        return patience.change(slow(0)) == "done"
    except TimeoutError:
        return False


def test_what_a_silent_daemon_does_later_is_undone_before_anybody_is_served() -> None:
    daemon, order = Daemon(), []
    patience = daemon.patience()
    daemon.goes_on.clear()
    with pytest.raises(TimeoutError):
        patience.change(daemon.answer, lambda answer: (time.sleep(0.3), order.append("undone"))[0])
    patience.owe("a debt", lambda: order.append("paid"))
    patience.owe("forgiven", lambda: order.append("never"))
    patience.forgive("forgiven")
    daemon.goes_on.set()
    eventually(lambda: works(patience))
    assert order[:1] == ["undone"]
    eventually(lambda: order == ["undone", "paid"])


def test_a_debt_to_a_daemon_that_answers_is_paid_at_once() -> None:
    paid: list[str] = []
    Daemon().patience().owe("a debt", lambda: paid.append("paid"))
    eventually(lambda: paid == ["paid"])


def test_what_fails_late_has_nothing_to_undo() -> None:
    daemon, undone = Daemon(), []
    patience = daemon.patience()
    daemon.goes_on.clear()

    def fails() -> str:
        daemon.answer()
        raise OSError("no")

    with pytest.raises(TimeoutError):
        patience.change(fails, undone.append)
    daemon.goes_on.set()
    eventually(lambda: works(patience))
    assert undone == []
