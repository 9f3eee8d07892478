# SPDX-License-Identifier: Apache-2.0
"""VM.* on the disks of a running VM: snapshot, merge, backup, copy."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_task import JobExists
from vdsm_mp.api.errors_virt import (
    RUNNING_ONLY,
    AbortReplicationFailed,
    BackupFailed,
    BadDiskSize,
    CheckpointFailed,
    DiskNotFound,
    FreezeFailed,
    InvalidVmParameter,
    MergeFailed,
    NoGuestAgent,
    NoSuchBackup,
    NoSuchVm,
    ReplicaFailed,
    ReplicationNotReady,
    SnapshotFailed,
    ThawFailed,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, Status, verb


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
    """Freeze guest file systems."""

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
    """Thaw them."""

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
)
class SnapshotVm(Message, frozen=True, kw_only=True):
    """Live snapshot, optionally with memory; `jobUUID` is the job id."""

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
    ),
)
class StartDiskReplication(Message, frozen=True, kw_only=True):
    """Start mirroring a disk (live storage migration)."""

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
    """Pivot or abandon the mirror (equal source and destination = abandon)."""

    vm_id: Uuid = field(name="vmID")
    src_disk: dict[str, Any] = field(name="srcDisk")
    dst_disk: dict[str, Any] = field(name="dstDisk")


@verb("VM.getDiskAlignment", owner="virt", reply=dict[str, Any], safe=True, tier=3, planned=True)
class GetVmDiskAlignment(Message, frozen=True, kw_only=True):
    """Deprecated."""

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
    """Tell a running VM that a disk grew."""

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
    """Live merge of a snapshot."""

    vm_id: Uuid = field(name="vmID")
    drive: dict[str, Any]
    base_volume_id: Uuid = field(name="baseVolUUID")
    top_volume_id: Uuid = field(name="topVolUUID")
    bandwidth: int | None = None
    job_id: Uuid | None = field(default=None, name="jobUUID")


@verb(
    "VM.start_backup",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(
        *RUNNING_ONLY,
        BackupFailed,
    ),
)
class StartBackup(Message, frozen=True, kw_only=True):
    """Start a push-less (pull) backup and checkpoint."""

    vm_id: Uuid = field(name="vmID")
    config: dict[str, Any]


@verb(
    "VM.stop_backup",
    owner="virt",
    reply=Status,
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(
        NoSuchVm,
        BackupFailed,
    ),
)
class StopBackup(Message, frozen=True, kw_only=True):
    """End it."""

    vm_id: Uuid = field(name="vmID")
    backup_id: Uuid


@verb(
    "VM.backup_info",
    owner="virt",
    reply=dict[str, Any],
    safe=True,
    tier=2,
    raises=(
        *RUNNING_ONLY,
        NoSuchBackup,
    ),
)
class GetBackupInfo(Message, frozen=True, kw_only=True):
    """NBD URLs of a running backup."""

    vm_id: Uuid = field(name="vmID")
    backup_id: Uuid
    checkpoint_id: Uuid | None = None


@verb(
    "VM.delete_checkpoints",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(
        *RUNNING_ONLY,
        CheckpointFailed,
    ),
)
class DeleteCheckpoints(Message, frozen=True, kw_only=True):
    """Remove checkpoints, oldest first."""

    vm_id: Uuid = field(name="vmID")
    checkpoint_ids: list[str]


@verb(
    "VM.redefine_checkpoints",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(
        *RUNNING_ONLY,
        CheckpointFailed,
    ),
)
class RedefineCheckpoints(Message, frozen=True, kw_only=True):
    """Load checkpoints into libvirt after a start."""

    vm_id: Uuid = field(name="vmID")
    checkpoints: list[dict[str, Any]]


@verb(
    "VM.list_checkpoints",
    owner="virt",
    reply=list[Uuid],
    safe=True,
    tier=2,
    raises=(
        *RUNNING_ONLY,
        CheckpointFailed,
    ),
)
class ListCheckpoints(Message, frozen=True, kw_only=True):
    """Checkpoint ids known to libvirt."""

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.dump_checkpoint",
    owner="virt",
    reply=dict[str, Any],
    safe=True,
    tier=3,
    raises=(
        *RUNNING_ONLY,
        CheckpointFailed,
    ),
)
class DumpCheckpoint(Message, frozen=True, kw_only=True):
    """XML of one checkpoint."""

    vm_id: Uuid = field(name="vmID")
    checkpoint_id: Uuid


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
    """Destination re-reads a thin disk that was extended during migration."""

    vm_id: Uuid = field(name="vmID")
    drive: dict[str, Any]
