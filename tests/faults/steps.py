# SPDX-License-Identifier: Apache-2.0
"""A fault at the n-th step. A step is a call of this process or of one of its children that changes a file system, or
has a change written to the disk.

`Steps` wraps the functions of `os` through which all such calls go (and the start and end of programs), in a process
made for it, before the storage room is built; nothing in the product knows of it. The counter is shared with children
forked later. Before the chosen step is made, the whole session is killed with SIGKILL, or the call fails.
"""

import errno
import functools
import mmap
import os
import signal
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ALWAYS = (
    "mkdir",
    "rename",
    "link",
    "unlink",
    "rmdir",
    "symlink",
    "ftruncate",
    "pwrite",
    "write",
    "fchmod",
    "posix_fallocate",
)
_SYNCS = ("fsync", "fdatasync")
_FIELDS = "qqqqq"
#: In place of an errno; a step of the worker itself is then left alone.
CHILD = -1


class Steps:
    """Counts while armed."""

    def __init__(self, balloon: Path, *, syncs: bool) -> None:
        """balloon: a file that can take all room of the file system. syncs: they are steps too."""
        self._shared = mmap.mmap(-1, struct.calcsize(_FIELDS))  # seen by forked children too
        self._balloon = balloon
        self._pid = os.getpid()
        self._allocate = os.posix_fallocate
        for name in (*_ALWAYS, *(_SYNCS if syncs else ())):
            setattr(os, name, self._counting(getattr(os, name)))
        os.open = self._counting(os.open, lambda *args, **kwargs: bool(args[1] & os.O_CREAT))
        subprocess.Popen.__init__ = self._counting(subprocess.Popen.__init__)  # type: ignore[method-assign]
        subprocess.Popen.poll = self._counting_end(subprocess.Popen.poll)  # type: ignore[method-assign]

    def arm(self, at: int, number: int = 0, *, fills: bool = False, die_at: int = 0) -> None:
        """number: an errno that step `at` fails with instead of dying; CHILD: the I/O child dies alone. fills: the
        balloon takes all room from there on, instead. die_at: a later step to die at, 0 = none."""
        self._shared[:] = struct.pack(_FIELDS, at, 0, number, fills, die_at)

    def disarm(self) -> int:
        """How many steps there were."""
        _, count, *_ = struct.unpack(_FIELDS, self._shared[:])
        self._shared[:] = bytes(len(self._shared))
        return int(count)

    def _step(self) -> None:
        at, count, number, fills, die_at = struct.unpack(_FIELDS, self._shared[:])
        if not at:
            return
        count += 1
        self._shared[8:16] = struct.pack("q", count)
        if count in ((at, die_at) if not number and not fills else (die_at,)):
            os.kill(0, signal.SIGKILL)
            signal.pause()
        if fills and count == at:
            self._take_all()
        if number == CHILD and count == at and os.getpid() != self._pid:
            os.kill(os.getpid(), signal.SIGKILL)
        if number > 0 and count == at:
            raise OSError(number, os.strerror(number))

    def _take_all(self) -> None:
        with self._balloon.open("wb") as file:
            size, end = 2**26, 0
            while size >= 4096:
                try:
                    self._allocate(file.fileno(), end, size)
                    end += size
                except OSError as e:
                    if e.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def _counting(self, function: Callable[..., Any], when: Callable[..., bool] = lambda *a, **k: True) -> Any:
        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if when(*args, **kwargs):
                self._step()
            return function(*args, **kwargs)

        return counted

    def _counting_end(self, poll: Callable[..., Any]) -> Any:
        @functools.wraps(poll)
        def counted(child: Any) -> Any:
            running = child.returncode is None
            status = poll(child)
            if running and status is not None:
                try:
                    self._step()
                except OSError:  # a program's end cannot fail; what follows it can
                    return status
            return status

        return counted
