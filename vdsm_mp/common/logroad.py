# SPDX-License-Identifier: Apache-2.0
"""The road that log lines take to the one process which writes them, so that nobody else waits for a disk.

    sending end, shared by every process of the house   ->   the writer (`house/logwriter.py`)

One packet is one line of one handler: handler number, level, logger, text. A sender waits a moment when the road is
full; when that does not help it does not wait again before something moved, and counts what it loses. A packet leaves
the road after it was written: what a dying writer held is written by the next one, and an empty road means that all is
written.
"""

import fcntl
import logging
import mmap
import select
import socket
import struct
import termios
from collections.abc import Callable, Sequence

#: A traceback of many frames fits; what is longer is cut.
MOST_BYTES = 48 * 1024
#: How long a sender waits for room, once.
PATIENCE_S = 0.1
#: What the kernel keeps for us; it gives less when it may not.
ROAD_BYTES = 1 << 20
_COUNT = struct.Struct("Q")
#: In place of a handler's number: open the files again.
REOPEN = -1


class Road:
    """Both ends. `lost`: lines that this process could not send."""

    def __init__(self) -> None:
        self.start, self.end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.start.setblocking(False)
        self.start.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROAD_BYTES)
        self.lost = 0
        self._full = False
        self._written = mmap.mmap(-1, 8)  # shared with whoever is forked

    @property
    def written(self) -> int:
        """How many packets have left the road."""
        return int(_COUNT.unpack_from(self._written)[0])

    def waiting_bytes(self) -> int:
        """What was sent, by anybody, and is not written yet, in the kernel's own reckoning."""
        return int(struct.unpack("i", fcntl.ioctl(self.start, termios.TIOCOUTQ, b"\0\0\0\0"))[0])

    def send(self, number: int, record: logging.LogRecord, form: Callable[[logging.LogRecord], str]) -> None:
        """A line for handler `number`, in the shape that `form` gives it. Waits for PATIENCE_S at most."""
        if self.lost:
            words = "%d lines before this one are lost: nobody wrote them"
            told = logging.LogRecord(record.name, logging.WARNING, "", 0, words, (self.lost,), None)
            if self._put(_packed(number, told, form(told))):
                self.lost = 0
        if not self._put(_packed(number, record, form(record))):
            self.lost += 1

    def reopen(self) -> None:
        self._put(f"{REOPEN} 0 -\n".encode())

    def _put(self, packet: bytes) -> bool:
        for wait_s in (0.0 if self._full else PATIENCE_S, 0.0):
            try:
                self.start.send(packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if wait_s:
                    select.select([], [self.start], [], wait_s)
            except OSError:
                return False
            else:
                self._full = False
                return True
        self._full = True
        return False

    def write_all(self, handlers: Sequence[logging.Handler], reopen: Callable[[], None]) -> None:
        """The writer's work: until every sender has gone. Lines come ready; the handlers only write."""
        for handler in handlers:
            handler.setFormatter(logging.Formatter("%(message)s"))
        while packet := self.end.recv(MOST_BYTES, socket.MSG_PEEK):
            head, _, text = packet.decode(errors="replace").partition("\n")
            number, level, name = head.split(" ", 2)
            if int(number) == REOPEN:
                reopen()
            else:
                handlers[int(number)].handle(logging.LogRecord(name, int(level), "", 0, "%s", (text,), None))
            self.end.recv(1)  # it is written: off the road
            _COUNT.pack_into(self._written, 0, self.written + 1)


def _packed(number: int, record: logging.LogRecord, text: str) -> bytes:
    return f"{number} {record.levelno} {record.name}\n{text}".encode("utf-8", "backslashreplace")[:MOST_BYTES]
