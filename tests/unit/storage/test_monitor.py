# SPDX-License-Identifier: Apache-2.0
"""Every arrow of a watch, and what is reported in each state."""

import pytest
from msgspec.structs import replace

from vdsm_mp.storage.monitor import Checked, Told, Watch, checked, reported
from vdsm_mp.storage.monitor_space import GIB, Limits, Space

FRESH = Watch("sd", 1, begun_mono=100.0)
GOOD = Checked(110.0, delay_s=0.0005, version=5, total_bytes=10, free_bytes=5, acquired=True)
BAD = Checked(120.0, code=2001, reason="hangs")


def test_before_the_first_check_there_is_no_verdict() -> None:
    assert reported(FRESH, 105.0) == {
        "code": 0,
        "lastCheck": "0.0",
        "delay": "0",
        "valid": True,
        "version": -1,
        "acquired": False,
        "actual": False,
    }


def test_the_first_verdict_is_told_whatever_it_is() -> None:
    assert checked(FRESH, GOOD)[1] == Told(True, "")
    assert checked(FRESH, BAD)[1] == Told(False, "hangs")


def test_a_good_check_is_reported_with_its_age() -> None:
    watch, _ = checked(FRESH, GOOD)
    assert reported(watch, 112.34) == {
        "code": 0,
        "lastCheck": "2.3",
        "delay": "0.000500",
        "valid": True,
        "version": 5,
        "acquired": True,
        "actual": True,
    }


def test_only_changes_are_told() -> None:
    watch, _ = checked(FRESH, GOOD)
    watch, told = checked(watch, GOOD)
    assert told is None
    watch, told = checked(watch, BAD)
    assert told == Told(False, "hangs")
    watch, told = checked(watch, BAD)
    assert told is None
    watch, told = checked(watch, GOOD)
    assert told == Told(True, "")


def test_a_bad_check_keeps_the_version_and_tells_its_code() -> None:
    watch, _ = checked(checked(FRESH, GOOD)[0], BAD)
    assert reported(watch, 121.0) == {
        "code": 2001,
        "lastCheck": "1.0",
        "delay": "0",
        "valid": False,
        "version": 5,
        "acquired": False,
        "actual": True,
    }


@pytest.mark.parametrize(
    ("before", "total_gib", "free_gib", "after"),
    [
        (Space.ENOUGH, 1000, 100, Space.ENOUGH),
        (Space.ENOUGH, 1000, 99, Space.LOW),
        (Space.LOW, 1000, 105, Space.LOW),
        (Space.LOW, 1000, 111, Space.ENOUGH),
        (Space.ENOUGH, 1000, 4, Space.CRITICAL),
        (Space.CRITICAL, 1000, 5.2, Space.CRITICAL),
        (Space.CRITICAL, 1000, 6, Space.LOW),
        (Space.CRITICAL, 1000, 500, Space.ENOUGH),
        (Space.CRITICAL, 20, 5.2, Space.CRITICAL),
        (Space.LOW, 0, 0, Space.CRITICAL),
    ],
)
def test_space_gets_worse_at_a_limit_and_better_some_way_beyond_it(
    before: Space, total_gib: int, free_gib: float, after: Space
) -> None:
    assert Limits().after(before, total_gib * GIB, int(free_gib * GIB)) is after


def test_limits_of_nothing_are_never_crossed() -> None:
    assert Limits(0, 0).after(Space.ENOUGH, GIB, 0) is Space.ENOUGH


def test_a_check_that_saw_no_sizes_leaves_the_space_as_it_was() -> None:
    full = replace(GOOD, total_bytes=100 * GIB, free_bytes=5 * GIB - 1)
    watch, _ = checked(FRESH, full)
    assert watch.space is Space.CRITICAL
    watch, _ = checked(watch, BAD)
    assert watch.space is Space.CRITICAL
