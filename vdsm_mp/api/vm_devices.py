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
    HostdevDetachFailed,
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
    NoSuchVm,
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
    """Insert a CD, or eject it with an empty `driveSpec`. A path, or a volume by its four ids.

    What was in the drive stays there when it fails.
    """

    vm_id: Uuid = field(name="vmID")
    drive_spec: str | dict[str, Any] | list[dict[str, Any]] = field(name="driveSpec")


@verb(
    "VM.changeFloppy",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=3,
    raises=(*RUNNING_ONLY, ChangeDiskFailed),
)
class ChangeVmFloppy(Message, frozen=True, kw_only=True):
    """Insert a floppy, or eject it with an empty `driveSpec`. What was in the drive stays there when it fails."""

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
    """Change a network card (deviceType interface: link, network, limits) or a console's password (graphics).

    The device keeps its old settings when it fails. `portMirroring`: networks whose traffic the card gets a copy of.
    Passwords: `graphicsType`, `password`, `ttl` in seconds.
    """

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]


@verb(
    "VM.hotplugHostdev",
    owner="virt",
    reply=list[str],
    lane=Lane.KEYED,
    key="vm_id",
    deadline_s=180,
    tier=3,
    raises=(*RUNNING_ONLY, HostdevDetachFailed),
)
class HotplugVmHostdev(Message, frozen=True, kw_only=True):
    """Plug PCI, USB and SCSI devices of the host into a running VM; those that it has afterwards, in their order.

    Names as Host.hostdevListByCaps has them. If one cannot be taken from the host nothing is plugged (83); one that
    QEMU refuses is left out of the answer and is the host's again.
    """

    vm_id: Uuid = field(name="vmID")
    devices: list[str]


@verb(
    "VM.hotunplugHostdev",
    owner="virt",
    reply=list[str],
    lane=Lane.KEYED,
    key="vm_id",
    deadline_s=90,
    tier=3,
    raises=RUNNING_ONLY,
)
class HotunplugVmHostdev(Message, frozen=True, kw_only=True):
    """Unplug devices of the host from a running VM; those that went. They are the host's again.

    One that the VM does not have, or that the guest does not release in 30 s, is left out of the answer. Should it be
    released later, it goes back to the host then.
    """

    vm_id: Uuid = field(name="vmID")
    devices: list[str]


@verb(
    "VM.hotplugNic",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, MissingVmParameter, InvalidVmParameter, HotplugNicFailed),
)
class HotplugVmNic(Message, frozen=True, kw_only=True):
    """Plug a network card into a running VM. params: `xml`. Nothing stays when it fails."""

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
    raises=(*RUNNING_ONLY, MissingVmParameter, InvalidVmParameter, HotunplugNicFailed),
)
class HotunplugVmNic(Message, frozen=True, kw_only=True):
    """Unplug a network card, named by MAC address or alias. One that the guest does not release stays (50)."""

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
    raises=(*RUNNING_ONLY, MissingVmParameter, InvalidVmParameter, HotplugDiskFailed),
)
class HotplugVmDisk(Message, frozen=True, kw_only=True):
    """Plug a disk into a running VM. params: `xml`. Nothing stays plugged or prepared when it fails."""

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
    raises=(*RUNNING_ONLY, InvalidVmParameter, HotunplugDiskFailed, DiskNotFound),
)
class HotunplugVmDisk(Message, frozen=True, kw_only=True):
    """Unplug a disk, named by its ids. One that the guest does not release stays, with all that belongs to it (46)."""

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
    """Let a running VM hold an external lease. Nothing stays when it fails."""

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
    """Let a running VM give an external lease up. It keeps the lease when it fails."""

    vm_id: Uuid = field(name="vmID")
    lease: LeaseName


@verb("VM.setTicket", owner="virt", lane=Lane.KEYED, key="vm_id", tier=2, raises=(*RUNNING_ONLY, TicketFailed))
class SetVmTicket(Message, frozen=True, kw_only=True):
    """Set the password of a console; newer engines use VM.updateDevice. ttl: seconds.

    The old password holds when it fails.
    """

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


@verb("VM.screenshot", owner="virt", reply=dict[str, Any], safe=True, tier=3, raises=RUNNING_ONLY)
class ScreenshotVm(Message, frozen=True, kw_only=True):
    """What a VM's first display shows, as {data: base64, encoding, mime_type}."""

    vm_id: Uuid = field(name="vmID")
