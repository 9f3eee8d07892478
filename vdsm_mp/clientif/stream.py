# SPDX-License-Identifier: Apache-2.0
"""One client's socket, with TLS or without: octets in as they come, whole frames out one by one.

Each frame begins a TLS record of its own and is never put together with another, because the engine's reader takes
one record at a time; `gap_s` keeps frames apart for it, and `nudge` is told of each. Works on the socket directly: a
small reply is one system call made before the reader of its request returns. Knows nothing of frames' content.
"""

import asyncio
import contextlib
import fcntl
import socket
import ssl
import struct
import termios
from collections import deque
from collections.abc import Callable

from vdsm_mp.clientif.nudge import Nudge

#: A TLS record holds no more, so nothing is left inside OpenSSL where the poller would not see it.
_RECORD = 16 * 1024
#: One turn's part of a large frame; the loop serves others in between.
_CHUNK = 256 * 1024
_RESET, _FIN = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
#: No way to go on now, try again when the poller says so.
_LATER = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, InterruptedError)


def reset(sock: socket.socket) -> None:
    """Close so that the peer notices at once (RST): the engine does not look at FIN."""
    _linger(sock, _RESET)
    sock.close()


def close_by_reset(sock: socket.socket) -> None:
    """However it will be closed, by the end of this process, too: with RST."""
    _linger(sock, _RESET)


def _linger(sock: socket.socket, how: bytes) -> None:
    # Reset by the peer already: there is nothing left to say.
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)


class Unread:
    """Octets that all streams together have not sent yet."""

    __slots__ = ("octets",)

    def __init__(self) -> None:
        self.octets = 0


class Stream:
    """See the module. On the loop only.

    took: called with each piece of input. lost: called once with the reason when the connection has ended by
    itself. drained: called when everything written has gone to the kernel after it had to wait. all_unread: counts for
    all streams what `unread_bytes` does for this one.
    """

    __slots__ = (
        "_all_unread",
        "_drained",
        "_fd",
        "_free_at",
        "_loop",
        "_lost",
        "_partial",
        "_queue",
        "_reading",
        "_records",
        "_sock",
        "_timer",
        "_took",
        "gap_s",
        "nudge",
        "open",
        "read_at",
        "unread_bytes",
        "wrote_at",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, all_unread: Unread | None = None) -> None:
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._all_unread = all_unread or Unread()
        self._queue: deque[bytes] = deque()
        self._partial: memoryview | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._free_at = 0.0
        #: TLS records of what is being sent; 0 for a beat.
        self._records = 1
        self._reading = False
        self._took: Callable[[bytes], None] = _nothing
        self._lost: Callable[[str], None] = _nothing
        self._drained: Callable[[], None] = _nothing
        self.gap_s = 0.0
        self.nudge: Nudge | None = None
        self.open = True
        #: Octets written by the session that the kernel has not taken yet.
        self.unread_bytes = 0
        self.wrote_at = self.read_at = loop.time()

    def start(self, took: Callable[[bytes], None], lost: Callable[[str], None], drained: Callable[[], None]) -> None:
        """Begin to read."""
        self._took, self._lost, self._drained = took, lost, drained
        self.resume()

    def pause(self) -> None:
        """Read no more for now; the peer's window fills and it has to wait."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read again."""
        if not self._reading and self.open:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    @property
    def reading(self) -> bool:
        return self._reading

    def _readable(self) -> None:
        try:
            octets = self._sock.recv(_RECORD)
        except _LATER:
            return
        except OSError as error:
            self._end(str(error))
            return
        if not octets:
            self._end("closed by the peer")
            return
        self.read_at = self._loop.time()
        self._took(octets)

    def write(self, frame: bytes) -> None:
        """Send one frame, or keep it until those before it are gone. After the end: nothing happens."""
        if not self.open:
            return
        if self._partial is not None or self._queue:
            self._keep(frame)
            return
        if self.gap_s and (wait_s := self._free_at - self._loop.time()) > 0:
            self._keep(frame)
            self._timer = self._loop.call_later(wait_s, self._next)
            return
        self._begin(frame)

    def _count(self, octets: int) -> None:
        self.unread_bytes += octets
        self._all_unread.octets += octets

    def _keep(self, frame: bytes) -> None:
        self._queue.append(frame)
        self._count(len(frame))

    def _begin(self, frame: bytes, *, beat: bool = False) -> None:
        self._records = 0 if beat else 1 + len(frame) // _RECORD
        if self.nudge is not None and not beat and (lead := self.nudge.lead(len(frame))):
            frame = lead + frame
        try:
            sent = self._sock.send(frame if len(frame) <= _CHUNK else memoryview(frame)[:_CHUNK])
        except _LATER:
            sent = 0
        except OSError as error:
            self._end_later(str(error))
            return
        if sent == len(frame):
            self._gone()
            return
        self._partial = memoryview(frame)[sent:]
        self._count(len(self._partial))
        self._loop.add_writer(self._fd, self._writable)

    def _writable(self) -> None:
        assert self._partial is not None
        try:
            sent = self._sock.send(self._partial[:_CHUNK])
        except _LATER:
            return
        except OSError as error:
            self._end(str(error))
            return
        self._count(-sent)
        self.wrote_at = self._loop.time()
        self._partial = self._partial[sent:]
        if self._partial:
            return
        self._partial = None
        self._gone()
        self._loop.remove_writer(self._fd)
        if self._queue and self.gap_s:
            self._timer = self._loop.call_later(self.gap_s, self._next)
        else:
            self._next()

    def _gone(self) -> None:
        """The kernel has the whole frame."""
        self.wrote_at = now = self._loop.time()
        self._free_at = now + self.gap_s
        if self.nudge is not None:
            self.nudge.gone(self._records)

    def beat(self, octets: bytes) -> None:
        """Send a sign of life, unless something else is on the way."""
        if self.open and self.idle:
            self._begin(octets, beat=True)

    def _next(self) -> None:
        """Send what waits, one frame a turn when they must be kept apart."""
        self._timer = None
        while self.open and self._queue and self._partial is None:
            frame = self._queue.popleft()
            self._count(-len(frame))
            self._begin(frame)
            if self.gap_s and self._queue and self._partial is None and self.open:
                self._timer = self._loop.call_later(self.gap_s, self._next)
                break
        if self.open and self._partial is None:
            self._drained()

    @property
    def idle(self) -> bool:
        """Is everything that was written with the kernel?"""
        return self._partial is None and not self._queue

    @property
    def arrived(self) -> bool:
        """Has the peer's kernel got everything? What it has not got, a reset throws away."""
        if not self.idle:
            return False
        try:
            waiting = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))
        except OSError:
            return True
        return not any(waiting)

    def _end_later(self, why: str) -> None:
        # write() is called from the middle of a session's work, which must not find itself closed.
        if self.open:
            self._loop.call_soon(self._end, why)
            self._stop()

    def _end(self, why: str) -> None:
        was_told = self._lost
        self.close()
        was_told(why)

    def _stop(self) -> None:
        self.open = False
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)
        if self._partial is not None:
            self._loop.remove_writer(self._fd)
            self._partial = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.nudge is not None:
            self.nudge.stop()
            self.nudge = None
        self._queue.clear()
        self._count(-self.unread_bytes)
        # No rings of references: what a large frame took is free at once.
        self._took = self._drained = _nothing

    def close(self) -> None:
        """Close with FIN. `lost` is not called."""
        if self.open:
            self._stop()
        self._lost = _nothing
        _linger(self._sock, _FIN)
        self._sock.close()

    def reset(self) -> None:
        """Close with RST. `lost` is not called."""
        if self.open:
            self._stop()
        self._lost = _nothing
        reset(self._sock)


def _nothing(*_: object) -> None:
    """Nobody listens (yet)."""
