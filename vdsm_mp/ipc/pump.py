# SPDX-License-Identifier: Apache-2.0
"""One zmq socket on the event loop, read through its file descriptor.

Half the cost of `zmq.asyncio` for a round trip (bench/bus.py compares them), because a message in makes no future
and no task. The descriptor is edge-triggered and any use of the socket may swallow an edge: so we read until there
is nothing left, and look once more after every send.
"""

import asyncio
from collections.abc import Callable, Sequence

import zmq

from vdsm_mp.common import log

logger = log.named(__name__)

#: Messages taken in one go, before the rest of the loop has its turn.
BATCH = 64
#: The largest number of frames of any message of ours.
MAX_FRAMES = 4

_NOBLOCK = zmq.NOBLOCK
_MORE = zmq.NOBLOCK | zmq.SNDMORE
_POLLIN = int(zmq.POLLIN)


class Pump:
    """Owns `socket`; calls `take(frames)` on the loop for each message."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, socket: "zmq.Socket[bytes]", take: Callable[[list[bytes]], None]
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._take = take
        self._fd = int(socket.getsockopt(zmq.FD))
        self._reading = False
        self._again = False
        self._closed = False
        self.overlong = 0
        loop.add_reader(self._fd, self._readable)
        self._look_again()

    def send(self, frames: Sequence[bytes]) -> bool:
        """Hand a message to zmq. False when its queue is full or the peer is unknown: nothing was sent."""
        socket = self._socket
        last = len(frames) - 1
        try:
            for i, frame in enumerate(frames):
                socket.send(frame, _NOBLOCK if i == last else _MORE)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        finally:
            if not self._reading and not self._again:
                self._look_again()
        return True

    def _look_again(self) -> None:
        if int(self._socket.getsockopt(zmq.EVENTS)) & _POLLIN:
            self._again = True
            self._loop.call_soon(self._readable)

    def _readable(self) -> None:
        self._again = False
        socket = self._socket
        if self._closed:
            return
        self._reading = True
        try:
            for _ in range(BATCH):
                frames = [socket.recv(_NOBLOCK)]
                while socket.getsockopt(zmq.RCVMORE):
                    frame = socket.recv(_NOBLOCK)
                    if len(frames) <= MAX_FRAMES:
                        frames.append(frame)
                if len(frames) > MAX_FRAMES:
                    self.overlong += 1
                    continue
                try:
                    self._take(frames)
                except Exception:
                    # Leaving the loop here would leave the rest unread until the next edge, perhaps for ever.
                    logger.exception("a message of %d frames could not be taken", len(frames))
                if self.closed:
                    return
        except zmq.Again:
            return
        finally:
            self._reading = False
        self._again = True
        self._loop.call_soon(self._readable)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self, linger_ms: int = 0) -> None:
        """Stop reading and close the socket. Repeating is harmless."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self._socket.close(linger=linger_ms)
