# SPDX-License-Identifier: Apache-2.0
"""Remembers the state and reads it again only after the kernel said that something changed (netlink groups).

No thread: the messages wait in the socket, and who wants the state looks whether there are any. A queue that ran
over counts as a change.
"""

import contextlib
import socket
import threading
from collections.abc import Callable

from vdsm_mp.network.state import State, read

# rtnetlink(7): links, IPv4/IPv6 addresses, IPv4/IPv6 routes.
_GROUPS = 0x1 | 0x10 | 0x100 | 0x40 | 0x400


class Watch:
    def __init__(self, reader: Callable[[], State] = read) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._known: State | None = None
        self._socket: socket.socket | None = None

    def open(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.bind((0, _GROUPS))

    def close(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def now(self) -> State:
        """Raises: CommandFailed, CommandOverdue."""
        with self._lock:
            if self._changed() or self._known is None:
                # Drained before reading: a change during the reading makes the next call read again.
                self._known = self._reader()
            return self._known

    def _changed(self) -> bool:
        if self._socket is None:
            return True
        changed = False
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self._socket.recv(1 << 16)
                except BlockingIOError:
                    raise
                except OSError:
                    # ENOBUFS: messages were lost.
                    return True
                changed = True
        return changed
