# SPDX-License-Identifier: Apache-2.0
"""The few kernel calls that Python has no name for: prctl, process facts from /proc. Linux only."""

import ctypes
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

#: struct ucred.
_UCRED = struct.Struct("3i")

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"prctl({option})")


def die_with_parent(parent_pid: int, by: signal.Signals = signal.SIGKILL) -> bool:
    """Ask for a signal when the parent's thread that forked us ends. False: it has ended already.

    After changing user or group ids, never before: that clears it.
    """
    _prctl(_PR_SET_PDEATHSIG, by)
    return os.getppid() == parent_pid


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def give_up_privileges() -> None:
    """From now on no program we execute can gain rights (sudo does not work any more)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def never_dump() -> None:
    """No core of this process and those it forks, whoever would take it; only root may look into their memory.

    A limit of 0 is not enough: where cores are piped to a program (kernel.core_pattern) it is told of it and may dump.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


class ProcessFacts(msgspec.Struct, frozen=True):
    """From /proc/PID/stat. state: one letter, D = hangs in the kernel."""

    pid: int
    name: str
    state: str
    parent: int
    session: int

    @property
    def stopped(self) -> bool:
        """By a signal, or by a debugger: it does nothing until somebody lets it go on."""
        return self.state in "Tt"


def process(pid: int) -> ProcessFacts | None:
    """Facts of a process, None when there is none. Never blocks, even on a process that hangs."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    words = rest.split()
    return ProcessFacts(pid, name, words[0], int(words[1]), int(words[3]))


def age_s(pid: int) -> float | None:
    """How long ago a process was begun; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    began_s = int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began_s)


def tracer(pid: int) -> int:
    """The pid of the debugger that holds a process, 0 = none: its parent hears of no end before that lets it go."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.partition("\nTracerPid:")[2].split(None, 1)[0])


def processes() -> list[ProcessFacts]:
    """Facts of every process that is visible."""
    found = (process(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())
    return [facts for facts in found if facts is not None]


def in_session(session: int) -> list[ProcessFacts]:
    """Facts of the processes of one session. Asks for the others by one short call each, however many there are."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                ours = os.getsid(int(entry)) == session
            except OSError:
                continue
            if ours and (facts := process(int(entry))) is not None:
                found.append(facts)
    return found


def peer_of(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of who connected, or made the socket listen, at the other end of a unix socket."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid


def who_has_open(path: str) -> int:
    """The pid of a process that has this file open, removed since or not; 0 when nobody has, or we may not look."""
    wanted = (path, f"{path} (deleted)")
    for entry in os.listdir("/proc"):
        if entry.isdigit() and any(target in wanted for target in _open_files(f"/proc/{entry}/fd")):
            return int(entry)
    return 0


def _open_files(folder: str) -> Iterator[str]:
    """Where a process's descriptors lead; one that is closed meanwhile leads nowhere."""
    try:
        numbers = os.listdir(folder)
    except OSError:  # gone, or not ours to look at
        return
    for number in numbers:
        with suppress(OSError):
            yield os.readlink(f"{folder}/{number}")  # noqa: PTH115 - thousands of them: a Path each costs more


def rss_kib(pid: int) -> int:
    """Resident memory; 0 when the process is gone. Takes no lock of the process, unlike PSS."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since boot, in any control group."""
    try:
        _, _, rest = Path("/proc/vmstat").read_bytes().partition(b"\noom_kill ")
    except OSError:
        return 0
    return int(rest.split(None, 1)[0]) if rest else 0


def own_pss_kib() -> int:
    """Our proportional share of memory. Only for oneself: it waits for the memory lock of the process."""
    try:
        fd = os.open("/proc/self/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _, _, rest = os.read(fd, 4096).partition(b"\nPss:")
        finally:
            os.close(fd)
    except OSError:
        return 0
    return int(rest.split(None, 1)[0]) if rest else 0
