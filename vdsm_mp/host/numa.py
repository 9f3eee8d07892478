# SPDX-License-Identifier: Apache-2.0
"""NUMA nodes: CPUs, memory, distances, huge pages of each."""

import msgspec

from vdsm_mp.host.machine import Machine, cpu_list

_NODES = "/sys/devices/system/node"


class Node(msgspec.Struct, frozen=True):
    """distances: to the nodes in the order of their numbers, as many as there are nodes.

    huge_pages: {"2048": (total, free)}.
    """

    number: int
    cpus: tuple[int, ...]
    total_kib: int
    free_kib: int
    distances: tuple[int, ...]
    huge_pages: dict[str, tuple[int, int]]


def nodes(machine: Machine) -> list[Node]:
    """All nodes with memory or CPUs; [] where the kernel has no NUMA."""
    numbers = cpu_list(machine.text(f"{_NODES}/online"))
    return [_node(machine, number, len(numbers)) for number in numbers]


def balancing(machine: Machine) -> int:
    """0 off, 1 on, 2 unknown: the engine's words."""
    text = machine.text("/proc/sys/kernel/numa_balancing")
    return {"0": 0, "1": 1, "2": 1, "3": 1}.get(text, 2)


def _node(machine: Machine, number: int, count: int) -> Node:
    folder = f"{_NODES}/node{number}"
    memory: dict[str, int] = {}
    for line in machine.text(f"{folder}/meminfo").splitlines():
        words = line.replace(":", " ").split()
        if len(words) >= 4 and words[3].isdigit():
            memory[words[2]] = int(words[3])
    huge: dict[str, tuple[int, int]] = {}
    for name in machine.names(f"{folder}/hugepages"):
        size = name.removeprefix("hugepages-").removesuffix("kB")
        pages = f"{folder}/hugepages/{name}"
        huge[size] = (machine.number(f"{pages}/nr_hugepages"), machine.number(f"{pages}/free_hugepages"))
    distances = [int(word) for word in machine.text(f"{folder}/distance").split() if word.isdigit()]
    return Node(
        number=number,
        cpus=tuple(cpu_list(machine.text(f"{folder}/cpulist"))),
        total_kib=memory.get("MemTotal", 0),
        free_kib=memory.get("MemFree", 0),
        distances=tuple(distances[:count]),
        huge_pages=huge,
    )
