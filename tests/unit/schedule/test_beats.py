# SPDX-License-Identifier: Apache-2.0
"""Beats on a clock of the test's own: no drift, nothing queued, back-off after failures."""

import threading
from typing import Any

import pytest

from tests.support.background import ThreadBackground
from tests.support.eventually import eventually
from vdsm_mp.api.errors import Busy, PeerRestarted
from vdsm_mp.api.internal import CheckStorage, SampleVms
from vdsm_mp.api.verb import Message
from vdsm_mp.common.options import Config, GuestAgent, Sampling
from vdsm_mp.schedule.beat import Beats
from vdsm_mp.schedule.player import Player
from vdsm_mp.schedule.timetable import Beat, timetable

ROW = Beat("row", 10.0)


def names(beats: Beats, now: float) -> list[str]:
    return [beat.name for beat in beats.due(now)]


def test_the_first_beat_comes_when_its_row_says() -> None:
    beats = Beats([Beat("early", 10, first_s=1), Beat("late", 10, first_s=5)], 100.0)
    assert beats.next_mono() == 101.0
    assert names(beats, 100.9) == []
    assert names(beats, 101.0) == ["early"]
    assert names(beats, 105.0) == ["late"]


def test_a_late_beat_does_not_move_those_after_it() -> None:
    beats = Beats([ROW], 100.0)
    for now in (100.0, 113.0, 120.5):
        assert names(beats, now) == ["row"]
        beats.done("row", now)
    assert beats.next_mono() == 130.0
    assert beats.status()["row"]["missed"] == 0


def test_a_beat_that_still_runs_is_skipped_and_counted_and_never_queued() -> None:
    beats = Beats([ROW], 100.0)
    assert names(beats, 100.0) == ["row"]
    assert names(beats, 110.0) == names(beats, 120.0) == []
    beats.done("row", 121.0)
    assert names(beats, 121.0) == []
    assert names(beats, 130.0) == ["row"]
    assert beats.status()["row"]["missed"] == 2


def test_a_pause_of_the_whole_machine_gives_one_beat_and_not_a_burst() -> None:
    beats = Beats([ROW], 100.0)
    assert names(beats, 155.0) == ["row"]
    beats.done("row", 155.0)
    assert names(beats, 155.0) == []
    assert beats.next_mono() == 160.0
    assert beats.status()["row"]["missed"] == 5


def test_failures_come_further_and_further_apart_until_one_succeeds() -> None:
    beats = Beats([ROW], 0.0)
    now, waits = 0.0, []
    for _ in range(6):
        assert names(beats, now) == ["row"]
        beats.failed("row", now, "no")
        waits.append(beats.next_mono() - now)
        now = beats.next_mono()
    assert waits == [10, 20, 40, 80, 80, 80]
    assert names(beats, now) == ["row"]
    beats.done("row", now)
    assert beats.next_mono() - now == 10


def test_an_owner_that_is_back_is_asked_at_once() -> None:
    beats = Beats([ROW], 0.0)
    names(beats, 0.0)
    beats.failed("row", 0.0, "no")
    beats.hurry("row", 1.0)
    assert names(beats, 1.0) == ["row"]
    beats.hurry("no such row", 1.0)


def test_the_longest_waiting_goes_first() -> None:
    rows = [Beat("short", 10, first_s=4), Beat("b", 100, first_s=2), Beat("a", 100, first_s=1)]
    assert names(Beats(rows, 0.0), 5.0) == ["a", "b", "short"]


@pytest.mark.parametrize("end", ["done", "failed"])
def test_an_owner_that_is_back_while_the_old_one_is_still_asked_is_asked_after_that(end: str) -> None:
    beats = Beats([ROW], 0.0)
    names(beats, 0.0)
    beats.hurry("row", 1.0)
    assert names(beats, 1.0) == [], "it still runs"
    beats.done("row", 3.0) if end == "done" else beats.failed("row", 3.0, "no")
    assert names(beats, 3.0) == ["row"]
    beats.done("row", 3.5)
    assert names(beats, 3.5) == []
    assert beats.status()["row"]["missed"] == 0
    assert beats.next_mono() == 13.0, "a period from the hurry"


# The timetable


def test_every_kind_of_statistics_has_its_row() -> None:
    kinds = {beat.ask.kind for beat in timetable(Config()) if isinstance(beat.ask, SampleVms)}
    assert kinds == {"bulk", "jobs", "agent", "external", "external_data"}


def test_periods_are_the_operators() -> None:
    config = Config(guest_agent=GuestAgent(qga_polling_period=7), sampling=Sampling(tpm_data_update_interval=5))
    rows = {beat.name: beat.period_s for beat in timetable(config)}
    assert rows["poll guest agents"] == 7
    assert rows["read TPM and NVRAM data"] == 5


def test_sampling_can_be_switched_off_without_stopping_the_checks_of_storage() -> None:
    config = Config(sampling=Sampling(enable=False), guest_agent=GuestAgent(enable_qga_poller=False))
    rows = timetable(config)
    assert any(isinstance(beat.ask, CheckStorage) for beat in rows)
    assert not any(isinstance(beat.ask, SampleVms) and beat.ask.kind == "bulk" for beat in rows)


def test_names_are_unique() -> None:
    names_ = [beat.name for beat in timetable(Config())]
    assert len(names_) == len(set(names_))


# The player


class Owner:
    def __init__(self) -> None:
        self.asked: list[Message] = []
        self.fails = False

    def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
        self.asked.append(message)
        if self.fails:
            raise PeerRestarted("virt", "sample")
        return None


class FullBackground(ThreadBackground):
    def start(self, name: str, job: Any, *, key: str | None = None) -> None:
        raise Busy("background")


@pytest.fixture
def background() -> Any:
    made = ThreadBackground()
    yield made
    made.stop()


def test_owners_are_asked_again_and_again(background: ThreadBackground) -> None:
    owner = Owner()
    player = Player((Beat("ask", 0.02, SampleVms(kind="bulk")),), owner, background, {})
    player.start()
    eventually(lambda: len(owner.asked) > 5)
    player.stop()
    assert player.status()["ask"]["failures"] == 0


def test_a_slow_beat_delays_nobody_but_itself(background: ThreadBackground) -> None:
    gate, owner = threading.Event(), Owner()
    rows = (Beat("slow", 0.02), Beat("ask", 0.02, SampleVms(kind="bulk")))
    player = Player(rows, owner, background, {"slow": lambda: bool(gate.wait(10)) and None})
    player.start()
    eventually(lambda: len(owner.asked) > 5)
    eventually(lambda: int(str(player.status()["slow"]["missed"])) > 3)
    gate.set()
    player.stop()


def test_a_beat_with_a_bug_does_not_stop_the_clock() -> None:
    tried: list[int] = []

    def bug() -> None:
        tried.append(1)
        raise ZeroDivisionError

    class Logs(ThreadBackground):
        """As the worker's pool does: an exception ends the job and no thread."""

        def start(self, name: str, job: Any, *, key: str | None = None) -> None:
            def guarded() -> None:
                with pytest.raises(ZeroDivisionError):
                    job()

            super().start(name, guarded, key=key)

    background = Logs()
    player = Player((Beat("bug", 0.01),), Owner(), background, {"bug": bug})
    player.start()
    eventually(lambda: len(tried) > 2)
    player.stop()
    background.stop()
    assert "ZeroDivisionError" in str(player.status()["bug"]["error"])


def test_an_owner_that_is_away_is_asked_less_often_and_at_once_when_it_is_back(background: ThreadBackground) -> None:
    owner = Owner()
    owner.fails = True
    player = Player((Beat("ask", 5.0, SampleVms(kind="bulk")),), owner, background, {})
    player.start()
    eventually(lambda: player.status()["ask"]["failures"] == 1)
    owner.fails = False
    player.hurry("ask")
    eventually(lambda: player.status()["ask"]["done"] == 1)
    player.stop()


def test_a_full_pool_counts_as_a_failure_and_the_clock_goes_on() -> None:
    background = FullBackground()
    player = Player((Beat("ask", 0.01, SampleVms(kind="bulk")),), Owner(), background, {})
    player.start()
    eventually(lambda: int(str(player.status()["ask"]["failures"])) > 2)
    player.stop()
    background.stop()


def test_a_row_that_nobody_does_is_a_mistake_of_the_start(background: ThreadBackground) -> None:
    with pytest.raises(TypeError, match="nobody does row"):
        Player((ROW,), Owner(), background, {})
