# SPDX-License-Identifier: Apache-2.0
"""Host.* answered by the virt worker: lists, statistics, host devices, secrets."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_host import HostHookFailed
from vdsm_mp.api.errors_network import BadNetworkParameters, NetworkStepFailed, UsedNic
from vdsm_mp.api.errors_virt import (
    BadSecretRequest,
    SecretRegistrationFailed,
    SecretUnregistrationFailed,
    VmNotResponding,
    VmOperationFailed,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb("Host.getVMList", owner="virt", reply=list[dict[str, Any]], lane=Lane.LOOP, safe=True, tier=2)
class GetVmList(Message, frozen=True, kw_only=True):
    """VMs of this host, or those in `vmList`: vmId, status, statusTime. Unknown ones are left out.

    The flags are accepted and ignored, as the original does.
    """

    full_status: bool | None = field(default=None, name="fullStatus")
    vm_ids: list[Uuid] | None = field(default=None, name="vmList")
    only_uuid: bool | None = field(default=None, name="onlyUUID")


@verb(
    "Host.dumpxmls", owner="virt", reply=dict[str, str], safe=True, tier=1, raises=(VmOperationFailed, VmNotResponding)
)
class DumpXmls(Message, frozen=True, kw_only=True):
    """Libvirt's XML of VMs with the engine's metadata, by VM id; of all without `vmList`. Unknown ones are left out.

    An engine reads a VM's devices from it when its `hash` changes.
    """

    vm_ids: list[Uuid] | None = field(default=None, name="vmList")


@verb("Host.registerSecrets", owner="virt", tier=3, raises=(BadSecretRequest, SecretRegistrationFailed))
class RegisterSecrets(Message, frozen=True, kw_only=True):
    """Give libvirt the secrets of disks on the network (Ceph). One of the same id is replaced.

    secrets: `uuid`, `usageType` (ceph, volume or iscsi), `usageID`, `password` (base64), optional `description`. clear:
    those of an engine that are not in the list go. Those before the one that failed are registered.
    """

    secrets: list[dict[str, Any]]
    clear: bool | None = None


@verb("Host.unregisterSecrets", owner="virt", tier=3, raises=(SecretUnregistrationFailed,))
class UnregisterSecrets(Message, frozen=True, kw_only=True):
    """Remove secrets of disks; one that is not there is fine. Those before the one that failed are gone."""

    uuids: list[Uuid]


@verb("Host.getVMFullList", owner="virt", reply=list[dict[str, Any]], lane=Lane.LOOP, safe=True, tier=2)
class GetVmFullList(Message, frozen=True, kw_only=True):
    """The same short list as Host.getVMList; by its name it promised more once."""

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
    """Statistics of all VMs, as an engine polls them; answered from memory. A Down VM stays until VM.destroy.

    99 until the VMs that run are known, so that none is missed.
    """


@verb("Host.getAllVmIoTunePolicies", owner="virt", reply=dict[str, Any], safe=True, tier=2)
class GetAllVmIoTunePolicies(Message, frozen=True, kw_only=True):
    """Policy and current limits of the disks of all running VMs; one that cannot be asked is left out."""


@verb("Host.hostdevListByCaps", owner="virt", reply=dict[str, Any], safe=True, tier=1, raises=(VmOperationFailed,))
class ListHostDevices(Message, frozen=True, kw_only=True):
    """Devices of the host with capability and parent, by libvirt's names; all without `caps`."""

    caps: list[str] | None = None


@verb(
    "Host.hostdevChangeNumvfs",
    owner="network",
    lane=Lane.KEYED,
    key="device_name",
    deadline_s=90,
    tier=3,
    raises=(BadNetworkParameters, UsedNic, NetworkStepFailed),
)
class ChangeNumvfs(Message, frozen=True, kw_only=True):
    """Set the number of virtual functions of an SR-IOV card, named as in Host.hostdevListByCaps, `pci_0000_02_00_0`.

    Those that it had go first, so nothing changes while a guest or a network of the host has one of them (24). Kept
    over a reboot by Host.setSafeNetworkConfig.
    """

    device_name: str = field(name="deviceName")
    numvfs: int


@verb("Host.hostdevReattach", owner="virt", tier=3, safe=True, raises=(VmOperationFailed,))
class ReattachHostDevice(Message, frozen=True, kw_only=True):
    """Give a device that a VM had back to the host's own driver; nothing to do for USB and SCSI devices.

    One that a VM has now stays with it (100).
    """

    device_name: str = field(name="deviceName")
