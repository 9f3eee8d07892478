# SPDX-License-Identifier: Apache-2.0
"""How long a client that does not read its answers is not read itself."""

import asyncio
from collections.abc import Callable

from vdsm_mp.clientif.limits import Limits
from vdsm_mp.clientif.stream import Stream


class Patience:
    """With one client. go_on: called when the wait may be over. On the loop only."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, stream: Stream, limits: Limits, go_on: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._stream = stream
        self._soft_bytes = limits.unread_soft_bytes
        self._still_s = limits.unread_still_s
        self._go_on = go_on
        #: More unread than this, and it is not read.
        self._most = self._soft_bytes
        self._watch: asyncio.TimerHandle | None = None

    def must_wait(self) -> bool:
        if self._stream.unread_bytes <= self._most:
            return False
        if self._watch is None:
            self._watch_from(self._loop.time())
        return True

    def _watch_from(self, since: float) -> None:
        self._watch = self._loop.call_at(since + self._still_s, self._due, since)

    def _due(self, since: float) -> None:
        """Maybe it does not read because it writes, which it cannot because we do not read either."""
        self._watch = None
        if self._stream.unread_bytes > self._most:
            if self._stream.wrote_at > since:
                self._watch_from(self._stream.wrote_at)
                return
            self._most = 2 * self._stream.unread_bytes
        self._go_on()

    def drained(self) -> None:
        """It has read something."""
        if self._stream.unread_bytes <= self._soft_bytes:
            self._most = self._soft_bytes
        self._go_on()

    def end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._go_on = _nothing  # what held the session would keep it in memory


def _nothing() -> None: ...
