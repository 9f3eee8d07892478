# SPDX-License-Identifier: Apache-2.0
"""StoragePool.*: pools, their master and their domains."""

from typing import Any

from msgspec import UNSET, UnsetType, field

from vdsm_mp.api.errors_storage import (
    NEW_MASTER,
    SPM_ROLE,
    ConnectedElsewhere,
    DomainAttachedElsewhere,
    DomainMetadataRefused,
    DomainNotActive,
    DomainNotFound,
    DomainNotInPool,
    DomainVersionsMixed,
    DomainVersionTooNew,
    DomainVersionUnsupported,
    HostIdDiffers,
    HostIdNotAcquired,
    IsSpm,
    LockNotAcquired,
    MasterNotFound,
    NotAscii,
    PoolDescriptionTooLong,
    PoolError,
    PoolIsConnected,
    PoolNotConnected,
    PoolUpgradeInProgress,
    TooManyDomains,
    WrongMaster,
)
from vdsm_mp.api.errors_task import TASK_BEGIN, TaskAborted, TaskInProgress
from vdsm_mp.api.types import MasterVersion, Uuid
from vdsm_mp.api.verb import Lane, Message, verb


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
    master_version: MasterVersion = field(name="masterVersion")
    domain_dict: dict[str, Any] | None = field(default=None, name="domainDict")


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
    master_version: MasterVersion = field(name="masterVersion")
    domain_list: list[Uuid] = field(name="domainList")
    lock_renewal_interval_s: int = field(name="lockRenewalIntervalSec")
    lease_time_s: int = field(name="leaseTimeSec")
    io_op_timeout_s: int = field(name="ioOpTimeoutSec")
    lease_retries: int = field(name="leaseRetries")


@verb(
    "StoragePool.destroy",
    owner="storage",
    lane=Lane.URGENT,
    tier=1,
    raises=(*SPM_ROLE, PoolError, DomainNotFound, MasterNotFound, TaskInProgress),
)
class DestroyStoragePool(Message, frozen=True, kw_only=True):
    """Detach all domains, end the role and leave the pool. The domains keep their contents.

    One that cannot be found makes it refuse before anything has changed, and so does a task that has begun something
    there.
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
    master_version: MasterVersion = field(name="masterVersion")
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
    master_version: MasterVersion = field(name="masterVersion")


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
    "StoragePool.upgrade",
    owner="storage",
    reply=str,
    lane=Lane.KEYED,
    key="pool_id",
    tier=2,
    deadline_s=180,
    raises=(DomainVersionUnsupported, *SPM_ROLE, PoolError, PoolUpgradeInProgress, MasterNotFound, DomainVersionTooNew),
)
class UpgradeStoragePool(Message, frozen=True, kw_only=True):
    """Upgrade the domain format of the pool: the master at once, the others in the background. Returns "started".

    A domain that cannot be upgraded keeps its version, and is tried again every minute and when it is seen to be well.
    """

    pool_id: Uuid = field(name="storagepoolID")
    target_dom_version: int = field(name="targetDomVersion")


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
    master_version: MasterVersion = field(name="masterVersion")
