# SPDX-License-Identifier: Apache-2.0
"""VM.* of live migration."""

from typing import Any

from msgspec import field

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb("VM.getMigrationStatus", owner="virt", reply=dict[str, Any], safe=True, tier=2, planned=True)
class GetVmMigrationStatus(Message, frozen=True, kw_only=True):
    """Progress and final downtime of an outgoing migration."""

    vm_id: Uuid = field(name="vmID")


@verb("VM.migrate", owner="virt", lane=Lane.KEYED, key="vm_id", tier=2, planned=True)
class MigrateVm(Message, frozen=True, kw_only=True):
    """Start outgoing live migration.

    Returns early; the outcome is told by events and statistics.
    """

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]


@verb("VM.migrateCancel", owner="virt", lane=Lane.URGENT, tier=2, planned=True)
class CancelMigration(Message, frozen=True, kw_only=True):
    """Cancel it."""

    vm_id: Uuid = field(name="vmID")


@verb("VM.migrateChangeParams", owner="virt", lane=Lane.KEYED, key="vm_id", tier=3, planned=True)
class ChangeMigration(Message, frozen=True, kw_only=True):
    """Change bandwidth of a running migration."""

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]


@verb("VM.migrationCreate", owner="virt", reply=dict[str, Any], lane=Lane.KEYED, key="vm_id", tier=2, planned=True)
class CreateMigrationDestination(Message, frozen=True, kw_only=True):
    """Prepare the destination VM."""

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]
    incoming_limit: int = field(name="incomingLimit")
