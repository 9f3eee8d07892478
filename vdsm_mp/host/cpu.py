# SPDX-License-Identifier: Apache-2.0
"""Processors: topology, flags, speed, whether KVM is there. Plain readings, no libvirt."""

import math

import msgspec

from vdsm_mp.host.machine import Machine, cpu_list

_CPUS = "/sys/devices/system/cpu"


class Thread(msgspec.Struct, frozen=True):
    """One logical CPU."""

    cpu_id: int
    core_id: int
    die_id: int
    socket_id: int
    numa_cell_id: int


class Cpu(msgspec.Struct, frozen=True):
    """speed_mhz: of the first CPU as the kernel tells it, 0.0 when it does not."""

    threads: tuple[Thread, ...]
    model: str
    flags: tuple[str, ...]
    speed_mhz: float

    @property
    def sockets(self) -> int:
        return len({t.socket_id for t in self.threads})

    @property
    def cores(self) -> int:
        return len({(t.socket_id, t.die_id, t.core_id) for t in self.threads})


def read(machine: Machine) -> Cpu:
    info = _cpuinfo(machine)
    online = cpu_list(machine.text(f"{_CPUS}/online")) or _listed(machine) or [0]
    speed = _float(info.get("cpu MHz") or info.get("clock", "").removesuffix("MHz"))
    if not speed:
        speed = machine.number(f"{_CPUS}/cpu0/cpufreq/cpuinfo_max_freq") / 1000
    return Cpu(
        threads=tuple(_thread(machine, cpu) for cpu in online),
        model=info.get("model name") or info.get("cpu") or "unknown",
        flags=tuple((info.get("flags") or info.get("Features") or "").split()),
        speed_mhz=speed,
    )


def kvm_enabled(machine: Machine, *, fake: bool) -> bool:
    """VDSM's meaning: the module is there (or somebody pretends so). How fast it is, libvirt's domain type decides."""
    return fake or machine.exists("/dev/kvm")


def nested(machine: Machine) -> bool:
    """May guests use KVM themselves?"""
    modules = ("kvm_intel", "kvm_amd", "kvm_hv")
    return any(machine.text(f"/sys/module/{name}/parameters/nested") in ("1", "Y") for name in modules)


def _thread(machine: Machine, cpu: int) -> Thread:
    folder = f"{_CPUS}/cpu{cpu}"
    nodes = [name[4:] for name in machine.names(folder) if name.startswith("node") and name[4:].isdigit()]
    return Thread(
        cpu_id=cpu,
        core_id=max(0, machine.number(f"{folder}/topology/core_id", cpu)),
        die_id=max(0, machine.number(f"{folder}/topology/die_id")),
        socket_id=max(0, machine.number(f"{folder}/topology/physical_package_id")),
        numa_cell_id=int(nodes[0]) if nodes else 0,
    )


def _listed(machine: Machine) -> list[int]:
    """Numbers of those that /proc/cpuinfo has: a container may have no /sys."""
    lines = [line.partition(":") for line in machine.text("/proc/cpuinfo").splitlines()]
    return [int(number) for name, _, number in lines if name.strip() == "processor" and number.strip().isdecimal()]


def _cpuinfo(machine: Machine) -> dict[str, str]:
    """The first value of each name: all CPUs of a host that may migrate guests are alike."""
    found: dict[str, str] = {}
    for line in machine.text("/proc/cpuinfo").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found


def _float(text: str | None) -> float:
    try:
        number = float(text or "")
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0
