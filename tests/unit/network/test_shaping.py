# SPDX-License-Identifier: Apache-2.0
"""Curves as engines write them, and as `tc` prints them."""

import pytest

from vdsm_mp.network.shaping import curves_of, read, same, told

#: As iproute2 6.1 prints it on a kernel 6.1.
CLASSES = """\
class hfsc 5001: root
class hfsc 5001:1388 parent 5001: leaf 8002: ls m1 0bit d 0us m2 400bit
class hfsc 5001:64 parent 5001: leaf 8003: ls m1 0bit d 0us m2 400bit ul m1 0bit d 0us m2 1Mbit
class hfsc 5001:c8 parent 5001: leaf 8004: rt m1 0bit d 0us m2 50Mbit ls m1 160bit d 10ms m2 800bit
class hfsc 5001:9 parent 5001: leaf 8005: sc m1 0bit d 0us m2 800bit
"""
SLOW = {"out": {"ls": {"m2": 50}, "ul": {"m2": 1_000_000}}}
FAST = {"out": {"ls": {"m1": 20, "d": 10_000, "m2": 100}, "rt": {"m2": 50_000_000}}}


def test_what_tc_prints_is_what_the_engine_asked_for() -> None:
    found = read(CLASSES)
    assert same(curves_of("red", SLOW), found["64"])
    assert same(curves_of("blue", FAST), found["c8"])
    assert told(found["64"]) == SLOW
    assert told(found["c8"]) == FAST
    assert told(found["9"]) == {"out": {"rt": {"m2": 800}, "ls": {"m2": 100}}}
    assert (found[""], told({})) == ({}, {})


@pytest.mark.parametrize(
    "other",
    [
        {"out": {"ls": {"m2": 50}}},
        {"out": {"ls": {"m2": 50}, "ul": {"m2": 1_000_000}, "rt": {"m2": 1000}}},
        {"out": {"ls": {"m2": 52}, "ul": {"m2": 1_000_000}}},
        {"out": {"ls": {"m2": 50}, "ul": {"m2": 1_020_000}}},
        {"out": {"ls": {"m1": 90, "d": 2000, "m2": 50}, "ul": {"m2": 1_000_000}}},
    ],
)
def test_another_curve_is_another_one(other: dict[str, object]) -> None:
    assert not same(curves_of("red", other), read(CLASSES)["64"])


def test_what_is_lost_in_the_kernels_numbers_is_no_difference() -> None:
    nearly = {"out": {"ls": {"m1": 7, "d": 0, "m2": 50}, "ul": {"m2": 1_000_499}}}
    assert same(curves_of("red", nearly), read(CLASSES)["64"])
