# SPDX-License-Identifier: Apache-2.0
"""LFs after a burst, for the engine's reader: it takes one TLS record each time something arrives, or after a second.

Frames are kept apart for it (`limits.ENGINE_GAP_S`), but a reader that is busy with other hosts, or a segment that was
lost on the way, brings several at once all the same; then all but the first lie there for a second each. The short
last record of a large frame does so, too, for it fits into the reader's buffer beside the record before it. Each LF
that arrives later frees one of them. Between frames LFs mean nothing, but they lie in the reader's header buffer until
a frame comes: `lead` sees to it that the frame's NUL is never all that is left outside.
"""

import asyncio
from collections.abc import Callable

#: The reader comes round by itself after so long.
_LOOP_S = 1.0
_EVERY_S = 0.02
#: No more than this is assumed to lie there.
_MOST = 32
#: For what came late: TCP sends a lost segment again after 0.2 s or more.
_LATE_S = (0.08, 0.16, 0.32)
#: Octets of the reader's header buffer. A header block and as much of the body as goes in are read into it.
_BUFFER = 1024


class Nudge:
    """On the loop only. send: sends one LF if nothing else is on the way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Callable[[], None]) -> None:
        self._loop = loop
        self._send = send
        self._timer: asyncio.TimerHandle | None = None
        #: Records that may lie unread at the other end, the last one not counted.
        self._lying = 0
        self._late = 0
        self._before_at = 0.0
        #: Sent since the last frame.
        self._feeds = 0

    def lead(self, octets: int) -> bytes:
        """What must go before a frame of so many octets, in the same record.

        The reader takes a frame whose body ends exactly where its buffer does without the NUL. That begins the next
        frame then, which is understood only as long as no LF comes between them: else it closes the connection.
        """
        return b"\n" if self._feeds + octets == _BUFFER + 1 else b""

    def gone(self, records: int) -> None:
        """A frame of so many records has been sent; 0: an LF."""
        now = self._loop.time()
        followed, self._before_at = now - self._before_at < _LOOP_S, now
        if not records:
            self._feeds += 1
            return
        self._feeds = 0
        if not followed:
            self._lying = 0
        if followed or records > 1:
            self._lying = min(self._lying + 1, _MOST)
            self._late = 0
            self._arm(_EVERY_S)

    def _arm(self, wait_s: float) -> None:
        self.stop()
        self._timer = self._loop.call_later(wait_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self._send()
        self._lying -= 1
        if self._lying > 0:
            self._arm(_EVERY_S)
        elif self._late < len(_LATE_S):
            self._arm(_LATE_S[self._late])
            self._late += 1

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
