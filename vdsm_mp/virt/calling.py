# SPDX-License-Identifier: Apache-2.0
"""Which connection calls to libvirt go through, so that none waits behind a call that hangs.

One of the threads that wait on a connection reads and writes for all of them. While that one waits for a VM that
hangs, another's question can stay unsent or its answer unread (seen with 9.0), and libvirtd serves five questions of a
connection at a time. So calls have a connection of their own, opened when first needed, and the next one gets a new
one as soon as a call on it is late: that call and those beside it keep the old one, which closes with the last of them.
The connection that events come through carries nothing else.
"""

import contextlib
import itertools
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import libvirt

from vdsm_mp.common import clock, log

logger = log.named(__name__)

#: A call that takes longer may hang; what is usual but slow (a start, an end) takes less on a quiet machine.
LATE_S = 0.5
#: A new connection that takes longer is not waited for, and not tried again for so long.
_OPEN_S, _PAUSE_S = 1.0, 2.0
#: So many old connections may be kept by calls that hang. libvirtd has twenty workers, so more would help nobody.
_MOST_LEFT = 40
#: A question that was left unsent goes with the next one on the same connection, unless both are unlucky.
_NUDGES, _NUDGE_S = 2, 0.1

#: {call under way: when it began}, of all threads of this process.
_under_way: dict[int, float] = {}
_numbers = itertools.count()

Opened = tuple[Any, socket.socket | None, str]


@contextlib.contextmanager
def under_way() -> Iterator[None]:
    """Around calls to libvirt that may hang."""
    number = next(_numbers)
    _under_way[number] = clock.mono_s()
    try:
        yield
    finally:
        del _under_way[number]


class Calling:
    """See the module. Any thread. open(deadline): see `Attempt.wait`."""

    def __init__(self, open_one: Callable[[float], Opened]) -> None:
        self._open_one = open_one
        self._lock = threading.Lock()
        self._conn: Any = None
        self._since_mono = 0.0
        self._not_before_mono = 0.0
        #: {connection that somebody still holds: a duplicate of its socket}
        self._sockets: weakref.WeakKeyDictionary[Any, socket.socket] = weakref.WeakKeyDictionary()
        self.changed = 0

    def get(self, main: Any) -> Any:
        """The virConnect for the next call; `main`, the one of the events, when no other can be had."""
        self._renew()
        conn = self._conn
        return main if conn is None or not conn.isAlive() else conn

    def look(self) -> None:
        """Nobody may ask for a while: what was left unsent behind a call that hangs must go all the same."""
        if self._conn is not None:
            self._renew()

    def forget(self) -> None:
        """libvirtd is gone: the next call gets a connection to its successor."""
        self._conn = None

    def sever(self) -> None:
        """libvirtd is frozen: every call that waits for it fails now."""
        for sock in list(self._sockets.values()):
            with contextlib.suppress(OSError):  # closed by libvirt already
                sock.shutdown(socket.SHUT_RDWR)

    def _renew(self) -> None:
        if self._fine():
            return
        with self._lock:
            if not self._fine() and clock.mono_s() >= self._not_before_mono and len(self._sockets) <= _MOST_LEFT:
                self._change()

    def _fine(self) -> bool:
        conn = self._conn
        return conn is not None and conn.isAlive() and not self._late()

    def _late(self) -> bool:
        before, since = clock.mono_s() - LATE_S, self._since_mono
        return any(since <= began < before for began in list(_under_way.values()))

    def _change(self) -> None:
        old = self._conn
        conn, sock, why_not = self._open_one(_OPEN_S)
        if conn is None:
            self._not_before_mono = clock.mono_s() + _PAUSE_S
            logger.info("no further connection for calls: %s", why_not)
            return
        if sock is not None:
            self._sockets[conn] = sock
            weakref.finalize(conn, sock.close)
        self._conn, self._since_mono = conn, clock.mono_s()
        if old is not None:
            self.changed += 1
            threading.Thread(target=_nudge, args=(old,), name="libvirt-nudge", daemon=True).start()


def _nudge(conn: Any) -> None:
    pause = threading.Event()
    for _ in range(_NUDGES):
        with contextlib.suppress(libvirt.libvirtError):
            conn.getLibVersion()
        pause.wait(_NUDGE_S)
