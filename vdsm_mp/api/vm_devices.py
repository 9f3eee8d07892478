# SPDX-License-Identifier: Apache-2.0
"""VM.* on devices and tuning of a running VM."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_virt import (
    RUNNING_ONLY,
    BalloonFailed,
    ChangeDiskFailed,
    CpuTuneFailed,
    DeviceNotFound,
    DiskNotFound,
    HotplugDiskFailed,
    HotplugLeaseFailed,
    HotplugMemoryFailed,
    HotplugNicFailed,
    HotunplugDiskFailed,
    HotunplugLeaseFailed,
    HotunplugMemoryFailed,
    HotunplugNicFailed,
    InvalidVmParameter,
    IoTuneFailed,
    MissingVmParameter,
    PolicyUpdateFailed,
    SetNumberOfCpusFailed,
    TicketFailed,
    UpdateDeviceFailed,
)
from vdsm_mp.api.lease import LeaseName
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, Status, verb


@verb(
    "VM.changeCD",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=1,
    deadline_s=180,
    raises=(*RUNNING_ONLY, ChangeDiskFailed),
)
class ChangeVmCd(Message, frozen=True, kw_only=True):
    """Insert or eject a CD (path string or a volume spec)."""

    vm_id: Uuid = field(name="vmID")
    drive_spec: str | dict[str, Any] | list[dict[str, Any]] = field(name="driveSpec")


@verb("VM.changeFloppy", owner="virt", reply=dict[str, Any], lane=Lane.KEYED, key="vm_id", tier=3)
class ChangeVmFloppy(Message, frozen=True, kw_only=True):
    """Change the floppy."""

    vm_id: Uuid = field(name="vmID")
    drive_spec: str | dict[str, Any] | list[dict[str, Any]] = field(name="driveSpec")


@verb(
    "VM.updateDevice",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=1,
    raises=(*RUNNING_ONLY, TicketFailed, UpdateDeviceFailed, DeviceNotFound, InvalidVmParameter),
)
class UpdateVmDevice(Message, frozen=True, kw_only=True):
    """Change NIC link/network/QoS or the graphics ticket (deviceType interface / graphics)."""

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]


@verb("VM.hotplugHostdev", owner="virt", reply=list[str], lane=Lane.KEYED, key="vm_id", tier=3, planned=True)
class HotplugVmHostdev(Message, frozen=True, kw_only=True):
    """Hot plug host devices."""

    vm_id: Uuid = field(name="vmID")
    devices: list[str]


@verb("VM.hotunplugHostdev", owner="virt", reply=list[str], lane=Lane.KEYED, key="vm_id", tier=3, planned=True)
class HotunplugVmHostdev(Message, frozen=True, kw_only=True):
    """Hot unplug them."""

    vm_id: Uuid = field(name="vmID")
    devices: list[str]


@verb(
    "VM.hotplugNic",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, HotplugNicFailed),
)
class HotplugVmNic(Message, frozen=True, kw_only=True):
    """Hot plug a NIC."""

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]


@verb(
    "VM.hotunplugNic",
    owner="virt",
    deadline_s=90,
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, HotunplugNicFailed),
)
class HotunplugVmNic(Message, frozen=True, kw_only=True):
    """Hot unplug a NIC."""

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]


@verb(
    "VM.hotplugDisk",
    owner="virt",
    deadline_s=180,
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, HotplugDiskFailed, MissingVmParameter),
)
class HotplugVmDisk(Message, frozen=True, kw_only=True):
    """Hot plug a disk."""

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]


@verb(
    "VM.hotunplugDisk",
    owner="virt",
    deadline_s=90,
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, HotunplugDiskFailed, DiskNotFound),
)
class HotunplugVmDisk(Message, frozen=True, kw_only=True):
    """Hot unplug a disk."""

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]


@verb(
    "VM.hotplugLease",
    owner="virt",
    reply=dict[str, str],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, HotplugLeaseFailed),
)
class HotplugVmLease(Message, frozen=True, kw_only=True):
    """Add a lease device."""

    vm_id: Uuid = field(name="vmID")
    lease: LeaseName


@verb(
    "VM.hotunplugLease",
    owner="virt",
    reply=dict[str, str],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, HotunplugLeaseFailed),
)
class HotunplugVmLease(Message, frozen=True, kw_only=True):
    """Remove a lease device."""

    vm_id: Uuid = field(name="vmID")
    lease: LeaseName


@verb("VM.setTicket", owner="virt", lane=Lane.KEYED, key="vm_id", tier=2)
class SetVmTicket(Message, frozen=True, kw_only=True):
    """Old way to set the console password."""

    vm_id: Uuid = field(name="vmID")
    password: str
    ttl: int
    existing_conn_action: str = field(name="existingConnAction")
    params: dict[str, Any]


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
    """Set the balloon."""

    vm_id: Uuid = field(name="vmID")
    target: int


@verb(
    "VM.hotplugMemory",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, HotplugMemoryFailed),
)
class HotplugVmMemory(Message, frozen=True, kw_only=True):
    """Hot plug memory."""

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]


@verb(
    "VM.hotunplugMemory",
    owner="virt",
    deadline_s=90,
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, HotunplugMemoryFailed),
)
class HotunplugVmMemory(Message, frozen=True, kw_only=True):
    """Hot unplug memory."""

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
    """Hot plug CPUs."""

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
    raises=(
        *RUNNING_ONLY,
        IoTuneFailed,
    ),
)
class SetVmIoTune(Message, frozen=True, kw_only=True):
    """Apply disk I/O limits."""

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
    """Current limits."""

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.getIoTunePolicy",
    owner="virt",
    reply=list[dict[str, Any]],
    safe=True,
    tier=3,
    raises=(
        *RUNNING_ONLY,
        PolicyUpdateFailed,
    ),
)
class GetVmIoTunePolicy(Message, frozen=True, kw_only=True):
    """Configured limits."""

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
    """CPU quota."""

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
    """CPU period."""

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
    """Store QoS policy (vcpuLimit, ioTune) in the VM metadata."""

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]


@verb("VM.screenshot", owner="virt", reply=dict[str, Any], safe=True, tier=3, raises=RUNNING_ONLY)
class ScreenshotVm(Message, frozen=True, kw_only=True):
    """PPM/PNG screenshot, base64."""

    vm_id: Uuid = field(name="vmID")
