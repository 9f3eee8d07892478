# SPDX-License-Identifier: Apache-2.0
"""StoragePool.spmStart, spmStop, getSpmStatus: the role of the one host that changes a pool."""

from msgspec import field

from vdsm_mp.api.errors_storage import (
    SPM_ROLE,
    DomainVersionTooNew,
    HostIdNotAcquired,
    IsSpm,
    LockNotAcquired,
    MasterNotFound,
    PoolNotConnected,
    WrongMaster,
)
from vdsm_mp.api.errors_task import TASK_BEGIN, TaskAborted, TaskInProgress
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


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


@verb(
    "StoragePool.spmStart",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="pool_id",
    tier=1,
    raises=(PoolNotConnected, IsSpm, *TASK_BEGIN),
    later=(LockNotAcquired, HostIdNotAcquired, MasterNotFound, WrongMaster, DomainVersionTooNew, TaskAborted),
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
