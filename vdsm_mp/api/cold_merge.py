# SPDX-License-Identifier: Apache-2.0
"""StoragePool.prepareMerge, finalizeMerge, reduceVolume: what the SPM does of a merge of volumes that no VM uses."""

from msgspec import field

from vdsm_mp.api.errors_storage import SPM_ON_DOMAIN
from vdsm_mp.api.errors_task import TASK_BEGIN, TaskAborted
from vdsm_mp.api.errors_volume import (
    VOLUME_UNKNOWN,
    ImageIsNotLegalChain,
    UnexpectedVolumeState,
    VolumeExtendFailed,
    WrongParentVolume,
)
from vdsm_mp.api.sdm import Subchain
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


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
