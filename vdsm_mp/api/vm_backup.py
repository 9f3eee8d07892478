# SPDX-License-Identifier: Apache-2.0
"""VM.* on backups of a running VM's disks, and on the checkpoints between them."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_virt import (
    RUNNING_ONLY,
    BackupFailed,
    CheckpointFailed,
    InconsistentCheckpoint,
    NoSuchBackup,
    NoSuchCheckpoint,
    NoSuchVm,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, Status, verb


@verb(
    "VM.start_backup",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, BackupFailed, NoSuchCheckpoint, InconsistentCheckpoint),
)
class StartBackup(Message, frozen=True, kw_only=True):
    """Show disks of one moment over NBD, for a full or an incremental backup; makes a checkpoint when asked to.

    config: `backup_id`, `disks`, `from_checkpoint_id` for an incremental one, `to_checkpoint_id`. Returns {disks:
    {image id: URL}, checkpoint: XML}. When it fails nothing stays.
    """

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
    """End a backup and remove its scratch files; one that is not running is fine. Its checkpoint stays."""

    vm_id: Uuid = field(name="vmID")
    backup_id: Uuid


@verb(
    "VM.backup_info",
    owner="virt",
    reply=dict[str, Any],
    safe=True,
    tier=2,
    raises=(*RUNNING_ONLY, NoSuchBackup, BackupFailed, NoSuchCheckpoint, CheckpointFailed),
)
class GetBackupInfo(Message, frozen=True, kw_only=True):
    """NBD URLs of a running backup, by image id; with `checkpoint_id` that checkpoint's XML, too."""

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
    raises=RUNNING_ONLY,
)
class DeleteCheckpoints(Message, frozen=True, kw_only=True):
    """Remove checkpoints in the order given, oldest first; those that are not there count as removed.

    Returns {checkpoint_ids: those that are gone}, and `error` with what stopped it, if anything did.
    """

    vm_id: Uuid = field(name="vmID")
    checkpoint_ids: list[str]


@verb(
    "VM.redefine_checkpoints",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=RUNNING_ONLY,
)
class RedefineCheckpoints(Message, frozen=True, kw_only=True):
    """Tell libvirt of checkpoints that a VM's disks hold, in the order given, after a start.

    Returns {checkpoint_ids: those that it took}, and `error` with what stopped it, if anything did.
    """

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
    """Ids of the checkpoints that libvirt knows of a VM, oldest first."""

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.dump_checkpoint",
    owner="virt",
    reply=dict[str, Any],
    safe=True,
    tier=3,
    raises=(*RUNNING_ONLY, NoSuchCheckpoint, CheckpointFailed),
)
class DumpCheckpoint(Message, frozen=True, kw_only=True):
    """XML of one checkpoint."""

    vm_id: Uuid = field(name="vmID")
    checkpoint_id: Uuid
