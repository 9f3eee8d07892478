# SPDX-License-Identifier: Apache-2.0
"""VM.* on devices of a running VM."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_virt import (
    RUNNING_ONLY,
    ChangeDiskFailed,
    DeviceNotFound,
    DiskNotFound,
    HostdevDetachFailed,
    HotplugDiskFailed,
    HotplugLeaseFailed,
    HotplugNicFailed,
    HotunplugDiskFailed,
    HotunplugLeaseFailed,
    HotunplugNicFailed,
    InvalidVmParameter,
    MissingVmParameter,
    TicketFailed,
    UpdateDeviceFailed,
)
from vdsm_mp.api.lease import LeaseName
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


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


@verb("VM.screenshot", owner="virt", reply=dict[str, Any], safe=True, tier=3, raises=RUNNING_ONLY)
class ScreenshotVm(Message, frozen=True, kw_only=True):
    """What a VM's first display shows, as {data: base64, encoding, mime_type}."""

    vm_id: Uuid = field(name="vmID")
