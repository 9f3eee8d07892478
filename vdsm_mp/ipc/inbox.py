# SPDX-License-Identifier: Apache-2.0
"""From any thread to the event loop: in order, and one wake-up for many."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable


class Inbox:
    """Callables left here run on the loop, first in, first out. They must not raise and may not block."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._armed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the loop serves what was left and what comes. On the loop's thread."""
        self._thread = threading.get_ident()
        self._loop = loop
        self._arm()

    @property
    def on_loop(self) -> bool:
        return threading.get_ident() == self._thread

    def put(self, call: Callable[[], object]) -> None:
        self._calls.append(call)
        if not self._armed:
            self._arm()

    def _arm(self) -> None:
        loop = self._loop
        if loop is None:
            return
        self._armed = True
        try:
            loop.call_soon_threadsafe(self.serve)
        except RuntimeError:
            # The loop is closed: the process is leaving and nobody is left to be told.
            self._loop = None

    def serve(self) -> None:
        """Run everything that waits. On the loop."""
        # Disarmed first: what comes meanwhile may wake us once too often, but is never left behind.
        self._armed = False
        calls = self._calls
        for _ in range(len(calls)):
            calls.popleft()()
        if calls and not self._armed:
            self._arm()
