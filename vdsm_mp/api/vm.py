# SPDX-License-Identifier: Apache-2.0
"""VM.* life: create, destroy, pause, power, statistics."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_host import HostHookFailed
from vdsm_mp.api.errors_virt import (
    RUNNING_ONLY,
    CannotCreateVm,
    DestroyFailed,
    ExternalDataFailed,
    InvalidVmParameter,
    MigrationFailed,
    MissingVmParameter,
    NoSuchVm,
    ResetFailed,
    ShutdownFailed,
    VmExists,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb(
    "VM.cont",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=1,
    raises=RUNNING_ONLY,
)
class ContinueVm(Message, frozen=True, kw_only=True):
    """Resume a paused VM."""

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.create",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=1,
    raises=(VmExists, CannotCreateVm, MissingVmParameter),
)
class CreateVm(Message, frozen=True, kw_only=True):
    """Define and start a VM from engine XML.

    Returns early; the outcome is told by events and statistics.
    """

    vm_id: Uuid = field(name="vmID")
    vm_params: dict[str, Any] = field(name="vmParams")


@verb("VM.destroy", owner="virt", lane=Lane.URGENT, tier=1, deadline_s=90, raises=(NoSuchVm, DestroyFailed))
class DestroyVm(Message, frozen=True, kw_only=True):
    """Kill a VM and forget it; also acknowledges a Down VM."""

    vm_id: Uuid = field(name="vmID")
    graceful_attempts: int | None = field(default=None, name="gracefulAttempts")


@verb(
    "VM.getExternalData",
    owner="virt",
    reply=dict[str, str],
    safe=True,
    tier=2,
    raises=(NoSuchVm, ExternalDataFailed, InvalidVmParameter),
)
class GetVmExternalData(Message, frozen=True, kw_only=True):
    """TPM / NVRAM blob."""

    vm_id: Uuid = field(name="vmID")
    kind: str
    last_hash: str | None = field(default=None, name="lastHash")
    force_update: bool | None = field(default=None, name="forceUpdate")


@verb("VM.getInfo", owner="virt", reply=dict[str, str], lane=Lane.LOOP, safe=True, tier=3, raises=(NoSuchVm,))
class GetVmInfo(Message, frozen=True, kw_only=True):
    """Status dict of one VM."""

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.getStats",
    owner="virt",
    reply=list[dict[str, Any]],
    lane=Lane.LOOP,
    safe=True,
    tier=1,
    raises=(NoSuchVm, HostHookFailed),
)
class GetVmStats(Message, frozen=True, kw_only=True):
    """Statistics of one VM."""

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.hibernate",
    owner="virt",
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=(*RUNNING_ONLY, InvalidVmParameter, MigrationFailed),
)
class HibernateVm(Message, frozen=True, kw_only=True):
    """Suspend to storage volumes.

    Returns early; the outcome is told by events and statistics.
    """

    vm_id: Uuid = field(name="vmID")
    #: Six ids: domain, pool, image and volume of the memory, image and volume of the parameters.
    hibernation_vol_handle: str = field(name="hibernationVolHandle")


@verb(
    "VM.pause",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=2,
    raises=RUNNING_ONLY,
)
class PauseVm(Message, frozen=True, kw_only=True):
    """Pause a VM."""

    vm_id: Uuid = field(name="vmID")


@verb("VM.reset", owner="virt", lane=Lane.KEYED, key="vm_id", tier=2, raises=(*RUNNING_ONLY, ResetFailed))
class ResetVm(Message, frozen=True, kw_only=True):
    """Hard reset."""

    vm_id: Uuid = field(name="vmID")


@verb("VM.shutdown", owner="virt", lane=Lane.KEYED, key="vm_id", tier=1, raises=(*RUNNING_ONLY, ShutdownFailed))
class ShutdownVm(Message, frozen=True, kw_only=True):
    """Graceful shutdown or reboot.

    Returns early; the outcome is told by events and statistics.
    """

    vm_id: Uuid = field(name="vmID")
    delay: int | None = None
    message: str | None = None
    reboot: bool | None = None
    timeout: int | None = None
    force: bool | None = None


@verb("VM.setDestroyOnReboot", owner="virt", lane=Lane.KEYED, key="vm_id", tier=2, raises=RUNNING_ONLY)
class SetVmDestroyOnReboot(Message, frozen=True, kw_only=True):
    """Turn the next reboot into a power-off."""

    vm_id: Uuid = field(name="vmID")
