# SPDX-License-Identifier: Apache-2.0
"""What all sessions share: calls in flight and octets that nobody has read yet.

When no more calls may start, sessions wait in a row and go on one after the other, one turn each: a client with a
thousand requests gets no more turns than one with a single request. When too much is unread, the one that holds most
of it is dropped; when too many frames have begun and do not end, the one that began first.
"""

from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from vdsm_mp.clientif.limits import Limits
from vdsm_mp.clientif.stream import Unread

#: Less of a frame than this is not counted: the number of connections bounds it.
_SMALL = 64 * 1024


class Stream(Protocol):
    unread_bytes: int


class Taker(Protocol):
    """A session, as the quota sees it."""

    @property
    def stream(self) -> Stream: ...

    def go_on(self) -> None: ...

    def drop(self, why: str) -> None: ...


class Quota:
    """On the loop only. sessions: gives those that are connected. unread: what they all hold."""

    def __init__(self, limits: Limits, sessions: Callable[[], Collection[Taker]], unread: Unread) -> None:
        self._limits = limits
        self._sessions = sessions
        self._unread = unread
        self._waiting: deque[Taker] = deque()
        #: {session: octets it has of a large frame}; who began first is first
        self._unfinished: dict[Taker, int] = {}
        self.unfinished_bytes = 0
        self.calls = 0

    def may_call(self, session: Taker) -> bool:
        """May this session handle its next frame? If not, its `go_on` is called when it is its turn."""
        if self.calls < self._limits.calls:
            return True
        if session not in self._waiting:
            self._waiting.append(session)
        return False

    @property
    def waiting(self) -> int:
        """Sessions that wait for their turn."""
        return len(self._waiting)

    def took(self, calls: int) -> None:
        self.calls += calls

    def gave_back(self, calls: int) -> None:
        self.calls -= calls
        for _ in range(min(calls, len(self._waiting))):
            self._waiting.popleft().go_on()

    def gone(self, session: Taker) -> int:
        """The session has ended; the octets it had of a large frame."""
        if session in self._waiting:
            self._waiting.remove(session)
        return self._finished(session)

    def waits_for_rest(self, session: Taker, octets: int) -> None:
        """A session has so many octets of a frame and needs more. Whoever began long ago is dropped for those who do
        not mean to come to an end: an honest frame takes a moment."""
        if octets <= _SMALL:
            self._finished(session)
            return
        self.unfinished_bytes += octets - self._unfinished.get(session, 0)
        self._unfinished[session] = octets
        while self.unfinished_bytes > self._limits.unfinished_all_bytes and len(self._unfinished) > 1:
            first = next(iter(self._unfinished))
            had = self._finished(first)
            first.drop(f"{had} octets of a frame are here, its end does not come, and memory is short")

    def _finished(self, session: Taker) -> int:
        octets = self._unfinished.pop(session, 0)
        self.unfinished_bytes -= octets
        return octets

    def check_unread(self) -> None:
        """Drop the worst readers while all of them together hold too much."""
        while self._unread.octets > self._limits.unread_all_bytes and (sessions := self._sessions()):
            worst = max(sessions, key=lambda session: session.stream.unread_bytes)
            if not worst.stream.unread_bytes:
                return
            worst.drop(f"{worst.stream.unread_bytes} octets are waiting and memory is short")
