# SPDX-License-Identifier: Apache-2.0
"""When LFs follow frames, and how many."""

import asyncio
from collections.abc import Callable

import pytest

from tests.support.enginereader import FrameReader
from vdsm_mp.clientif.nudge import Nudge
from vdsm_mp.wire import stomp


class Clock:
    """An event loop's `time` and `call_later`, run by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, wait_s: float, function: Callable[[], None]) -> "Handle":
        self.timers.append((self.now + wait_s, function))
        return Handle(self, self.timers[-1])

    def run(self, for_s: float) -> None:
        until = self.now + for_s
        while due := [timer for timer in self.timers if timer[0] <= until]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now = first[0]
            first[1]()
        self.now = until


class Handle:
    def __init__(self, clock: Clock, timer: tuple[float, Callable[[], None]]) -> None:
        self._clock, self._timer = clock, timer

    def cancel(self) -> None:
        if self._timer in self._clock.timers:
            self._clock.timers.remove(self._timer)


def made() -> tuple[Clock, Nudge, list[float]]:
    clock = Clock()
    sent: list[float] = []
    loop: asyncio.AbstractEventLoop = clock  # type: ignore[assignment]
    return clock, Nudge(loop, lambda: sent.append(round(clock.now - 100.0, 3))), sent


def test_a_frame_alone_needs_none() -> None:
    clock, nudge, sent = made()
    for _ in range(3):
        nudge.gone(1)
        clock.run(5)
    assert not sent


def test_a_frame_after_a_frame_is_followed_by_one_and_by_some_for_what_came_late() -> None:
    clock, nudge, sent = made()
    nudge.gone(1)
    clock.run(0.5)
    nudge.gone(1)
    clock.run(5)
    assert sent == [0.52, 0.6, 0.76, 1.08]


def test_a_frame_after_a_beat_may_lie_beside_it() -> None:
    clock, nudge, sent = made()
    nudge.gone(0)
    clock.run(5)
    assert not sent
    nudge.gone(0)
    nudge.gone(1)
    clock.run(5)
    assert len(sent) == 4


def test_the_last_record_of_a_large_frame_may_lie_there() -> None:
    clock, nudge, sent = made()
    nudge.gone(3)
    clock.run(5)
    assert len(sent) == 4


def test_a_burst_gets_one_for_each_frame_but_not_without_end() -> None:
    clock, nudge, sent = made()
    for _ in range(10):
        nudge.gone(1)
    clock.run(5)
    assert len(sent) == 9 + 3
    for _ in range(1000):
        nudge.gone(1)
    clock.run(5)
    assert len(sent) - 12 == 32 + 3


def test_none_after_the_end() -> None:
    clock, nudge, sent = made()
    nudge.gone(2)
    nudge.stop()
    clock.run(5)
    assert not sent and not clock.timers


class Arriving:
    """TLS records as the engine's client gets at them, see `tests.support.engineclient.Records`."""

    at_end = False

    def __init__(self, records: list[bytes]) -> None:
        self._records = records
        self._plain = b""

    def read(self, room: int) -> tuple[bytes, int]:
        produced = 0
        if not self._plain and self._records:
            self._plain = self._records.pop(0)
            produced = len(self._plain)
        given, self._plain = self._plain[:room], self._plain[room:]
        return given, produced


@pytest.mark.parametrize("before", [0, 1, 2, 35])
def test_no_frame_leaves_its_last_octet_for_the_lf_after_it(before: int) -> None:
    """The reader would take a lone NUL and an LF for the beginning of the next frame, and close the connection."""
    for size in range(850, 1030):
        _, nudge, _ = made()
        records = []
        for _ in range(before):
            nudge.gone(0)
            records.append(b"\n")
        for frame in (stomp.encode("MESSAGE", (), b"x" * size), stomp.encode("MESSAGE", (), b"the next")):
            records += [nudge.lead(len(frame)) + frame, b"\n", b"\n"]
            nudge.gone(1)
            nudge.gone(0)
            nudge.gone(0)
        reader = FrameReader(Arriving(records))
        found = [message.body for _ in range(len(records) + 10) for message in reader.take()]
        assert found == [b"x" * size, b"the next"]
