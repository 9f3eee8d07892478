# SPDX-License-Identifier: Apache-2.0
"""OVFs of VMs as files on export domains and on the master: StoragePool.updateVMs, removeVM, getBackedUpVms*."""

from msgspec import field

from vdsm_mp.api.errors_storage import (
    SPM_ON_DOMAIN,
    DomainNotFound,
    DomainNotInPool,
    OvfDirectoryMissing,
    OvfMissing,
    PoolNotConnected,
)
from vdsm_mp.api.errors_volume import InvalidVolumeParameter
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb(
    "StoragePool.getBackedUpVmsInfo",
    owner="storage",
    reply=dict[str, str],
    safe=True,
    tier=3,
    raises=(PoolNotConnected, DomainNotInPool, DomainNotFound, OvfDirectoryMissing, OvfMissing),
)
class GetStoragePoolBackedUpVmsInfo(Message, frozen=True, kw_only=True):
    """OVFs of VMs, by VM id, as `StoragePool.updateVMs` stored them. An empty list asks for all; 320 if one is missing.

    A blank domain is the master, as in all four verbs about stored OVFs.
    """

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    vm_ids: list[Uuid] = field(name="vmList")


@verb(
    "StoragePool.getBackedUpVmsList",
    owner="storage",
    reply=list[Uuid],
    safe=True,
    tier=3,
    raises=(PoolNotConnected, DomainNotInPool, DomainNotFound, OvfDirectoryMissing),
)
class GetStoragePoolBackedUpVmsList(Message, frozen=True, kw_only=True):
    """Ids of VMs whose OVFs a domain has."""

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")


class VmOvf(Message, frozen=True, kw_only=True):
    """images: comma-separated ids, which engines send and nobody reads."""

    vm_id: Uuid = field(name="vm")
    ovf: str
    images: str | list[str] | None = field(default=None, name="imglist")


@verb(
    "StoragePool.updateVMs",
    owner="storage",
    lane=Lane.KEYED,
    key="pool_id",
    tier=3,
    raises=(*SPM_ON_DOMAIN, InvalidVolumeParameter, OvfDirectoryMissing),
)
class UpdateOvfs(Message, frozen=True, kw_only=True):
    """Store OVFs on an export domain or the master, each in place of the VM's former one; a failure leaves the rest.

    At most 8 MiB each.
    """

    pool_id: Uuid = field(name="storagepoolID")
    vms: list[VmOvf] = field(name="vmList")
    sd_id: Uuid | None = field(default=None, name="storagedomainID")


@verb(
    "StoragePool.removeVM",
    owner="storage",
    lane=Lane.KEYED,
    key="vm_id",
    tier=3,
    raises=(*SPM_ON_DOMAIN, OvfDirectoryMissing),
)
class RemoveOvf(Message, frozen=True, kw_only=True):
    """Remove an OVF; having none is fine."""

    pool_id: Uuid = field(name="storagepoolID")
    vm_id: Uuid = field(name="vmUUID")
    sd_id: Uuid | None = field(default=None, name="storagedomainID")
