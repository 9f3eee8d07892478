# SPDX-License-Identifier: Apache-2.0
"""Who is on the way in, address by address: whose handshake goes on next, and who must go when there are too many.

A step of a handshake costs a millisecond, and an engine gives up a handshake after half a second, however many a
stranger has begun. So each address has its turn, those that have somebody inside have every other one, and steps get a
small part of each turn of the loop. When it is full, the oldest of the address that holds the most goes: an honest
handshake takes milliseconds, those who hold out want to keep others from coming in. All strangers of one IPv6 network
count as one address: whoever has one of them has 2^64.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address

from vdsm_mp.clientif.arrival import Arrival

#: Of one turn of the loop; at least one step is done.
_STEPS_S = 0.002

#: {neighbourhood: arrivals whose handshake could go on}
_Row = dict[str, deque[Arrival]]


def neighbourhood(address: str) -> str:
    """The address, or the /64 that an IPv6 address is in (as text, for telling them apart only)."""
    if ":" not in address:
        return address
    try:
        return IPv6Address(address).packed[:8].hex()
    except ValueError:
        return address


class Newcomers:
    """On the loop only. known: does an address have somebody inside?"""

    def __init__(self, loop: asyncio.AbstractEventLoop, known: Callable[[str], bool]) -> None:
        self._loop = loop
        self._known = known
        #: {neighbourhood: its arrivals in the order in which they came}
        self._by_address: dict[str, dict[Arrival, None]] = {}
        self._strangers: _Row = {}
        self._acquaintances: _Row = {}
        self._scheduled = self._strangers_next = False
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Arrival]:
        """All of them; they may be removed meanwhile."""
        return iter([arrival for arrivals in self._by_address.values() for arrival in arrivals])

    def add(self, arrival: Arrival) -> None:
        self._by_address.setdefault(neighbourhood(arrival.address), {})[arrival] = None
        self._count += 1

    def remove(self, arrival: Arrival) -> None:
        """It is inside, or gone. Unknown ones are fine."""
        place = neighbourhood(arrival.address)
        arrivals = self._by_address.get(place)
        if arrivals is None or arrival not in arrivals:
            return
        del arrivals[arrival]
        self._count -= 1
        if not arrivals:
            del self._by_address[place]

    def one_to_push_out(self) -> Arrival:
        """There must be one."""
        greediest = max(self._by_address, key=lambda address: len(self._by_address[address]))
        return next(iter(self._by_address[greediest]))

    def queue_step(self, arrival: Arrival) -> None:
        """Call its `step` when it is its address's turn."""
        if self._known(arrival.address):
            self._acquaintances.setdefault(arrival.address, deque()).append(arrival)
        else:
            self._strangers.setdefault(neighbourhood(arrival.address), deque()).append(arrival)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._run_steps)

    def _run_steps(self) -> None:
        until = self._loop.time() + _STEPS_S
        try:
            while self._strangers or self._acquaintances:
                arrival = self._next()
                # Those who were pushed out meanwhile cost nothing.
                if not arrival.done:
                    arrival.step()
                    if self._loop.time() >= until:
                        break
        finally:
            self._scheduled = bool(self._strangers or self._acquaintances)
            if self._scheduled:
                self._loop.call_soon(self._run_steps)

    def _next(self) -> Arrival:
        row = self._strangers if self._strangers_next else self._acquaintances
        row = row or self._strangers or self._acquaintances
        self._strangers_next = row is self._acquaintances
        address, waiting = next(iter(row.items()))
        arrival = waiting.popleft()
        # To the end of the row, behind every other address that waits.
        del row[address]
        if waiting:
            row[address] = waiting
        return arrival
