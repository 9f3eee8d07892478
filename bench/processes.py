# SPDX-License-Identifier: Apache-2.0
"""What the kernel knows of processes: CPU time and memory."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator

#: A process's CPU time in nanoseconds, not in ticks of 10 ms: see clock_getcpuclockid(3).
_CPU_CLOCK = 2


def cpu_s(pids: Iterable[int]) -> float:
    """User and system seconds of all threads, ended ones too. Processes that are gone count as nothing."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += time.clock_gettime(~pid << 3 | _CPU_CLOCK)
    return total


def smaps_kib(pid: int, what: str) -> int:
    """what: "Pss:", "Pss_Anon:", …"""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith(what))


@contextlib.contextmanager
def before_all_others(pids: Iterable[int]) -> Iterator[None]:
    """These processes, and what they start, have real-time priority meanwhile: what the machine does besides does not
    count. Needs root.
    """
    pids = list(pids)
    _schedule(pids, os.SCHED_RR, 1)
    try:
        yield
    finally:
        _schedule(pids, os.SCHED_OTHER, 0)


def _schedule(pids: list[int], policy: int, priority: int) -> None:
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.sched_setscheduler(int(thread), policy, os.sched_param(priority))
