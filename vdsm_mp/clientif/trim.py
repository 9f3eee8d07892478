# SPDX-License-Identifier: Apache-2.0
"""Memory back to the kernel after many clients have left: the allocator keeps what lies between things still in use."""

import asyncio
import ctypes
from collections.abc import Callable

#: So many must have left since the last time; each keeps about 30 KiB.
_MANY = 64
#: They leave together, and a trim costs milliseconds.
_WAIT_S = 1.0


class Trim:
    """On the loop only. trim: does it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, trim: Callable[[], object] | None = None) -> None:
        self._loop = loop
        self._trim = trim or (lambda: ctypes.CDLL(None).malloc_trim(0))
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def one_left(self) -> None:
        """A client is gone."""
        self._gone(1)

    def large_one_left(self) -> None:
        """One that had left much unread."""
        self._gone(_MANY)

    def _gone(self, weight: int) -> None:
        self._left += weight
        if self._left >= _MANY and self._timer is None:
            self._timer = self._loop.call_later(_WAIT_S, self._due)

    def _due(self) -> None:
        self._timer = None
        self._left = 0
        self._trim()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
