# SPDX-License-Identifier: Apache-2.0
"""Image.*"""

from msgspec import UNSET, UnsetType, field

from vdsm_mp.api.errors_storage import HOST_ON_DOMAIN, SPM_ON_DOMAIN, PoolNotConnected
from vdsm_mp.api.errors_task import TASK_BEGIN, TaskAborted
from vdsm_mp.api.errors_volume import (
    VOLUME_UNKNOWN,
    VOLUME_UNREADABLE,
    CopyImageFailed,
    DiscardNotSupported,
    ImageDoesNotExist,
    ImageIsNotLegalChain,
    InvalidVolumeParameter,
    PrepareIllegalVolume,
    TemplateInUse,
    VolumeAlreadyExists,
    VolumeCopyFailed,
    VolumeCreationFailed,
    VolumeExtendFailed,
    VolumeHasChildren,
    VolumeIsShared,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb(
    "Image.delete",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="sd_id",
    tier=1,
    raises=(*SPM_ON_DOMAIN, DiscardNotSupported, ImageDoesNotExist, VolumeIsShared, *TASK_BEGIN),
    later=(TaskAborted,),
)
class DeleteImage(Message, frozen=True, kw_only=True):
    """Remove an image with all its volumes. Returns the id of an SPM task.

    It is out of sight before the task's id is answered. What the task could not remove, the SPM removes later. A
    template that others use is refused. postZero: overwrite the data first.
    """

    image_id: Uuid = field(name="imageID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    post_zero: bool = field(name="postZero")
    force: bool
    discard: bool | None = None


@verb(
    "Image.deleteVolumes",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="sd_id",
    tier=2,
    raises=(*SPM_ON_DOMAIN, DiscardNotSupported, *TASK_BEGIN),
    later=(*VOLUME_UNKNOWN, VolumeHasChildren, VolumeIsShared, TaskAborted),
)
class DeleteImageVolumes(Message, frozen=True, kw_only=True):
    """Delete volumes of an image one after the other. Returns the id of an SPM task.

    Each must be a leaf by then, unless `force` is true. Those before the one that failed are gone. postZero: overwrite
    the data first.
    """

    image_id: Uuid = field(name="imageID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    volume_list: list[Uuid] = field(name="volumeList")
    post_zero: bool | None = field(default=None, name="postZero")
    force: bool | None = None
    discard: bool | None = None


@verb(
    "Image.getVolumes",
    owner="storage",
    reply=list[Uuid],
    safe=True,
    tier=3,
    raises=(*HOST_ON_DOMAIN, ImageDoesNotExist),
)
class GetImageVolumes(Message, frozen=True, kw_only=True):
    """Ids of the volumes of an image, those with unreadable metadata too."""

    image_id: Uuid = field(name="imageID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")


@verb(
    "Image.move",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="sd_id",
    tier=2,
    raises=(
        *SPM_ON_DOMAIN,
        InvalidVolumeParameter,
        ImageDoesNotExist,
        ImageIsNotLegalChain,
        VolumeAlreadyExists,
        TemplateInUse,
        *TASK_BEGIN,
    ),
    later=(
        ImageIsNotLegalChain,
        VolumeAlreadyExists,
        VolumeIsShared,
        CopyImageFailed,
        VolumeCopyFailed,
        VolumeCreationFailed,
        TaskAborted,
    ),
)
class MoveImage(Message, frozen=True, kw_only=True):
    """Copy (operation 1) or move (2) an image to another domain, chain and all. Returns the id of an SPM task.

    A template it stands on must be there already. force: a legal image by its id is replaced; what a failed copy left
    always is, but not while that is still being undone (212). When the copy fails it is removed; the source of a move
    goes only after its success.
    """

    image_id: Uuid = field(name="imageID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    dst_sd_id: Uuid = field(name="dstSdUUID")
    operation: int
    post_zero: bool = field(name="postZero")
    force: bool
    discard: bool | None = None


@verb(
    "Image.cloneStructure",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="sd_id",
    tier=2,
    raises=(
        *SPM_ON_DOMAIN,
        InvalidVolumeParameter,
        ImageDoesNotExist,
        ImageIsNotLegalChain,
        VolumeAlreadyExists,
        *TASK_BEGIN,
    ),
    later=(VolumeAlreadyExists, VolumeIsShared, CopyImageFailed, VolumeCreationFailed, TaskAborted),
)
class CloneImageStructure(Message, frozen=True, kw_only=True):
    """Create an image's volumes, empty, on another domain. Returns the id of an SPM task.

    The first step of moving a disk in use: Image.syncData copies the layers, VM.diskReplicateStart the leaf. When it
    fails what was begun is removed.
    """

    image_id: Uuid = field(name="imageID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    dst_sd_id: Uuid = field(name="dstSdUUID")


@verb(
    "Image.syncData",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="sd_id",
    tier=2,
    raises=(*SPM_ON_DOMAIN, InvalidVolumeParameter, ImageDoesNotExist, ImageIsNotLegalChain, *TASK_BEGIN),
    later=(*VOLUME_UNKNOWN, VolumeCopyFailed, TaskAborted),
)
class SyncImageData(Message, frozen=True, kw_only=True):
    """Copy the data of an image's layers into the same volumes on another domain. Returns the id of an SPM task.

    syncType: INTERNAL (all but the leaf, as for a disk in use), LEAF or ALL. Half-copied volumes stay; it may be asked
    again.
    """

    image_id: Uuid = field(name="imageID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    dst_sd_id: Uuid = field(name="dstSdUUID")
    sync_type: str = field(name="syncType")


class PreparedVolume(Message, frozen=True, kw_only=True):
    """leasePath and leaseOffset are absent where volumes have no leases."""

    domain: str = field(name="domainID")
    image: str = field(name="imageID")
    volume: str = field(name="volumeID")
    path: str
    lease_path: str | UnsetType = field(default=UNSET, name="leasePath")
    lease_offset: int | UnsetType = field(default=UNSET, name="leaseOffset")


class VmVolume(Message, frozen=True, kw_only=True):
    type: str
    path: str


class PreparedImagePaths(Message, frozen=True, kw_only=True):
    """path: of the leaf. info: the same for a VM. imgVolumesInfo: the whole chain."""

    path: str
    info: VmVolume
    volumes: list[PreparedVolume] = field(name="imgVolumesInfo")


@verb(
    "Image.prepare",
    owner="storage",
    reply=PreparedImagePaths,
    lane=Lane.KEYED,
    key="image_id",
    tier=2,
    deadline_s=120,
    raises=(
        *HOST_ON_DOMAIN,
        *VOLUME_UNKNOWN,
        *VOLUME_UNREADABLE,
        PrepareIllegalVolume,
        ImageIsNotLegalChain,
        VolumeExtendFailed,
    ),
)
class PrepareImage(Message, frozen=True, kw_only=True):
    """Make a volume and all below it usable on this host; returns the paths. Asked again, it returns the same.

    allowIllegal: also volumes that are marked as illegal. Undone by Image.teardown.
    """

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid = field(name="volumeID")
    allow_illegal: bool | None = field(default=None, name="allowIllegal")


@verb("Image.teardown", owner="storage", lane=Lane.KEYED, key="image_id", tier=2, raises=(PoolNotConnected,))
class TeardownImage(Message, frozen=True, kw_only=True):
    """Undo Image.prepare. An image that is not prepared is fine."""

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid | None = field(default=None, name="volumeID")


@verb(
    "Image.reconcileVolumeChain",
    owner="storage",
    reply=list[Uuid],
    lane=Lane.KEYED,
    key="sd_id",
    tier=2,
    raises=(*SPM_ON_DOMAIN, *VOLUME_UNKNOWN, *VOLUME_UNREADABLE, ImageIsNotLegalChain),
)
class ReconcileImageVolumeChain(Message, frozen=True, kw_only=True):
    """Make the metadata of an image follow its files after a live merge that was interrupted. Returns the real chain.

    leafVolID: the volume it ends with; one that is illegal was being left for the one below. Volumes that are no
    longer part of it are marked as illegal.
    """

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    leaf_volume_id: Uuid = field(name="leafVolID")
