# SPDX-License-Identifier: Apache-2.0
"""Death at the n-th step. A step is a call of this process or of one of its children that changes a file system.

`Steps` wraps the functions of `os` through which all such changes go (and the start and end of programs), in a process
made for it, before the storage room is built; nothing in the product knows of it. The counter is shared with children
forked later. At the chosen step, before the change is made, the whole session is killed with SIGKILL.
"""

import functools
import mmap
import os
import signal
import struct
import subprocess
from collections.abc import Callable
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


class Steps:
    """Counts while armed. die_at: 0 = never."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 24)  # armed and the step, count, errno: seen by forked children too
        for name in _ALWAYS:
            setattr(os, name, self._counting(getattr(os, name)))
        os.open = self._counting(os.open, lambda *args, **kwargs: bool(args[1] & os.O_CREAT))
        subprocess.Popen.__init__ = self._counting(subprocess.Popen.__init__)  # type: ignore[method-assign]
        subprocess.Popen.poll = self._counting_end(subprocess.Popen.poll)  # type: ignore[method-assign]

    def arm(self, die_at: int, number: int = 0) -> None:
        """number: an errno that the step fails with instead of dying."""
        self._shared[:24] = struct.pack("qqq", die_at + 1, 0, number)

    def disarm(self) -> int:
        """How many steps there were."""
        _, count = struct.unpack("qq", self._shared[:16])
        self._shared[:16] = bytes(16)
        return int(count)

    def _step(self) -> None:
        armed, count = struct.unpack("qq", self._shared[:16])
        if armed:
            self._shared[8:16] = struct.pack("q", count + 1)
            if count + 1 == armed - 1:
                (number,) = struct.unpack("q", self._shared[16:24])
                if number:
                    raise OSError(number, os.strerror(number))
                os.kill(0, signal.SIGKILL)
                signal.pause()

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
