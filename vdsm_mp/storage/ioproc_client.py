# SPDX-License-Identifier: Apache-2.0
"""The worker's end of one I/O child: requests with deadlines, and the decision when a child is given up.

Callers are pool threads. Whoever waits for an answer also reads the socket for the others (no thread of our own per
domain). A request that misses its deadline is an orphan: its caller gets an error, its slot in the child stays taken
until the kernel lets go. A child whose slots are all taken, or whose oldest orphan is old, is handed to the master
to be killed or written off and a new one is asked for, with a pause between attempts that grows; in the pause calls
fail at once instead of piling up.
"""

import errno
import logging
import os
import select
import socket
import threading
import time
from typing import Any

import msgspec

from vdsm_mp.api.errors import TooManyLost
from vdsm_mp.api.errors_storage import IoChildDied, IoTimedOut, StoragePathBlocked
from vdsm_mp.api.ports import Children
from vdsm_mp.storage.ioproc_wire import PACKET, SLOTS, Request, pack, unpack_answer

_log = logging.getLogger("storage.io")
_decode = msgspec.json.Decoder().decode

KIND = "storage-io"


class _Waiter:
    __slots__ = ("done", "errno", "fds", "parts", "raw")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.fds: list[int] = []
        self.errno = 0
        self.raw = False
        self.done = False


class _Gone(Exception):
    """The child's end of the socket is closed."""


class _NotSent(_Gone):
    """It was closed before this request reached it."""


class _Link:
    """One child while it lives."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._turn = threading.Condition()
        self._reading = False
        self._gone = False
        self._next = 0
        self._waiters: dict[int, _Waiter] = {}
        self._orphans: dict[int, float] = {}

    def call(self, op: str, args: dict[str, Any], body: bytes, deadline_mono: float) -> _Waiter:
        """Raises: TimeoutError (outcome unknown), _Gone (outcome unknown)."""
        waiter = _Waiter()
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
                raise _NotSent from e

    def _wait(self, waiter: _Waiter, deadline_mono: float) -> None:
        if not self._wait_as_follower(waiter, deadline_mono):
            try:
                self._read_for_all(waiter, deadline_mono)
            finally:
                with self._turn:
                    self._reading = False
                    self._turn.notify_all()

    def _wait_as_follower(self, waiter: _Waiter, deadline_mono: float) -> bool:
        """True: answered meanwhile. False: nobody reads now, so we must."""
        with self._turn:
            while not waiter.done:
                if self._gone:
                    raise _Gone
                if not self._reading:
                    self._reading = True
                    return False
                if not self._turn.wait(max(0.0, deadline_mono - time.monotonic())):
                    raise TimeoutError
            return True

    def _read_for_all(self, waiter: _Waiter, deadline_mono: float) -> None:
        while True:
            with self._turn:
                self._drain()
                self._turn.notify_all()
                if waiter.done:
                    return
                if self._gone:
                    raise _Gone
            self._poll(select.POLLIN, deadline_mono)

    def _poll(self, what: int, deadline_mono: float) -> None:
        left_s = deadline_mono - time.monotonic()
        try:
            poller = select.poll()
            poller.register(self._sock, what)
            if left_s <= 0 or not poller.poll(left_s * 1000):
                raise TimeoutError
        except ValueError as e:  # closed by us meanwhile
            raise _Gone from e

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


class IoProcess:
    """Calls to the child of one root, whichever child that is at the moment. Thread-safe."""

    #: Operations that may simply be sent again when the child died under them.
    _REPEATABLE = frozenset(
        {
            "ping",
            "stat",
            "statvfs",
            "readdir",
            "read_directory",
            "read_volume",
            "scan",
            "read",
            "access",
            "fsync",
            "open_locked",
        }
    )

    def __init__(self, children: Children, name: str, root: str, beneath: str, *, replace_after_s: float) -> None:
        self._children = children
        self._name = name
        self._where = (root, beneath)
        self._replace_after_s = replace_after_s
        self._opening = threading.Lock()
        self._link: _Link | None = None
        self._failures = 0
        self._not_before = 0.0
        self._closed = False

    def call(self, op: str, args: dict[str, Any], body: bytes = b"", *, deadline_s: float) -> Any:
        """The operation's result: bytes, a descriptor (int) for `open_locked`, or what JSON carries.

        Raises: OSError (the operation's own), IoTimedOut, IoChildDied (outcome unknown), StoragePathBlocked,
        TooManyLost (nothing was sent).
        """
        deadline = time.monotonic() + deadline_s
        for attempt in (1, 2):
            link = self._usable(deadline)
            try:
                answer = link.call(op, args, body, deadline)
                if answer.errno != errno.EBADF or attempt == 2:
                    break
                # Its root was given up while it was being opened, and could not be opened in the end: nothing ran.
                self._drop(link)
            except TimeoutError:
                raise IoTimedOut(self._label(), op, deadline_s) from None
            except _Gone as gone:
                self._drop(link)
                if attempt == 2 or not (op in self._REPEATABLE or isinstance(gone, _NotSent)):
                    raise IoChildDied(self._label(), op) from None
        self._failures = 0
        joined = b"".join(answer.parts)
        if answer.errno:
            raise OSError(answer.errno, joined.decode("utf-8", "replace"))
        if answer.fds:
            return answer.fds[0]
        return joined if answer.raw else _decode(joined)

    def health(self) -> dict[str, Any]:
        """For status: is there a child, how many requests hang in it, how often it was replaced in a row."""
        link = self._link
        stuck, oldest_s = link.orphans() if link is not None else (0, 0.0)
        return {
            "child": link is not None,
            "waiting": link.waiting() if link is not None else 0,
            "stuck": stuck,
            "stuck_s": round(oldest_s, 1),
            "replaced": self._failures,
        }

    def close(self) -> None:
        """End the child; calls that wait fail as if it had died. Does not wait."""
        with self._opening:
            self._closed = True
            link, self._link = self._link, None
        if link is not None:
            link.close()
            self._children.close(KIND, self._name)

    def _label(self) -> str:
        return "/".join(part for part in self._where if part)

    def _usable(self, deadline_mono: float) -> _Link:
        link = self._link
        if link is not None:
            stuck, oldest_s = link.orphans()
            if stuck == 0 or (stuck < SLOTS and oldest_s < self._replace_after_s):
                return link
        with self._opening:
            if self._closed:
                raise StoragePathBlocked(self._label(), "it was disconnected")
            if self._link is not link and self._link is not None:  # somebody else has just replaced it
                return self._link
            now = time.monotonic()
            if now < self._not_before:
                raise StoragePathBlocked(self._label(), "earlier requests still hang in the kernel")
            # One replacement at once, another, then pauses that grow: the count of lost children is finite.
            self._failures += 1
            self._not_before = now + (0.0 if self._failures <= 1 else min(600.0, 30.0 * 2 ** (self._failures - 2)))
            if self._link is not None:
                _log.warning("I/O child of %s hangs; it is given up and replaced", self._label())
                self._link.close()
                self._link = None
            self._link = self._open(deadline_mono)
            return self._link

    def _open(self, deadline_mono: float) -> _Link:
        left_s = max(0.1, deadline_mono - time.monotonic())
        try:
            link = _Link(self._children.open(KIND, self._name, deadline_s=min(5.0, left_s)))
        except TooManyLost:
            self._not_before = time.monotonic() + 10.0
            raise
        root, beneath = self._where
        try:
            answer = link.call("open", {"root": root, "beneath": beneath}, b"", deadline_mono)
        except TimeoutError:
            # Left in place: it is what hangs, and the next call sees it as stuck.
            self._link = link
            raise IoTimedOut(self._label(), "open", left_s) from None
        except _Gone:
            link.close()
            raise IoChildDied(self._label(), "open") from None
        if answer.errno:
            link.close()
            self._children.close(KIND, self._name)
            self._failures -= 1
            raise OSError(answer.errno, b"".join(answer.parts).decode("utf-8", "replace"))
        return link

    def _drop(self, link: _Link) -> None:
        with self._opening:
            if self._link is link:
                self._link = None
        link.close()
