# SPDX-License-Identifier: Apache-2.0
"""Growth is told from chance, peaks and warming up; a record that proves nothing is not taken for a good one."""

import random
from collections.abc import Callable

from tests.faults.growth import Look, judge, trends

MINUTES = 20


def life(kind: str, held: Callable[[float], float], *, minutes: float = MINUTES, name: str = "virt") -> list[Look]:
    return [Look(name, 7, float(at), {kind: held(at)}) for at in range(0, int(minutes * 60), 5)]


def test_a_descriptor_a_minute_is_growth() -> None:
    (line,) = judge(trends(life("descriptors", lambda at: 30 + at // 60)), ["virt"])
    assert line.startswith("virt (pid 7): descriptors rose by")


def test_memory_that_rises_by_more_than_was_promised_is_growth() -> None:
    rng = random.Random(3)
    noisy = life("rss_kib", lambda at: 50_000 + at * 2.5 + rng.uniform(-300, 300))
    assert len(judge(trends(noisy), ["virt"])) == 1


def test_peaks_warming_up_and_chance_are_no_growth() -> None:
    rng = random.Random(4)
    for held in (
        lambda at: 30 + (20 if at % 100 == 0 else 0),
        lambda at: 10 + min(at, 170) // 10,
        lambda at: 30 + rng.randrange(4),
    ):
        assert judge(trends(life("descriptors", held)), ["virt"]) == []
    steady = life("rss_kib", lambda at: 50_000 + rng.uniform(-2000, 2000))
    assert judge(trends(steady), ["virt"]) == []


def test_a_life_that_was_too_short_proves_nothing_and_says_so() -> None:
    short = life("threads", lambda at: 5, minutes=5)
    assert trends(short) == []
    assert judge(trends(short), ["virt"]) == ["virt was not looked at for long enough: nothing is proved"]


def test_a_restart_begins_another_life() -> None:
    first = life("threads", lambda at: 5)
    second = [Look("virt", 8, 1200 + look.at, {"threads": 9}) for look in first]
    assert judge(trends([*first, *second]), ["virt"]) == []
