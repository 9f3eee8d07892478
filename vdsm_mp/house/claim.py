# SPDX-License-Identifier: Apache-2.0
"""What one start claims for itself in the run directory: the lock, the pid file, a directory for its bus.

Taken by the master before its first fork. Whatever cannot be had is a `CannotStart` with a sentence that names it, and
whether it may pass by itself (the disk is full, the last owner is still dying) or needs somebody.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from vdsm_mp.common.controlsocket import LOCK

#: No room, no memory, no descriptors or processes left, a port that its last owner has not let go, an address that the
#: host has not been given yet: worth another try.
MAY_PASS = frozenset((
    errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EADDRINUSE,
    errno.EADDRNOTAVAIL, errno.EINTR,
))  # fmt: skip

PID_FILE = "vdsm-mp.pid"


class CannotStart(Exception):
    """One line for each fault; said to stderr and syslog."""

    def __init__(self, faults: str, *, may_pass: bool = False) -> None:
        super().__init__(faults)
        self.may_pass = may_pass


class AlreadyRunning(CannotStart):
    """Another master has the lock."""

    def __init__(self, pid: str) -> None:
        super().__init__(f"already running pid {pid or 'unknown'}", may_pass=True)


@contextlib.contextmanager
def needing(path: Path) -> Iterator[None]:
    """Whatever goes wrong with files at or below `path` keeps the agent from starting."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise CannotStart(f"{where}: {error.strerror}", may_pass=error.errno in MAY_PASS) from error


def lock(run_dir: Path) -> int:
    """Take the single-instance lock for life; the descriptor. Raises AlreadyRunning, CannotStart."""
    path = run_dir / LOCK
    with needing(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        raise AlreadyRunning(holder) from None
    with needing(path):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


@contextlib.contextmanager
def bus_dir(run_dir: Path) -> Iterator[Path]:
    """A directory of this start's own, so that two houses never answer each other's bell. Old ones are removed."""
    with needing(run_dir):
        for entry in run_dir.iterdir():
            if entry.is_dir() and entry.name.startswith("e-"):
                shutil.rmtree(entry, ignore_errors=True)
        made = run_dir / f"e-{int(time.time()):x}-{os.getpid():x}"
        made.mkdir(mode=0o700)
    try:
        yield made
    finally:
        with contextlib.suppress(OSError):  # who was written off has sockets in it: the next start removes it
            made.rmdir()


@contextlib.contextmanager
def pid_file(run_dir: Path) -> Iterator[None]:
    """There for as long as we are."""
    with needing(run_dir / PID_FILE):
        write_pid_file(run_dir)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it says no more than its absence, and the next start removes it
            (run_dir / PID_FILE).unlink()


def write_pid_file(run_dir: Path) -> None:
    """Raises OSError."""
    path = run_dir / PID_FILE
    path.unlink(missing_ok=True)  # whoever wrote it, root too: the directory is ours
    path.write_text(f"{os.getpid()}\n")


def has_pid_file(run_dir: Path) -> bool:
    return (run_dir / PID_FILE).exists()
