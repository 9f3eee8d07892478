# SPDX-License-Identifier: Apache-2.0
"""One reading of the host's counters. Two of them make the rates of `stats.py`."""

import os
from collections.abc import Mapping, Sequence

import msgspec

from vdsm_mp.common.clock import mono_s
from vdsm_mp.host import memory, numa
from vdsm_mp.host.machine import Machine


class CpuTimes(msgspec.Struct, frozen=True):
    """Ticks since the boot. user includes nice; total is everything, idle and stolen time too."""

    user: int
    system: int
    idle: int
    total: int


class Sample(msgspec.Struct, frozen=True):
    """at_mono: CLOCK_MONOTONIC seconds. cpus: {cpu number: ticks}. agent, ksmd: ticks used by them."""

    at_mono: float
    all_cpus: CpuTimes
    cpus: dict[int, CpuTimes]
    agent_user: int
    agent_system: int
    ksmd: int
    boot_time_s: int
    anon_huge_kib: int
    thp: str
    huge_pages: dict[str, dict[str, int]]
    nodes: tuple[numa.Node, ...]
    free_mib: dict[str, int]


def take(machine: Machine, *, agent_pids: Sequence[int], ksmd_pid: int | None, free_mib: Mapping[str, int]) -> Sample:
    """free_mib: of local folders, see `freespace`."""
    stat = machine.text("/proc/stat").splitlines()
    user, system = map(sum, zip(*(_process(machine, pid) for pid in agent_pids), strict=True)) if agent_pids else (0, 0)
    return Sample(
        at_mono=mono_s(),
        all_cpus=_cpu(next((line for line in stat if line.startswith("cpu ")), "")),
        cpus={int(line.split()[0][3:]): _cpu(line) for line in stat if line[:3] == "cpu" and line[3:4].isdigit()},
        agent_user=user,
        agent_system=system,
        ksmd=sum(_process(machine, ksmd_pid)) if ksmd_pid else 0,
        boot_time_s=next((int(line.split()[1]) for line in stat if line.startswith("btime ")), 0),
        anon_huge_kib=memory.meminfo(machine).get("AnonHugePages", 0),
        thp=memory.thp_state(machine),
        huge_pages=memory.huge_pages(machine),
        nodes=tuple(numa.nodes(machine)),
        free_mib=dict(free_mib),
    )


def process_named(machine: Machine, name: str) -> int | None:
    """The pid of a kernel thread such as ksmd; None when there is none."""
    for pid in machine.names("/proc"):
        if pid.isdigit() and machine.text(f"/proc/{pid}/comm") == name:
            return int(pid)
    return None


def pids_of_agent(machine: Machine) -> list[int]:
    """The agent's processes: our parent's children and our parent itself."""
    parent = os.getppid()
    children = machine.text(f"/proc/{parent}/task/{parent}/children").split()
    return [parent, *(int(pid) for pid in children)] if parent > 1 else [os.getpid()]


def _cpu(line: str) -> CpuTimes:
    ticks = [int(word) for word in line.split()[1:] if word.isdigit()]
    if len(ticks) < 4:
        return CpuTimes(0, 0, 0, 0)
    # Guest time (the 9th and 10th) is in user and nice already.
    return CpuTimes(user=ticks[0] + ticks[1], system=ticks[2], idle=ticks[3], total=sum(ticks[:8]))


def _process(machine: Machine, pid: int) -> tuple[int, int]:
    """(user, system) ticks; the name in front may hold blanks and brackets."""
    words = machine.text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(words[11]), int(words[12])) if len(words) > 12 else (0, 0)
