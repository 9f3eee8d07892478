# SPDX-License-Identifier: Apache-2.0
"""What all sessions share: calls in flight and octets that nobody has read yet.

When no more calls may start, sessions wait in a row and go on one after the other, one turn each: a client with a
thousand requests gets no more turns than one with a single request. When too much is unread, the one that holds most
of it is dropped.
"""

from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

from vdsm_mp.clientif.limits import Limits
from vdsm_mp.clientif.stream import Unread


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

    def gone(self, session: Taker) -> None:
        """The session has ended."""
        if session in self._waiting:
            self._waiting.remove(session)

    def check_unread(self) -> None:
        """Drop the worst readers while all of them together hold too much."""
        while self._unread.octets > self._limits.unread_all_bytes and (sessions := self._sessions()):
            worst = max(sessions, key=lambda session: session.stream.unread_bytes)
            if not worst.stream.unread_bytes:
                return
            worst.drop(f"{worst.stream.unread_bytes} octets are waiting and memory is short")
