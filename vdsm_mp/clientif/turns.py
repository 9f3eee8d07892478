# SPDX-License-Identifier: Apache-2.0
"""How many calls may be with a worker at once, and whose is next when more want to: each caller in turn, not each
call. So a client that asks for a thousand slow things delays another's single call by one place, not by a thousand.
"""

import asyncio
from collections import deque
from collections.abc import Hashable

from vdsm_mp.api.errors import Busy


class Turns:
    """The calls to one worker. On the loop only. most: calls at once, fewer than the bus would refuse."""

    def __init__(self, worker: str, most: int) -> None:
        self._worker = worker
        self._most = most
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self.running = 0

    async def take(self, caller: Hashable, within_s: float) -> None:
        """Wait for a place; `give` it back. Raises: Busy (none in time; the call has not run)."""
        if self.running < self._most:
            self.running += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(place)
        try:
            async with asyncio.timeout(within_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                # Given at the very moment when it was given up.
                self.give()
            else:
                self._forget(caller, place)
            if isinstance(error, TimeoutError):
                raise Busy(f"the {self._worker} worker") from None
            raise
        # It was handed over by `give`, so `running` has counted it all the time.

    def _forget(self, caller: Hashable, place: "asyncio.Future[None]") -> None:
        places = self._waiting.get(caller)
        if places is not None and place in places:
            places.remove(place)
            if not places:
                del self._waiting[caller]

    def give(self) -> None:
        """A call is over: its place goes to the next caller in the row."""
        while self._waiting:
            caller, places = next(iter(self._waiting.items()))
            place = places.popleft()
            # To the end of the row, behind everybody else who waits.
            del self._waiting[caller]
            if places:
                self._waiting[caller] = places
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1

    @property
    def waiting(self) -> int:
        return sum(len(places) for places in self._waiting.values())
