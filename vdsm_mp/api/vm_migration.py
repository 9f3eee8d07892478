# SPDX-License-Identifier: Apache-2.0
"""VM.* of live migration."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_virt import (
    RUNNING_ONLY,
    CannotCreateVm,
    InvalidVmParameter,
    MigrationCancelFailed,
    MigrationCancelled,
    MigrationFailed,
    MigrationLimitExceeded,
    MigrationNotInProgress,
    MigrationOperationFailed,
    MissingVmParameter,
    NoSuchVm,
    TransientDisk,
    VmExists,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


class ConvergenceAction(Message, frozen=True, kw_only=True):
    """name: setDowntime (params: milliseconds), postcopy or abort."""

    name: str
    params: list[str | int] | None = None


class ConvergenceStep(Message, frozen=True, kw_only=True):
    """limit: passes over the memory until the action is taken; -1 = at the next pass."""

    limit: int
    action: ConvergenceAction


class ConvergenceSchedule(Message, frozen=True, kw_only=True):
    """What is done at the start, and what while the guest changes its memory faster than it is sent."""

    init: list[ConvergenceAction] | None = None
    stalling: list[ConvergenceStep] | None = None


class MigrationParams(Message, frozen=True, kw_only=True):
    """Where to and how. dst: host:port of the other agent; dstqemu: address of the data, None = that host.

    max_bandwidth: MiB/s; downtime: ms; parallel: connections. cpusets, numa_nodesets: pinning at the destination.
    """

    dst: str = ""
    dstqemu: str | None = None
    mode: str | None = None
    tunneled: bool | None = None
    compressed: bool | None = None
    encrypted: bool | None = None
    zerocopy: bool | None = None
    abort_on_error: bool | None = field(default=None, name="abortOnError")
    auto_converge: bool | None = field(default=None, name="autoConverge")
    parallel: int | None = None
    max_bandwidth: int | None = field(default=None, name="maxBandwidth")
    downtime: int | None = None
    convergence_schedule: ConvergenceSchedule | None = field(default=None, name="convergenceSchedule")
    outgoing_limit: int | None = field(default=None, name="outgoingLimit")
    incoming_limit: int | None = field(default=None, name="incomingLimit")
    enable_guest_events: bool | None = field(default=None, name="enableGuestEvents")
    console_address: str | None = field(default=None, name="consoleAddress")
    cpusets: list[str] | None = None
    numa_nodesets: list[str] | None = field(default=None, name="numaNodesets")


class MigrationChange(Message, frozen=True, kw_only=True):
    """max_bandwidth: MiB/s."""

    max_bandwidth: int = field(name="maxBandwidth")


@verb(
    "VM.getMigrationStatus",
    owner="virt",
    reply=dict[str, Any],
    safe=True,
    tier=2,
    raises=(NoSuchVm, MigrationNotInProgress, MigrationFailed, MigrationCancelled),
)
class GetVmMigrationStatus(Message, frozen=True, kw_only=True):
    """Progress of an outgoing migration in percent, and the downtime in ms when it is over."""

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.migrate",
    owner="virt",
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, TransientDisk, MigrationFailed, MissingVmParameter, InvalidVmParameter),
)
class MigrateVm(Message, frozen=True, kw_only=True):
    """Begin to migrate a VM to another host; `dst` is the other agent, host:port. Returns early.

    Events and statistics tell the rest. While others migrate it waits for its turn. When it fails, at whatever step,
    the VM runs on here.
    """

    vm_id: Uuid = field(name="vmID")
    params: MigrationParams


@verb(
    "VM.migrateCancel",
    owner="virt",
    lane=Lane.URGENT,
    tier=2,
    raises=(NoSuchVm, MigrationNotInProgress, MigrationCancelFailed),
)
class CancelMigration(Message, frozen=True, kw_only=True):
    """Cancel an outgoing migration, or its waiting; the VM stays. Too late once the guest runs over there (47)."""

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.migrateChangeParams",
    owner="virt",
    lane=Lane.KEYED,
    key="vm_id",
    tier=3,
    raises=(NoSuchVm, MigrationNotInProgress, MigrationOperationFailed),
)
class ChangeMigration(Message, frozen=True, kw_only=True):
    """Limit the bandwidth of a running migration. The old limit holds when it fails."""

    vm_id: Uuid = field(name="vmID")
    params: MigrationChange


@verb(
    "VM.migrationCreate",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    deadline_s=600,
    raises=(VmExists, CannotCreateVm, MissingVmParameter, InvalidVmParameter, MigrationLimitExceeded),
)
class CreateMigrationDestination(Message, frozen=True, kw_only=True):
    """Prepare for a VM that comes from another host; asked by that host's agent, not by people.

    Its disks are prepared here. 82 when enough come in already; the source asks again. Nothing stays when it fails.
    """

    vm_id: Uuid = field(name="vmID")
    params: dict[str, Any]
    incoming_limit: int | None = field(default=None, name="incomingLimit")
