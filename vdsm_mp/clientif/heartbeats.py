# SPDX-License-Identifier: Apache-2.0
"""Heart-beats of one STOMP connection, both ways: ours go out in time, and a peer that has fallen silent is noticed.

Timers need nothing but the loop: a busy worker, or a call that hangs, delays no beat.
"""

import asyncio
from collections.abc import Callable

from vdsm_mp.clientif.limits import BEAT_FLOOR_MS, ENGINE_BEAT_FLOOR_MS, HEARTBEAT_EARLY
from vdsm_mp.clientif.stream import Stream
from vdsm_mp.wire import stomp

_DAY_MS = 24 * 3600 * 1000


class Heartbeats:
    """On the loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: Stream) -> None:
        self._loop = loop
        self._stream = stream
        self._beat: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._beat_s = self._silence_s = 0.0

    def agree(self, offer: str, silent: Callable[[str], None], *, engine: bool) -> str:
        """Begin what a CONNECT asks for, instead of what was agreed before. offer, and the answer: `heart-beat`.

        silent: called with the reason when the peer has not been heard for too long.
        """
        theirs_ms, ours_ms = _heart_beat(offer)
        floor_ms = ENGINE_BEAT_FLOOR_MS if engine else BEAT_FLOOR_MS
        ours_ms = min(max(ours_ms, floor_ms), _DAY_MS) if ours_ms else 0
        theirs_ms = min(max(theirs_ms, 1000), _DAY_MS) if theirs_ms else 0
        self._beat_s = ours_ms / 1000 * HEARTBEAT_EARLY
        # Half as much again, for beats that are late on the way.
        self._silence_s = theirs_ms / 1000 * 1.5
        self.stop()
        if self._beat_s:
            self._beat = self._loop.call_later(self._beat_s, self._beat_due)
        if self._silence_s:
            self._watch = self._loop.call_later(self._silence_s, self._watch_due, silent)
        return f"{ours_ms},{theirs_ms}"

    def beat(self) -> None:
        """Send one now."""
        self._stream.beat(stomp.HEARTBEAT)

    def _beat_due(self) -> None:
        due = self._stream.wrote_at + self._beat_s
        if self._loop.time() >= due - 0.001:
            self.beat()
            due = self._loop.time() + self._beat_s
        self._beat = self._loop.call_at(due, self._beat_due)

    def _watch_due(self, silent: Callable[[str], None]) -> None:
        due = self._stream.read_at + self._silence_s
        # Its silence means nothing while it is us who do not listen.
        if self._loop.time() >= due and self._stream.reading:
            silent(f"nothing heard for {self._silence_s:g} s")
            return
        self._watch = self._loop.call_at(max(due, self._loop.time() + 1.0), self._watch_due, silent)

    def stop(self) -> None:
        for timer in (self._beat, self._watch):
            if timer is not None:
                timer.cancel()
        self._beat = self._watch = None


def _heart_beat(text: str) -> tuple[int, int]:
    """(what the client can send, what it wants to receive) in ms; malformed numbers count as 0."""
    first, _, second = text.partition(",")
    return _milliseconds(first), _milliseconds(second)


def _milliseconds(text: str) -> int:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else 0
