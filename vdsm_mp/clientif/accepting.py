# SPDX-License-Identifier: Apache-2.0
"""Accepting connections, a few at a time; it pauses while descriptors are short, and the backlog keeps them."""

import asyncio
import errno
import socket
from collections.abc import Callable

from vdsm_mp.wire.tls import plain_address

_PER_TURN = 16
_PAUSE_S = 0.2
#: Errors of accept that concern us, not the one who came.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Accepting:
    """On the loop only. arrived: given each socket, with its address and port. paused: given the reason of a pause."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket.socket,
        arrived: Callable[[socket.socket, str, int], None],
        paused: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._arrived = arrived
        self._paused = paused
        self.on = False
        self._pausing: asyncio.TimerHandle | None = None
        listener.setblocking(False)

    def start(self) -> None:
        self._pausing = None
        self.on = True
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_PER_TURN):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _OURS:
                    # It was reset while it waited in the backlog.
                    continue
                self._pause(error)
                return
            self._arrived(sock, plain_address(str(address[0])), int(address[1]))

    def _pause(self, error: OSError) -> None:
        """A reader on the listener would only spin."""
        self._paused(error)
        self.stop()
        self._pausing = self._loop.call_later(_PAUSE_S, self.start)

    def stop(self) -> None:
        """Whoever connects from now on waits in the backlog."""
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        if self.on:
            self.on = False
            self._loop.remove_reader(self._listener)
