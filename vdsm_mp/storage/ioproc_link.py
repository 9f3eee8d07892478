# SPDX-License-Identifier: Apache-2.0
"""One I/O child while it lives: its socket, who waits for which answer, and whether the child still listens.

Used by `ioproc_client` only; callers are pool threads. Whoever waits for an answer also reads the socket for the
others.

Dead storage and a dead child look alike from outside: no answer. Who waits for long therefore asks whether the child
itself still listens (its listener touches no storage). One that is stopped is replaced within seconds, one that is
short of processor time is given more; one that listens is left in peace with whatever hangs in it.
"""

import os
import select
import socket
import threading
import time
from typing import Any

from vdsm_mp.common import kernel
from vdsm_mp.storage.ioproc_wire import PACKET, Request, pack, unpack_answer

#: Silence after which the child is asked whether it listens.
_ASK_AFTER_S = 1.0
#: Silence after that of a child that is stopped (state T), and of one that only may be short of processor time.
_STOPPED_S = 2.0
_SILENT_S = 15.0


class Waiter:
    __slots__ = ("done", "errno", "fds", "parts", "raw")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.fds: list[int] = []
        self.errno = 0
        self.raw = False
        self.done = False


class Gone(Exception):
    """The child's end of the socket is closed."""


class NotSent(Gone):
    """It was closed before this request reached it."""


class Frozen(Gone):
    """It is there and does not run; the text says how that is known."""


class _Alive:
    """Does a child listen? Asked by whoever reads its answers, one thread at a time."""

    def __init__(self) -> None:
        self.pid = 0
        self._heard_mono = time.monotonic()
        self._asked_mono: float | None = None

    def heard(self) -> None:
        self._heard_mono, self._asked_mono = time.monotonic(), None

    def begin(self) -> None:
        """Silence counts from now on: nobody has listened before."""
        if self._asked_mono is None:
            self._heard_mono = time.monotonic()

    def to_ask(self) -> bool:
        """True, once, when it has been silent for long enough to be asked."""
        now = time.monotonic()
        if self._asked_mono is not None or now < self._heard_mono + _ASK_AFTER_S:
            return False
        self._asked_mono = now
        return True

    def frozen(self) -> str:
        """Why it is to be replaced; empty: it is not."""
        if self._asked_mono is None:
            return ""
        silent_s = time.monotonic() - self._asked_mono
        if silent_s >= _SILENT_S:
            return f"it has not listened for {silent_s:.0f} s"
        if silent_s >= _STOPPED_S and self.pid:
            facts = kernel.process(self.pid)
            if facts is not None and facts.stopped:
                return "it is stopped"
        return ""


class Link:
    """One child while it lives."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._turn = threading.Condition()
        self._reading = False
        self._gone = False
        self._next = 0
        self._waiters: dict[int, Waiter] = {}
        self._orphans: dict[int, float] = {}
        self.alive = _Alive()

    def call(self, op: str, args: dict[str, Any], body: bytes, deadline_mono: float) -> Waiter:
        """Raises: TimeoutError (outcome unknown), Gone (outcome unknown)."""
        waiter = Waiter()
        with self._turn:
            self._next += 1
            number = self._next
            self._waiters[number] = waiter
        try:
            self._send(pack(Request(number, op, args), body), deadline_mono)
            self._wait(waiter, deadline_mono)
        except TimeoutError:
            with self._turn:
                self._orphans[number] = time.monotonic()
            raise
        finally:
            with self._turn:
                self._waiters.pop(number, None)
        return waiter

    def waiting(self) -> int:
        return len(self._waiters)

    def orphans(self) -> tuple[int, float]:
        """(how many, seconds since the oldest was given up). Reads what has come meanwhile."""
        with self._turn:
            if not self._reading:
                self._drain()
            oldest = min(self._orphans.values(), default=time.monotonic())
            return len(self._orphans), time.monotonic() - oldest

    def close(self) -> None:
        with self._turn:
            self._gone = True
            self._turn.notify_all()
        self._sock.close()

    def _send(self, packet: bytes, deadline_mono: float) -> None:
        while True:
            try:
                self._sock.send(packet)
                return
            except BlockingIOError:
                self._poll(select.POLLOUT, deadline_mono)
            except OSError as e:
                self._mark_gone()
                raise NotSent from e

    def _wait(self, waiter: Waiter, deadline_mono: float) -> None:
        if not self._wait_as_follower(waiter, deadline_mono):
            try:
                self._read_for_all(waiter, deadline_mono)
            finally:
                with self._turn:
                    self._reading = False
                    self._turn.notify_all()

    def _wait_as_follower(self, waiter: Waiter, deadline_mono: float) -> bool:
        """True: answered meanwhile. False: nobody reads now, so we must."""
        with self._turn:
            while not waiter.done:
                if self._gone:
                    raise Gone
                if not self._reading:
                    self._reading = True
                    return False
                if not self._turn.wait(max(0.0, deadline_mono - time.monotonic())):
                    raise TimeoutError
            return True

    def _read_for_all(self, waiter: Waiter, deadline_mono: float) -> None:
        self.alive.begin()
        while True:
            with self._turn:
                self._drain()
                self._turn.notify_all()
                if waiter.done:
                    return
                if self._gone:
                    raise Gone
            if why := self.alive.frozen():
                self._mark_gone()
                raise Frozen(why)
            if self.alive.to_ask():
                self._send(pack(Request(0, "ping")), deadline_mono)
            self._poll(select.POLLIN, deadline_mono, at_most_s=0.5)

    def _poll(self, what: int, deadline_mono: float, *, at_most_s: float = 3600.0) -> None:
        """Until it can be done, or for so long. Raises: TimeoutError (the deadline is over)."""
        left_s = deadline_mono - time.monotonic()
        try:
            poller = select.poll()
            poller.register(self._sock, what)
            if left_s <= 0 or not (poller.poll(min(left_s, at_most_s) * 1000) or at_most_s < left_s):
                raise TimeoutError
        except ValueError as e:  # closed by us meanwhile
            raise Gone from e

    def _drain(self) -> None:
        while not self._gone:
            try:
                packet, fds, _, _ = socket.recv_fds(self._sock, PACKET, 1)
            except BlockingIOError:
                return
            except OSError:
                packet, fds = b"", []
            if not packet:
                self._gone = True
                return
            self._take(packet, fds)

    def _take(self, packet: bytes, fds: list[int]) -> None:
        header, body = unpack_answer(packet)
        self.alive.heard()
        waiter = self._waiters.get(header.id)
        if waiter is None:  # an orphan's, late
            for fd in fds:
                os.close(fd)
            if not header.more:
                self._orphans.pop(header.id, None)
            return
        waiter.parts.append(body)
        waiter.fds.extend(fds)
        if not header.more:
            waiter.errno, waiter.raw, waiter.done = header.errno, header.raw, True

    def _mark_gone(self) -> None:
        with self._turn:
            self._gone = True
            self._turn.notify_all()
