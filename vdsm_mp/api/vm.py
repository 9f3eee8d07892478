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


@verb("VM.cont", owner="virt", reply=dict[str, Any], lane=Lane.KEYED, key="vm_id", tier=1, raises=RUNNING_ONLY)
class ContinueVm(Message, frozen=True, kw_only=True):
    """Resume a paused VM; one that runs goes on running. Its events tell when it does."""

    vm_id: Uuid = field(name="vmID")


@verb(
    "VM.create",
    owner="virt",
    reply=dict[str, Any],
    lane=Lane.KEYED,
    key="vm_id",
    tier=1,
    raises=(VmExists, CannotCreateVm, MissingVmParameter, InvalidVmParameter),
)
class CreateVm(Message, frozen=True, kw_only=True):
    """Define and start a VM from the engine's XML. Answered before QEMU runs, as WaitForLaunch.

    vmParams: `xml`, a libvirt domain with the engine's metadata, and for one that slept or has a TPM what belongs to
    it. Whether it started is told by events and statistics: a start that fails ends as Down with exitCode 1 and a
    message, and such a VM stays listed until VM.destroy. When the call itself fails there is no VM.
    """

    vm_id: Uuid = field(name="vmID")
    vm_params: dict[str, Any] = field(name="vmParams")


@verb("VM.destroy", owner="virt", lane=Lane.URGENT, tier=1, deadline_s=90, raises=(NoSuchVm, DestroyFailed))
class DestroyVm(Message, frozen=True, kw_only=True):
    """Kill a VM at once and forget it; gone when it returns. Also takes a Down VM off the list.

    gracefulAttempts: how often QEMU is asked to end by itself first. Works beside whatever hangs; when it fails the VM
    is still listed, and may still run.
    """

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
    """Contents of a VM's TPM or NVRAM (kind: tpm or nvram) as _X_data with their hash, for a later start elsewhere.

    lastHash: the data are left out when they still have it. forceUpdate: read them even while they may be changing.
    """

    vm_id: Uuid = field(name="vmID")
    kind: str
    last_hash: str | None = field(default=None, name="lastHash")
    force_update: bool | None = field(default=None, name="forceUpdate")


@verb("VM.getInfo", owner="virt", reply=dict[str, str], lane=Lane.LOOP, safe=True, tier=3, raises=(NoSuchVm,))
class GetVmInfo(Message, frozen=True, kw_only=True):
    """Status of one VM: vmId, status, statusTime."""

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
    """Statistics of one VM, in a list of one; for a Down VM why it ended."""

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
    """Write a VM with its memory to two volumes, and end it. Returns early; events tell the outcome.

    When it fails the VM goes on running.
    """

    vm_id: Uuid = field(name="vmID")
    #: Six ids: domain, pool, image and volume of the memory, image and volume of the parameters.
    hibernation_vol_handle: str = field(name="hibernationVolHandle")


@verb("VM.pause", owner="virt", reply=dict[str, Any], lane=Lane.KEYED, key="vm_id", tier=2, raises=RUNNING_ONLY)
class PauseVm(Message, frozen=True, kw_only=True):
    """Pause a VM: its CPUs stop, its memory stays. A paused one stays paused."""

    vm_id: Uuid = field(name="vmID")


@verb("VM.reset", owner="virt", lane=Lane.KEYED, key="vm_id", tier=2, raises=(*RUNNING_ONLY, ResetFailed))
class ResetVm(Message, frozen=True, kw_only=True):
    """Reset a VM as its reset button would; the guest is not asked."""

    vm_id: Uuid = field(name="vmID")


@verb("VM.shutdown", owner="virt", lane=Lane.KEYED, key="vm_id", tier=1, raises=(*RUNNING_ONLY, ShutdownFailed))
class ShutdownVm(Message, frozen=True, kw_only=True):
    """Ask the guest to shut down, or to reboot: by its agent, then by ACPI, then with `force` the hard way.

    Returns early; status and events tell the rest, and a guest may ignore it. delay: seconds before an agent is asked.
    timeout: seconds until the next way is tried. 4 when there is no way to ask the guest.
    """

    vm_id: Uuid = field(name="vmID")
    delay: int | None = None
    message: str | None = None
    reboot: bool | None = None
    timeout: int | None = None
    force: bool | None = None


@verb("VM.setDestroyOnReboot", owner="virt", lane=Lane.KEYED, key="vm_id", tier=2, raises=RUNNING_ONLY)
class SetVmDestroyOnReboot(Message, frozen=True, kw_only=True):
    """Turn the next reboot of the guest into a power-off (exitReason 13); for changes that need a cold start."""

    vm_id: Uuid = field(name="vmID")
