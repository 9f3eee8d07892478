# SPDX-License-Identifier: Apache-2.0
"""What a program is told and what it says: its three pipes, driven by poll, never more in memory than a bound."""

import os
import select
import subprocess
from collections.abc import Callable

#: Only the end of stderr is kept: that is where programs say why.
_KEEP_ERR_BYTES = 16 << 10
_CHUNK = 1 << 16


class Talk:
    """With a child that has just begun. limit: bytes of its output, unless `on_output` takes them piece by piece."""

    def __init__(
        self, child: subprocess.Popen[bytes], stdin: bytes, limit: int, on_output: Callable[[bytes], None] | None
    ) -> None:
        self._child = child
        self._stdin = memoryview(stdin)
        self._limit = limit
        self._on_output = on_output
        self._size = 0
        self.out: list[bytes] = []
        self.err = bytearray()
        self._poll = select.poll()
        self._open: dict[int, str] = {}
        self._pidfd = os.pidfd_open(child.pid)
        for pipe, kind, events in (
            (child.stdin, "in", select.POLLOUT),
            (child.stdout, "out", select.POLLIN),
            (child.stderr, "err", select.POLLIN),
        ):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._open[pipe.fileno()] = kind
                self._poll.register(pipe.fileno(), events)
        self._poll.register(self._pidfd, select.POLLIN)

    @property
    def too_much(self) -> bool:
        return self._size > self._limit

    def step(self, wait_s: float) -> bool:
        """Move what can be moved. True when the program has ended and its output is read.

        Its end counts, not the end of its pipes: a daemon it left behind may hold them open for ever.
        """
        ended = False
        for fd, _ in self._poll.poll(wait_s * 1000):
            if fd == self._pidfd:
                ended = self._child.poll() is not None
            elif self._open[fd] == "in":
                self._write(fd)
            else:
                self._read(fd)
        if ended:
            for fd in [fd for fd, kind in self._open.items() if kind != "in"]:
                while fd in self._open and not self.too_much and self._read(fd):
                    pass
        return ended and not self.too_much

    def _write(self, fd: int) -> None:
        try:
            self._stdin = self._stdin[os.write(fd, self._stdin[:_CHUNK]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._stdin = self._stdin[:0]
        if not self._stdin and self._child.stdin is not None:
            self._drop(fd)
            self._child.stdin.close()

    def _read(self, fd: int) -> bool:
        """Read once; False when there is nothing now."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._drop(fd)
        elif self._open[fd] == "err":
            self.err += data
            del self.err[:-_KEEP_ERR_BYTES]
        elif self._on_output is not None:
            self._on_output(data)
        else:
            self._size += len(data)
            self.out.append(data)
        return bool(data)

    def _drop(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._open[fd]

    def err_text(self) -> str:
        return bytes(self.err).decode("utf-8", "replace").strip()

    def close(self) -> None:
        os.close(self._pidfd)
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # its reader is gone; there is nothing left to say to it
