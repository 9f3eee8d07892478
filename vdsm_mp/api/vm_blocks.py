# SPDX-License-Identifier: Apache-2.0
"""VM.* on the disks of a running VM: snapshot, merge, copy."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_task import JobExists
from vdsm_mp.api.errors_virt import (
    RUNNING_ONLY,
    AbortReplicationFailed,
    BadDiskSize,
    DiskNotFound,
    FreezeFailed,
    InvalidVmParameter,
    MergeFailed,
    NoGuestAgent,
    NoSuchVm,
    ReplicaFailed,
    ReplicationNotReady,
    SnapshotFailed,
    ThawFailed,
    TransientDisk,
    VmNotResponding,
    VmOperationFailed,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb(
    "VM.freeze",
    owner="virt",
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(
        *RUNNING_ONLY,
        FreezeFailed,
        NoGuestAgent,
    ),
)
class FreezeVm(Message, frozen=True, kw_only=True):
    """Freeze the guest's file systems by its agent, for a snapshot. VM.thaw undoes it.

    When it fails they are thawed again, or never were frozen.
    """

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.thaw",
    owner="virt",
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(
        *RUNNING_ONLY,
        ThawFailed,
        NoGuestAgent,
    ),
)
class ThawVm(Message, frozen=True, kw_only=True):
    """Thaw the guest's file systems by its agent. None frozen is fine."""

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.snapshot",
    owner="virt",
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(
        *RUNNING_ONLY,
        InvalidVmParameter,
        SnapshotFailed,
        JobExists,
    ),
    later=(SnapshotFailed, FreezeFailed, VmNotResponding),
)
class SnapshotVm(Message, frozen=True, kw_only=True):
    """Let a running VM go over to new leaf volumes, all of its disks at once or none; as a job when `jobUUID` is given.

    snapDrives: `domainID`, `imageID`, `baseVolumeID` (the leaf until now) and `volumeID` (created before) of each disk.
    snapMemory: six ids for the memory, too; the VM is paused meanwhile. File systems are frozen if the guest can,
    unless `frozen` says that they are. A VM that uses the wanted volumes already is done.
    """

    vm_id: Uuid = field(name="vmID")
    snap_drives: list[dict[str, Any]] = field(name="snapDrives")
    snap_memory: str | None = field(default=None, name="snapMemory")
    frozen: bool | None = None
    job_id: Uuid | None = field(default=None, name="jobUUID")
    timeout: int | None = None
    freeze_timeout: int | None = None


@verb(
    "VM.diskReplicateStart",
    owner="virt",
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(
        *RUNNING_ONLY,
        ReplicaFailed,
        TransientDisk,
    ),
)
class StartDiskReplication(Message, frozen=True, kw_only=True):
    """Mirror a disk of a running VM to another volume, as a step of moving it. Goes on until VM.diskReplicateFinish.

    srcDisk, dstDisk: `poolID`, `domainID`, `imageID`, `volumeID`. Asked again, it changes nothing.
    """

    vm_id: Uuid = field(name="vmID")
    src_disk: dict[str, Any] = field(name="srcDisk")
    dst_disk: dict[str, Any] = field(name="dstDisk")
    need_extend: bool | None = field(default=None, name="needExtend")


@verb(
    "VM.diskReplicateFinish",
    owner="virt",
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(
        *RUNNING_ONLY,
        ReplicaFailed,
        ReplicationNotReady,
        AbortReplicationFailed,
    ),
)
class FinishDiskReplication(Message, frozen=True, kw_only=True):
    """End a mirror: the VM goes over to the destination, or stays when both parameters name the source.

    40 while it is not complete; nothing has changed then. Done already is done.
    """

    vm_id: Uuid = field(name="vmID")
    src_disk: dict[str, Any] = field(name="srcDisk")
    dst_disk: dict[str, Any] = field(name="dstDisk")


@verb(
    "VM.getDiskAlignment",
    owner="virt",
    reply=dict[str, bool],
    safe=True,
    tier=3,
    raises=(DiskNotFound, VmOperationFailed),
)
class GetVmDiskAlignment(Message, frozen=True, kw_only=True):
    """Do partitions begin at multiples of 64 KiB? {"/dev/sda1": true, …}. Deprecated by the API itself.

    disk: poolID, domainID, imageID, volumeID of one that no VM uses here.
    """

    vm_id: Uuid = field(name="vmID")
    disk: dict[str, Any]


@verb(
    "VM.diskSizeExtend",
    owner="virt",
    reply=str,
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, BadDiskSize, DiskNotFound),
)
class ExtendDiskSize(Message, frozen=True, kw_only=True):
    """Tell QEMU and the guest that a disk grew to `newSize` bytes. Returns the size it has now, as text.

    Volume.extendSize comes first. A disk never shrinks.
    """

    vm_id: Uuid = field(name="vmID")
    drive_specs: str | dict[str, Any] | list[dict[str, Any]] = field(name="driveSpecs")
    new_size: str = field(name="newSize")


@verb(
    "VM.merge",
    owner="virt",
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(
        *RUNNING_ONLY,
        MergeFailed,
    ),
)
class MergeVmDisk(Message, frozen=True, kw_only=True):
    """Merge a volume of a running VM into the one below (delete a snapshot). Returns when it has begun.

    drive: `poolID`, `domainID`, `imageID`, `volumeID`. `vmJobs` of the VM's statistics lists it by `jobUUID` until all
    is done; gone from there, the chain in Host.dumpxmls tells whether it succeeded. bandwidth: MiB/s, 0 = no limit.
    """

    vm_id: Uuid = field(name="vmID")
    drive: dict[str, Any]
    base_volume_id: Uuid = field(name="baseVolUUID")
    top_volume_id: Uuid = field(name="topVolUUID")
    bandwidth: int | None = None
    job_id: Uuid | None = field(default=None, name="jobUUID")


@verb(
    "VM.refresh_disk",
    owner="virt",
    reply=dict[str, int],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    deadline_s=180,
    raises=(NoSuchVm, DiskNotFound),
)
class RefreshVmDisk(Message, frozen=True, kw_only=True):
    """Read a thin disk anew that grew while its VM migrates here; for the source. Returns its sizes in bytes."""

    vm_id: Uuid = field(name="vmID")
    drive: dict[str, Any]
