# SPDX-License-Identifier: Apache-2.0
"""Who is on the way in, address by address: whose handshake goes on next, and who must go when there are too many.

One handshake step a turn of the loop, each address in turn: a step costs a millisecond, and an engine gives up a
handshake after half a second, however many a stranger has begun. When it is full, the oldest of the address that
holds the most goes: an honest handshake takes milliseconds, those who hold out want to keep others from coming in.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator

from vdsm_mp.clientif.arrival import Arrival

Step = Callable[[], None]


class Newcomers:
    """On the loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: {address: its arrivals in the order in which they came}
        self._by_address: dict[str, dict[Arrival, None]] = {}
        self._steps: dict[str, deque[Step]] = {}
        self._scheduled = False
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Arrival]:
        """All of them; they may be removed meanwhile."""
        return iter([arrival for arrivals in self._by_address.values() for arrival in arrivals])

    def add(self, arrival: Arrival) -> None:
        self._by_address.setdefault(arrival.address, {})[arrival] = None
        self._count += 1

    def remove(self, arrival: Arrival) -> None:
        """It is inside, or gone. Unknown ones are fine."""
        arrivals = self._by_address.get(arrival.address)
        if arrivals is None or arrival not in arrivals:
            return
        del arrivals[arrival]
        self._count -= 1
        if not arrivals:
            del self._by_address[arrival.address]

    def one_to_push_out(self) -> Arrival:
        """There must be one."""
        greediest = max(self._by_address, key=lambda address: len(self._by_address[address]))
        return next(iter(self._by_address[greediest]))

    def queue_step(self, address: str, step: Step) -> None:
        """Run it when it is its address's turn."""
        self._steps.setdefault(address, deque()).append(step)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run_step)

    def _run_step(self) -> None:
        address, steps = next(iter(self._steps.items()))
        step = steps.popleft()
        # To the end of the row, behind every other address that waits.
        del self._steps[address]
        if steps:
            self._steps[address] = steps
        try:
            step()
        finally:
            self._scheduled = bool(self._steps)
            if self._scheduled:
                self._loop.call_soon(self._run_step)
