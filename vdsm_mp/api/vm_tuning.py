# SPDX-License-Identifier: Apache-2.0
"""VM.* on how much of the host a running VM gets: memory, processors, input and output."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_virt import (
    RUNNING_ONLY,
    BalloonFailed,
    CpuTuneFailed,
    HotplugMemoryFailed,
    HotunplugMemoryFailed,
    InvalidVmParameter,
    IoTuneFailed,
    MissingVmParameter,
    NoSuchVm,
    PolicyUpdateFailed,
    SetNumberOfCpusFailed,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, Status, verb


@verb(
    "VM.setBalloonTarget",
    owner="virt",
    reply=Status,
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, BalloonFailed),
)
class SetVmBalloonTarget(Message, frozen=True, kw_only=True):
    """Set a VM's balloon, in KiB; between what is guaranteed to it and what it has at most.

    Done, and nothing changed, where there is no balloon.
    """

    vm_id: Uuid = field(name="vmID")
    target: int


@verb(
    "VM.hotplugMemory",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, MissingVmParameter, InvalidVmParameter, HotplugMemoryFailed),
)
class HotplugVmMemory(Message, frozen=True, kw_only=True):
    """Plug memory into a running VM. params: `xml`. Nothing stays when it fails."""

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]


@verb(
    "VM.hotunplugMemory",
    owner="virt",
    deadline_s=90,
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, MissingVmParameter, InvalidVmParameter, HotunplugMemoryFailed),
)
class HotunplugVmMemory(Message, frozen=True, kw_only=True):
    """Unplug memory, named by its alias. What the guest uses stays (85)."""

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]


@verb(
    "VM.setNumberOfCpus",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, SetNumberOfCpusFailed),
)
class SetVmNumberOfCpus(Message, frozen=True, kw_only=True):
    """Change how many CPUs a running VM has, up to the maximum that it was started with.

    cpusets: host CPUs that each may use, in order. A pinning that fails leaves the new number.
    """

    vm_id: Uuid = field(name="vmID")
    number_of_cpus: int = field(name="numberOfCpus")
    cpusets: list[str] | None = None


@verb(
    "VM.setIoTune",
    owner="virt",
    reply=Status,
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, IoTuneFailed),
)
class SetVmIoTune(Message, frozen=True, kw_only=True):
    """Limit the I/O of disks. tunables: a disk by `name`, `path` or ids, and `ioTune` {limit: number} for each.

    Those before the one that failed are limited.
    """

    vm_id: Uuid = field(name="vmID")
    tunables: list[dict[str, Any]]


@verb(
    "VM.getIoTune",
    owner="virt",
    reply=list[dict[str, Any]],
    safe=True,
    tier=3,
    raises=(
        *RUNNING_ONLY,
        IoTuneFailed,
    ),
)
class GetVmIoTune(Message, frozen=True, kw_only=True):
    """Limits of a VM's disks that hold now."""

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.getIoTunePolicy",
    owner="virt",
    reply=list[dict[str, Any]],
    safe=True,
    tier=3,
    raises=(NoSuchVm, PolicyUpdateFailed),
)
class GetVmIoTunePolicy(Message, frozen=True, kw_only=True):
    """Limits of a VM's disks that an engine has set as its policy."""

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.setCpuTuneQuota",
    owner="virt",
    reply=Status,
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, CpuTuneFailed),
)
class SetVmCpuTuneQuota(Message, frozen=True, kw_only=True):
    """Limit what each CPU of a VM may run, in microseconds of every period; negative = no limit."""

    vm_id: Uuid = field(name="vmID")
    quota: int


@verb(
    "VM.setCpuTunePeriod",
    owner="virt",
    reply=Status,
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, CpuTuneFailed),
)
class SetVmCpuTunePeriod(Message, frozen=True, kw_only=True):
    """Set the period of the CPU limit, 1,000 to 1,000,000 microseconds."""

    vm_id: Uuid = field(name="vmID")
    period: int


@verb(
    "VM.updateVmPolicy",
    owner="virt",
    reply=Status,
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(
        *RUNNING_ONLY,
        PolicyUpdateFailed,
        IoTuneFailed,
    ),
)
class UpdateVmVmPolicy(Message, frozen=True, kw_only=True):
    """Keep the limits of a VM in its metadata, where they move along with it, and apply them.

    params: `vcpuLimit` (percent, null lifts it), `ioTune` [{…, guaranteed, maximum}]; what is absent stays. A limit
    that cannot be applied is kept all the same.
    """

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]
