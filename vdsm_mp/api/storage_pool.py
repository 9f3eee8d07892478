# SPDX-License-Identifier: Apache-2.0
"""StoragePool.* and the SPM role."""

from typing import Any

from msgspec import UNSET, UnsetType, field

from vdsm_mp.api.errors_storage import (
    NEW_MASTER,
    SPM_ON_DOMAIN,
    SPM_ROLE,
    ConnectedElsewhere,
    DomainAttachedElsewhere,
    DomainMetadataRefused,
    DomainNotActive,
    DomainNotFound,
    DomainNotInPool,
    DomainTypeUnsupported,
    DomainVersionsMixed,
    DomainVersionTooNew,
    DomainVersionUnsupported,
    HostIdDiffers,
    HostIdNotAcquired,
    IsSpm,
    LockNotAcquired,
    MasterNotFound,
    NotAscii,
    OvfDirectoryMissing,
    OvfMissing,
    PoolDescriptionTooLong,
    PoolError,
    PoolIsConnected,
    PoolNotConnected,
    PoolUpgradeInProgress,
    TooManyDomains,
    WrongMaster,
)
from vdsm_mp.api.errors_task import TASK_BEGIN, TaskAborted, TaskInProgress
from vdsm_mp.api.errors_volume import (
    VOLUME_UNKNOWN,
    ImageIsNotLegalChain,
    InvalidVolumeParameter,
    UnexpectedVolumeState,
    VolumeExtendFailed,
    WrongParentVolume,
)
from vdsm_mp.api.sdm import Subchain
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


class ServerStatus(Message, frozen=True, kw_only=True):
    """id: of the connection asked for. status: 0, or the number of the error."""

    id: str
    status: int


@verb(
    "StoragePool.connect",
    owner="storage",
    lane=Lane.KEYED,
    key="pool_id",
    tier=1,
    deadline_s=200,
    raises=(ConnectedElsewhere, PoolIsConnected, MasterNotFound, WrongMaster, HostIdNotAcquired, HostIdDiffers),
)
class ConnectStoragePool(Message, frozen=True, kw_only=True):
    """Join a pool and begin to monitor its domains; asked again, it takes over a new `domainDict` and master.

    domainDict: {domain id: active or attached}, the master among the active ones. hostID: 1 to 250, unique in the pool.
    When it fails the host is in no pool, or in the one it was in before.
    """

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
    raises=(DomainTypeUnsupported,),
)
class ConnectStorageServer(Message, frozen=True, kw_only=True):
    """Mount file systems, one for each entry; returns id and status for each, 0 or the number of its error.

    Entries have `id`, `connection` (SERVER:/PATH, a directory, a device) and options such as `mnt_options`, `vfs_type`,
    `protocol_version`. One that hangs holds up neither the others nor the pool; a mounted one is as good as done.
    Statuses: 451 no connection, 453 wrong parameters, 469 not usable by the agent, 470 unknown file system, 477 mount
    failed.
    """

    pool_id: Uuid = field(name="storagepoolID")
    domain_type: int = field(name="domainType")
    connection_params: list[dict[str, Any]] = field(name="connectionParams")


@verb(
    "StoragePool.create",
    owner="storage",
    lane=Lane.KEYED,
    key="pool_id",
    tier=1,
    deadline_s=200,
    raises=(
        DomainNotFound,
        PoolDescriptionTooLong,
        TooManyDomains,
        DomainVersionsMixed,
        DomainAttachedElsewhere,
        *NEW_MASTER,
        NotAscii,
        DomainMetadataRefused,
        HostIdNotAcquired,
        LockNotAcquired,
    ),
)
class CreateStoragePool(Message, frozen=True, kw_only=True):
    """Make a pool of domains that are in none; then StoragePool.connect, and the role, make it usable.

    The host takes the master's lock for as long as it lasts. When it fails no domain is in the pool.
    """

    pool_id: Uuid = field(name="storagepoolID")
    name: str
    master_sd_id: Uuid = field(name="masterSdUUID")
    master_version: int = field(name="masterVersion")
    domain_list: list[Uuid] = field(name="domainList")
    lock_renewal_interval_s: int = field(name="lockRenewalIntervalSec")
    lease_time_s: int = field(name="leaseTimeSec")
    io_op_timeout_s: int = field(name="ioOpTimeoutSec")
    lease_retries: int = field(name="leaseRetries")


@verb(
    "StoragePool.destroy", owner="storage", lane=Lane.URGENT, tier=1, raises=(*SPM_ROLE, DomainNotFound, MasterNotFound)
)
class DestroyStoragePool(Message, frozen=True, kw_only=True):
    """Detach all domains, end the role and leave the pool. The domains keep their contents.

    One that cannot be found makes it refuse before anything has changed.
    """

    pool_id: Uuid = field(name="storagepoolID")
    host_id: int = field(name="hostID")
    scsi_key: str = field(name="scsiKey")


@verb("StoragePool.disconnect", owner="storage", lane=Lane.KEYED, key="pool_id", tier=1, raises=(IsSpm,))
class DisconnectStoragePool(Message, frozen=True, kw_only=True):
    """Leave the pool: monitoring ends, host ids are released. A pool that is not connected is fine.

    The SPM has to give up the role first.
    """

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
    raises=(DomainTypeUnsupported,),
)
class DisconnectStorageServer(Message, frozen=True, kw_only=True):
    """Unmount file systems, one for each entry; returns id and status for each, 0 or the number of its error.

    One that is not mounted is as good as done. One whose domain is monitored stays mounted: status 452.
    """

    pool_id: Uuid = field(name="storagepoolID")
    domain_type: int = field(name="domainType")
    connection_params: list[dict[str, Any]] = field(name="connectionParams")


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


@verb(
    "StoragePool.getDomainsContainingImage",
    owner="storage",
    reply=list[Uuid],
    safe=True,
    tier=3,
    raises=(PoolNotConnected,),
)
class GetStoragePoolDomainsContainingImage(Message, frozen=True, kw_only=True):
    """Which active data domains hold an image; one that cannot be asked within 10 s is left out."""

    pool_id: Uuid = field(name="storagepoolID")
    image_id: Uuid = field(name="imageID")


class SpmStatus(Message, frozen=True, kw_only=True):
    """status: SPM, Contend or Free, of this host. spm_id, lver: of whoever has the role, -1 = nobody or not known."""

    status: str = field(name="spmStatus")
    lver: int = field(name="spmLver")
    spm_id: int = field(name="spmId")


@verb("StoragePool.getSpmStatus", owner="storage", reply=SpmStatus, safe=True, tier=1, raises=(PoolNotConnected,))
class GetSpmStatus(Message, frozen=True, kw_only=True):
    """Whether this host is SPM of the pool, and who holds the role when its lock tells.

    spmStatus: SPM, Contend (on its way) or Free. spmId, spmLver: -1 when nobody holds it, or it is not known.
    """

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


@verb(
    "StoragePool.getInfo",
    owner="storage",
    reply=PoolReport,
    safe=True,
    tier=1,
    raises=(PoolNotConnected, MasterNotFound),
)
class GetStoragePoolInfo(Message, frozen=True, kw_only=True):
    """Name, master and version of the pool, and every attached domain with its state.

    Complete or an error: an engine forgets a domain that is not in the answer. Sizes only of active domains that were
    checked.
    """

    pool_id: Uuid = field(name="storagepoolID")


@verb(
    "StoragePool.reconstructMaster",
    owner="storage",
    lane=Lane.KEYED,
    key="pool_id",
    tier=2,
    deadline_s=180,
    raises=(
        IsSpm,
        PoolDescriptionTooLong,
        NotAscii,
        DomainMetadataRefused,
        WrongMaster,
        DomainNotFound,
        *NEW_MASTER,
        MasterNotFound,
        LockNotAcquired,
    ),
)
class ReconstructMaster(Message, frozen=True, kw_only=True):
    """Make another domain the master of a pool whose master is lost or no longer says so. Not on the SPM.

    domainDict: {domain id: active or attached} of the pool. masterVersion: higher than before. The host need not be
    connected. When it fails nothing has changed.
    """

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


@verb(
    "StoragePool.refresh",
    owner="storage",
    lane=Lane.KEYED,
    key="pool_id",
    tier=3,
    deadline_s=180,
    raises=(PoolNotConnected, MasterNotFound, WrongMaster),
)
class RefreshStoragePool(Message, frozen=True, kw_only=True):
    """Look at the master and the domains of the connected pool anew; what an engine does by connecting again."""

    pool_id: Uuid = field(name="storagepoolID")
    master_sd_id: Uuid = field(name="masterSdUUID")
    master_version: int = field(name="masterVersion")


@verb(
    "StoragePool.setDescription",
    owner="storage",
    lane=Lane.KEYED,
    key="pool_id",
    tier=3,
    deadline_s=180,
    raises=(*SPM_ROLE, PoolDescriptionTooLong, NotAscii, DomainMetadataRefused, MasterNotFound),
)
class SetStoragePoolDescription(Message, frozen=True, kw_only=True):
    """Rename the pool. The old name stays when it fails.

    Of no effect where the engine keeps the pool's data, as engines do today.
    """

    pool_id: Uuid = field(name="storagepoolID")
    description: str


@verb(
    "StoragePool.spmStart",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="pool_id",
    tier=1,
    raises=(PoolNotConnected, IsSpm, *TASK_BEGIN),
    later=(LockNotAcquired, HostIdNotAcquired, MasterNotFound, DomainVersionTooNew, TaskAborted),
)
class StartSpm(Message, frozen=True, kw_only=True):
    """Become SPM of the pool: take its lock, take up the tasks that are stored on the master. Returns the id of a task.

    The task is of this host and lives in its memory; StoragePool.getSpmStatus tells who has the role afterwards. When
    it fails the lock is given back.
    """

    pool_id: Uuid = field(name="storagepoolID")
    prev_id: int = field(name="prevID")
    prev_lver: str = field(name="prevLver")
    enable_scsi_fencing: str = field(name="enableScsiFencing")
    max_host_id: int | None = field(default=None, name="maxHostID")
    dom_version: str | None = field(default=None, name="domVersion")


@verb(
    "StoragePool.spmStop", owner="storage", lane=Lane.KEYED, key="pool_id", tier=1, raises=(*SPM_ROLE, TaskInProgress)
)
class StopSpm(Message, frozen=True, kw_only=True):
    """Give the role up. Refused, and nothing changed, while tasks run or are not cleared."""

    pool_id: Uuid = field(name="storagepoolID")


@verb(
    "StoragePool.upgrade",
    owner="storage",
    reply=str,
    lane=Lane.KEYED,
    key="pool_id",
    tier=2,
    deadline_s=180,
    raises=(DomainVersionUnsupported, *SPM_ROLE, PoolUpgradeInProgress, MasterNotFound, DomainVersionTooNew),
)
class UpgradeStoragePool(Message, frozen=True, kw_only=True):
    """Upgrade the domain format of the pool: the master at once, the others in the background. Returns "started".

    A domain that cannot be upgraded is tried again when its monitor next says that it is well.
    """

    pool_id: Uuid = field(name="storagepoolID")
    target_dom_version: int = field(name="targetDomVersion")


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


@verb(
    "StoragePool.prepareMerge",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="pool_id",
    tier=2,
    raises=(*SPM_ON_DOMAIN, *TASK_BEGIN),
    later=(
        *VOLUME_UNKNOWN,
        WrongParentVolume,
        UnexpectedVolumeState,
        ImageIsNotLegalChain,
        VolumeExtendFailed,
        TaskAborted,
    ),
)
class PrepareMerge(Message, frozen=True, kw_only=True):
    """Cold merge, step 1 of 3: make the base as large as the top. Returns the id of an SPM task.

    Bitmaps of the base that the top does not continue are dropped. It may be asked again. Step 2 is SDM.merge on any
    host, step 3 StoragePool.finalizeMerge.
    """

    pool_id: Uuid = field(name="storagepoolID")
    subchain: Subchain = field(name="subchainInfo")


@verb(
    "StoragePool.finalizeMerge",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="pool_id",
    tier=2,
    raises=(*SPM_ON_DOMAIN, *TASK_BEGIN),
    later=(*VOLUME_UNKNOWN, WrongParentVolume, UnexpectedVolumeState, TaskAborted),
)
class FinalizeMerge(Message, frozen=True, kw_only=True):
    """Cold merge, step 3 of 3: the top leaves the chain, its children stand on the base. Returns the id of an SPM task.

    The top itself stays, marked as illegal, for Image.deleteVolumes. It may be asked again.
    """

    pool_id: Uuid = field(name="storagepoolID")
    subchain: Subchain = field(name="subchainInfo")


@verb("StoragePool.reduceVolume", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=2, planned=True)
class ReduceVolume(Message, frozen=True, kw_only=True):
    """Shrink a logical volume to what its data need, after a merge. Returns the id of an SPM task."""

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid = field(name="volumeID")
    allow_active: bool | None = field(default=None, name="allowActive")


@verb(
    "StoragePool.switchMaster",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="pool_id",
    tier=2,
    deadline_s=180,
    raises=(*SPM_ROLE, PoolError, *TASK_BEGIN),
    later=(DomainNotInPool, DomainNotActive, *NEW_MASTER, MasterNotFound, TaskAborted),
)
class SwitchMaster(Message, frozen=True, kw_only=True):
    """Make another active domain the master, with the tasks that are stored there. Returns the id of an SPM task.

    When it fails the old master stays.
    """

    pool_id: Uuid = field(name="storagepoolID")
    old_master_id: Uuid = field(name="oldMasterUUID")
    new_master_id: Uuid = field(name="newMasterUUID")
    master_version: int = field(name="masterVersion")
