# SPDX-License-Identifier: Apache-2.0
"""What a process leaves when it has ended: programs it was running, its last stacks, a trace of who killed it."""

import contextlib
import os
import signal
from collections import deque
from pathlib import Path

from vdsm_mp.common import kernel, log
from vdsm_mp.house.members import Process
from vdsm_mp.ipc import places

logger = log.named("master")

#: Of the stacks that a process wrote before it ended, so much is logged.
_MOST_STACK_BYTES = 64 << 10
#: Signals by which a process ends for what it does.
_OWN_FAULTS = frozenset({
    signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGPIPE, signal.SIGSEGV, signal.SIGSYS,
    signal.SIGTRAP, signal.SIGXCPU, signal.SIGXFSZ,
})  # fmt: skip
#: A core has some ten MiB.
MOST_CORES = 3


def sweep(session: int) -> None:
    """Kill programs that a dead worker was running: two qemu-img on one volume would be worse than none."""
    for facts in kernel.in_session(session):
        if facts.pid != session:
            try:
                os.kill(facts.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue  # gone, or root's: that one ends with its standard input
            logger.warning("killed %s pid=%d, left behind by pid %d", facts.name, facts.pid, session)


def remove_sockets(bus_dir: Path | None, worker: str, epoch: int) -> None:
    """Nobody connects to them any more, and each death would leave three files in memory."""
    if bus_dir is not None:
        for name in places.names(worker, epoch):
            with contextlib.suppress(OSError):  # those that left in order have removed their own
                (bus_dir / name).unlink()


def log_stacks(process: Process) -> None:
    """Once: the descriptor is closed."""
    if os.fstat(process.stacks_fd).st_size:
        text = os.pread(process.stacks_fd, _MOST_STACK_BYTES, 0).decode(errors="replace")
        for line in text.splitlines():
            logger.error("%s stack: %s", process.name, line)
    os.close(process.stacks_fd)
    process.stacks_fd = -1


def keep_cores(folder: Path | None, name: str, status: int) -> None:
    """Tell of a core that was left, and keep the newest few: a worker in a loop of crashes must not fill the disk.

    folder: where cores lie, None = none are made.
    """
    if folder is None or not os.WIFSIGNALED(status) or not os.WCOREDUMP(status):
        return
    try:
        cores = sorted(folder.iterdir(), key=lambda path: path.lstat().st_mtime_ns, reverse=True)
        for old in cores[MOST_CORES:]:
            old.unlink()
    except OSError as error:
        logger.warning("cores in %s cannot be looked through: %s", folder, error)
        return
    where = cores[0] if cores else "where kernel.core_pattern says"
    logger.warning("%s left a core: %s; it holds what the process had in memory, secrets too", name, where)


def killed(status: int) -> bool:
    """By SIGKILL, whoever sent it."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def by_others(status: int) -> bool:
    """By a signal that a process does not get for what it does itself."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) not in _OWN_FAULTS


class KernelKills:
    """How often the kernel killed for want of memory, up to twice `every_s` ago, to tell that from other SIGKILLs."""

    def __init__(self, now: float, every_s: float) -> None:
        self._every_s = every_s
        self._counts = deque([(now, kernel.oom_kills())], maxlen=2)

    def beat(self, now: float) -> None:
        if now - self._counts[-1][0] >= self._every_s:
            self._counts.append((now, kernel.oom_kills()))

    def reason(self, status: int) -> str:
        """ "" when it was not the kernel."""
        return "out of memory" if killed(status) and kernel.oom_kills() > self._counts[0][1] else ""
