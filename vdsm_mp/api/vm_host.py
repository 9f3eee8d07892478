# SPDX-License-Identifier: Apache-2.0
"""Host.* answered by the virt worker: lists, statistics, host devices, secrets."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_host import HostHookFailed
from vdsm_mp.api.errors_virt import BadSecretRequest, SecretRegistrationFailed, SecretUnregistrationFailed
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb("Host.getVMList", owner="virt", reply=list[dict[str, Any]], lane=Lane.LOOP, safe=True, tier=2)
class GetVmList(Message, frozen=True, kw_only=True):
    """Short list of VMs."""

    full_status: bool | None = field(default=None, name="fullStatus")
    vm_ids: list[Uuid] | None = field(default=None, name="vmList")
    only_uuid: bool | None = field(default=None, name="onlyUUID")


@verb("Host.dumpxmls", owner="virt", reply=dict[str, str], safe=True, tier=1)
class DumpXmls(Message, frozen=True, kw_only=True):
    """Libvirt XML of the given VMs; the engine reads devices from it when a VM's hash changes."""

    vm_ids: list[Uuid] | None = field(default=None, name="vmList")


@verb("Host.registerSecrets", owner="virt", tier=3, raises=(BadSecretRequest, SecretRegistrationFailed))
class RegisterSecrets(Message, frozen=True, kw_only=True):
    """Libvirt secrets (Ceph). `clear`: those of an engine that are not in the list go.

    secrets: `uuid`, `usageType` (ceph, volume or iscsi), `usageID`, `password` (base64), optional `description`.
    """

    secrets: list[dict[str, Any]]
    clear: bool | None = None


@verb("Host.unregisterSecrets", owner="virt", tier=3, raises=(SecretUnregistrationFailed,))
class UnregisterSecrets(Message, frozen=True, kw_only=True):
    """Remove libvirt secrets; one that is not there is fine."""

    uuids: list[Uuid]


@verb("Host.getVMFullList", owner="virt", reply=list[dict[str, Any]], lane=Lane.LOOP, safe=True, tier=2)
class GetVmFullList(Message, frozen=True, kw_only=True):
    """VMs with (nominally) full data; today the same short list as getVMList."""

    vm_ids: list[Uuid] | None = field(default=None, name="vmList")


@verb(
    "Host.getAllVmStats",
    owner="virt",
    reply=list[dict[str, Any]],
    lane=Lane.LOOP,
    safe=True,
    tier=1,
    raises=(HostHookFailed,),
)
class GetAllVmStats(Message, frozen=True, kw_only=True):
    """Statistics of all VMs, as an engine polls them."""


@verb("Host.getAllVmIoTunePolicies", owner="virt", reply=dict[str, Any], safe=True, tier=2)
class GetAllVmIoTunePolicies(Message, frozen=True, kw_only=True):
    """Per-VM I/O policy and current values."""


@verb("Host.hostdevListByCaps", owner="virt", reply=dict[str, Any], safe=True, tier=1)
class ListHostDevices(Message, frozen=True, kw_only=True):
    """Host devices; called once at activation (an empty object is accepted)."""

    caps: list[str] | None = None


@verb("Host.hostdevChangeNumvfs", owner="network", tier=3, planned=True)
class ChangeNumvfs(Message, frozen=True, kw_only=True):
    """Number of SR-IOV virtual functions."""

    device_name: str = field(name="deviceName")
    numvfs: int


@verb("Host.hostdevReattach", owner="virt", tier=3, planned=True)
class ReattachHostDevice(Message, frozen=True, kw_only=True):
    """Give a device back to the host."""

    device_name: str = field(name="deviceName")
