# SPDX-License-Identifier: Apache-2.0
"""Things that are worked on by one at a time."""

import threading

import pytest

from vdsm_mp.common.errors import Error
from vdsm_mp.common.oneatatime import OneAtATime


class Late(Error):
    pass


def test_one_thing_has_one_user_and_keeps_nobody_from_another() -> None:
    things = OneAtATime()
    with things.turn("a", 0, Late), things.turn("b", 0, Late):
        for name in ("a", "b"):
            with pytest.raises(Late), things.turn(name, 0, Late):
                pass
    with things.turn("a", 0, Late):
        pass


def test_who_waits_has_it_when_it_is_free_whatever_became_of_its_user() -> None:
    things, has, got = OneAtATime(), threading.Event(), threading.Event()

    def wait() -> None:
        has.set()
        with things.turn("a", 10, Late):
            got.set()

    waiter = threading.Thread(target=wait)
    with pytest.raises(ValueError), things.turn("a", 0, Late):
        waiter.start()
        assert has.wait(10)
        assert not got.is_set()
        raise ValueError
    waiter.join(10)
    assert got.is_set()
