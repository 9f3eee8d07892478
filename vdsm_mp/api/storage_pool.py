# SPDX-License-Identifier: Apache-2.0
"""StoragePool.* and the SPM role."""

from typing import Any

from msgspec import UNSET, UnsetType, field

from vdsm_mp.api.sdm import Subchain
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


class ServerStatus(Message, frozen=True, kw_only=True):
    """id: of the connection asked for. status: 0, or the number of the error."""

    id: str
    status: int


@verb("StoragePool.connect", owner="storage", lane=Lane.KEYED, key="pool_id", tier=1, deadline_s=200)
class ConnectStoragePool(Message, frozen=True, kw_only=True):
    """Join a pool, start domain monitoring; also refreshes when already connected."""

    pool_id: Uuid = field(name="storagepoolID")
    host_id: int = field(name="hostID")
    scsi_key: str = field(name="scsiKey")
    master_sd_id: Uuid = field(name="masterSdUUID")
    master_version: int = field(name="masterVersion")
    domain_dict: dict[str, Any] | None = field(default=None, name="domainDict")


@verb(
    "StoragePool.connectStorageServer",
    owner="storage",
    reply=list[ServerStatus],
    lane=Lane.READ,
    tier=1,
    deadline_s=180,
)
class ConnectStorageServer(Message, frozen=True, kw_only=True):
    """Mount or log in to targets. One that hangs holds up neither the others nor the pool."""

    pool_id: Uuid = field(name="storagepoolID")
    domain_type: int = field(name="domainType")
    connection_params: list[dict[str, Any]] = field(name="connectionParams")


@verb("StoragePool.create", owner="storage", lane=Lane.KEYED, key="pool_id", tier=1, deadline_s=200)
class CreateStoragePool(Message, frozen=True, kw_only=True):
    """Create a pool on a master domain."""

    pool_id: Uuid = field(name="storagepoolID")
    name: str
    master_sd_id: Uuid = field(name="masterSdUUID")
    master_version: int = field(name="masterVersion")
    domain_list: list[Uuid] = field(name="domainList")
    lock_renewal_interval_s: int = field(name="lockRenewalIntervalSec")
    lease_time_s: int = field(name="leaseTimeSec")
    io_op_timeout_s: int = field(name="ioOpTimeoutSec")
    lease_retries: int = field(name="leaseRetries")


@verb("StoragePool.destroy", owner="storage", lane=Lane.URGENT, tier=1)
class DestroyStoragePool(Message, frozen=True, kw_only=True):
    """Destroy the pool.

    Needs the SPM role (654).
    """

    pool_id: Uuid = field(name="storagepoolID")
    host_id: int = field(name="hostID")
    scsi_key: str = field(name="scsiKey")


@verb("StoragePool.disconnect", owner="storage", lane=Lane.KEYED, key="pool_id", tier=1)
class DisconnectStoragePool(Message, frozen=True, kw_only=True):
    """Leave the pool, release host ids."""

    pool_id: Uuid = field(name="storagepoolID")
    host_id: int = field(name="hostID")
    scsi_key: str = field(name="scsiKey")
    remove: bool | None = None


@verb(
    "StoragePool.disconnectStorageServer",
    owner="storage",
    reply=list[ServerStatus],
    lane=Lane.READ,
    tier=1,
    deadline_s=180,
)
class DisconnectStorageServer(Message, frozen=True, kw_only=True):
    """Unmount or log out."""

    pool_id: Uuid = field(name="storagepoolID")
    domain_type: int = field(name="domainType")
    connection_params: list[dict[str, Any]] = field(name="connectionParams")


@verb("StoragePool.getBackedUpVmsInfo", owner="storage", reply=dict[str, str], safe=True, tier=3)
class GetStoragePoolBackedUpVmsInfo(Message, frozen=True, kw_only=True):
    """OVFs of VMs, by VM id, as `StoragePool.updateVMs` stored them. An empty list asks for all; 320 if one is missing.

    A blank domain is the master, as in all four verbs about stored OVFs.
    """

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    vm_ids: list[Uuid] = field(name="vmList")


@verb("StoragePool.getBackedUpVmsList", owner="storage", reply=list[Uuid], safe=True, tier=3)
class GetStoragePoolBackedUpVmsList(Message, frozen=True, kw_only=True):
    """Ids of VMs whose OVFs a domain has."""

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")


@verb("StoragePool.getDomainsContainingImage", owner="storage", reply=list[Uuid], safe=True, tier=3)
class GetStoragePoolDomainsContainingImage(Message, frozen=True, kw_only=True):
    """Which active data domains hold an image; one that cannot be asked within 10 s is left out."""

    pool_id: Uuid = field(name="storagepoolID")
    image_id: Uuid = field(name="imageID")


class SpmStatus(Message, frozen=True, kw_only=True):
    """status: SPM, Contend or Free, of this host. spm_id, lver: of whoever has the role, -1 = nobody or not known."""

    status: str = field(name="spmStatus")
    lver: int = field(name="spmLver")
    spm_id: int = field(name="spmId")


@verb("StoragePool.getSpmStatus", owner="storage", reply=SpmStatus, safe=True, tier=1)
class GetSpmStatus(Message, frozen=True, kw_only=True):
    """SPM role and lease owner."""

    pool_id: Uuid = field(name="storagepoolID")


class PoolInfo(Message, frozen=True, kw_only=True):
    """domains: "ID:STATUS,…" of every attached domain."""

    domains: str
    isoprefix: str
    lver: int
    master_uuid: str
    master_ver: int
    name: str
    pool_status: str = "connected"
    spm_id: int
    type: str
    version: str


class DomainInPool(Message, frozen=True, kw_only=True):
    """Sizes (bytes as text) and version only when the domain is active and its monitor has seen it."""

    status: str
    alerts: list[dict[str, Any]]
    isoprefix: str
    disktotal: str | UnsetType = UNSET
    diskfree: str | UnsetType = UNSET
    version: int | UnsetType = UNSET


class PoolReport(Message, frozen=True, kw_only=True):
    """dominfo: every attached domain; an engine forgets a domain that is missing."""

    info: PoolInfo
    dominfo: dict[str, DomainInPool]


@verb("StoragePool.getInfo", owner="storage", reply=PoolReport, safe=True, tier=1)
class GetStoragePoolInfo(Message, frozen=True, kw_only=True):
    """Pool identity and ALL its domains with state."""

    pool_id: Uuid = field(name="storagepoolID")


@verb("StoragePool.reconstructMaster", owner="storage", lane=Lane.KEYED, key="pool_id", tier=2, deadline_s=180)
class ReconstructMaster(Message, frozen=True, kw_only=True):
    """Make another domain master."""

    pool_id: Uuid = field(name="storagepoolID")
    host_id: int = field(name="hostId")
    name: str
    master_sd_id: Uuid = field(name="masterSdUUID")
    master_version: int = field(name="masterVersion")
    domain_dict: dict[str, Any] = field(name="domainDict")
    lock_renewal_interval_s: int = field(name="lockRenewalIntervalSec")
    lease_time_s: int = field(name="leaseTimeSec")
    io_op_timeout_s: int = field(name="ioOpTimeoutSec")
    lease_retries: int = field(name="leaseRetries")


@verb("StoragePool.refresh", owner="storage", lane=Lane.KEYED, key="pool_id", tier=3, deadline_s=180)
class RefreshStoragePool(Message, frozen=True, kw_only=True):
    """Re-read pool metadata."""

    pool_id: Uuid = field(name="storagepoolID")
    master_sd_id: Uuid = field(name="masterSdUUID")
    master_version: int = field(name="masterVersion")


@verb("StoragePool.setDescription", owner="storage", lane=Lane.KEYED, key="pool_id", tier=3, deadline_s=180)
class SetStoragePoolDescription(Message, frozen=True, kw_only=True):
    """Rename the pool.

    Needs the SPM role (654).
    """

    pool_id: Uuid = field(name="storagepoolID")
    description: str


@verb("StoragePool.spmStart", owner="storage", reply=Uuid, lane=Lane.KEYED, key="pool_id", tier=1)
class StartSpm(Message, frozen=True, kw_only=True):
    """Become SPM.

    Returns the id of a task of this host.
    """

    pool_id: Uuid = field(name="storagepoolID")
    prev_id: int = field(name="prevID")
    prev_lver: str = field(name="prevLver")
    enable_scsi_fencing: str = field(name="enableScsiFencing")
    max_host_id: int | None = field(default=None, name="maxHostID")
    dom_version: str | None = field(default=None, name="domVersion")


@verb("StoragePool.spmStop", owner="storage", lane=Lane.KEYED, key="pool_id", tier=1)
class StopSpm(Message, frozen=True, kw_only=True):
    """Give the SPM role up; refuses while tasks are uncleared."""

    pool_id: Uuid = field(name="storagepoolID")


@verb("StoragePool.upgrade", owner="storage", reply=str, lane=Lane.KEYED, key="pool_id", tier=2, deadline_s=180)
class UpgradeStoragePool(Message, frozen=True, kw_only=True):
    """Upgrade the domain format of the pool: the master at once, the others in the background. Returns "started"."""

    pool_id: Uuid = field(name="storagepoolID")
    target_dom_version: int = field(name="targetDomVersion")


class VmOvf(Message, frozen=True, kw_only=True):
    """images: comma-separated ids, which engines send and nobody reads."""

    vm_id: Uuid = field(name="vm")
    ovf: str
    images: str | list[str] | None = field(default=None, name="imglist")


@verb("StoragePool.updateVMs", owner="storage", lane=Lane.KEYED, key="pool_id", tier=3)
class UpdateOvfs(Message, frozen=True, kw_only=True):
    """Store OVFs on an export domain or the master, each in place of the VM's former one; a failure leaves the rest.

    Needs the SPM role (654).
    """

    pool_id: Uuid = field(name="storagepoolID")
    vms: list[VmOvf] = field(name="vmList")
    sd_id: Uuid | None = field(default=None, name="storagedomainID")


@verb("StoragePool.removeVM", owner="storage", lane=Lane.KEYED, key="vm_id", tier=3)
class RemoveOvf(Message, frozen=True, kw_only=True):
    """Remove an OVF; having none is fine.

    Needs the SPM role (654).
    """

    pool_id: Uuid = field(name="storagepoolID")
    vm_id: Uuid = field(name="vmUUID")
    sd_id: Uuid | None = field(default=None, name="storagedomainID")


@verb("StoragePool.prepareMerge", owner="storage", reply=Uuid, lane=Lane.KEYED, key="pool_id", tier=2)
class PrepareMerge(Message, frozen=True, kw_only=True):
    """Cold merge step 1: extend base, mark illegal.

    Returns the id of an SPM task.
    """

    pool_id: Uuid = field(name="storagepoolID")
    subchain: Subchain = field(name="subchainInfo")


@verb("StoragePool.finalizeMerge", owner="storage", reply=Uuid, lane=Lane.KEYED, key="pool_id", tier=2)
class FinalizeMerge(Message, frozen=True, kw_only=True):
    """Cold merge step 3: fix the chain.

    Returns the id of an SPM task.
    """

    pool_id: Uuid = field(name="storagepoolID")
    subchain: Subchain = field(name="subchainInfo")


@verb("StoragePool.reduceVolume", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=2, planned=True)
class ReduceVolume(Message, frozen=True, kw_only=True):
    """Shrink an LV to its optimal size after a merge.

    Returns the id of an SPM task.
    """

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid = field(name="volumeID")
    allow_active: bool | None = field(default=None, name="allowActive")


@verb("StoragePool.switchMaster", owner="storage", reply=Uuid, lane=Lane.KEYED, key="pool_id", tier=2, deadline_s=180)
class SwitchMaster(Message, frozen=True, kw_only=True):
    """Move the master role to another active domain.

    Returns the id of an SPM task.
    """

    pool_id: Uuid = field(name="storagepoolID")
    old_master_id: Uuid = field(name="oldMasterUUID")
    new_master_id: Uuid = field(name="newMasterUUID")
    master_version: int = field(name="masterVersion")
