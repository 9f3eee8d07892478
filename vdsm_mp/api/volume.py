# SPDX-License-Identifier: Apache-2.0
"""Volume.*"""

from msgspec import field

from vdsm_mp.api.errors_storage import HOST_ON_DOMAIN, SPM_ON_DOMAIN, DomainNotFound
from vdsm_mp.api.errors_task import TASK_BEGIN, TaskAborted
from vdsm_mp.api.errors_volume import (
    VOLUME_UNKNOWN,
    VOLUME_UNREADABLE,
    DiscardNotSupported,
    ImageIsNotLegalChain,
    ImageVerificationFailed,
    IncorrectFormat,
    IncorrectType,
    InvalidVolumeParameter,
    ParentIsIllegal,
    PrepareIllegalVolume,
    VolumeAlreadyExists,
    VolumeCopyFailed,
    VolumeCreationFailed,
    VolumeExtendFailed,
    VolumeHasChildren,
    VolumeIsShared,
    VolumeNotShareable,
    VolumeNotWritable,
    VolumeResizeRefused,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb(
    "Volume.copy",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="sd_id",
    tier=2,
    raises=(
        *SPM_ON_DOMAIN,
        *VOLUME_UNKNOWN,
        InvalidVolumeParameter,
        IncorrectFormat,
        IncorrectType,
        DiscardNotSupported,
        VolumeAlreadyExists,
        *TASK_BEGIN,
    ),
    later=(
        VolumeAlreadyExists,
        PrepareIllegalVolume,
        ImageIsNotLegalChain,
        VolumeCopyFailed,
        VolumeIsShared,
        TaskAborted,
    ),
)
class CopyVolume(Message, frozen=True, kw_only=True):
    """Copy a volume with all below it into one new volume of another image. Returns the id of an SPM task.

    volType: 6 template, 8 leaf. volFormat 3 and preallocate 0: as the source. force: a target image that exists is
    replaced; what a failed copy left always is, but not while that is still being undone (212). When it fails what was
    begun is removed.
    """

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    dst_sd_id: Uuid = field(name="dstSdUUID")
    dst_image_id: Uuid = field(name="dstImgUUID")
    dst_volume_id: Uuid = field(name="dstVolUUID")
    desc: str
    vol_type: int = field(name="volType")
    vol_format: int = field(name="volFormat")
    preallocate: int
    post_zero: bool = field(name="postZero")
    force: bool
    discard: bool | None = None


@verb(
    "Volume.create",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="sd_id",
    tier=1,
    raises=(*SPM_ON_DOMAIN, InvalidVolumeParameter, IncorrectFormat, IncorrectType, *TASK_BEGIN),
    later=(
        VolumeAlreadyExists,
        *VOLUME_UNKNOWN,
        VolumeNotShareable,
        ParentIsIllegal,
        VolumeHasChildren,
        InvalidVolumeParameter,
        VolumeCreationFailed,
        IncorrectFormat,
        TaskAborted,
    ),
)
class CreateVolume(Message, frozen=True, kw_only=True):
    """Create a volume: a new image, a snapshot of a leaf, or an image on a template. Returns the id of an SPM task.

    size, initialSize: bytes as text. volFormat: 4 qcow2, 5 raw. preallocate: 1 allocated, 2 sparse. srcImgUUID,
    srcVolUUID: the parent, blank = none. Of two asked for at once on one leaf the second is refused; on an inner one,
    to look at a snapshot, another is made. When it fails what was begun is removed.
    """

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    size: str
    vol_format: int = field(name="volFormat")
    preallocate: int
    disk_type: str = field(name="diskType")
    desc: str
    src_image_id: Uuid = field(name="srcImgUUID")
    src_volume_id: Uuid = field(name="srcVolUUID")
    initial_size: str | None = field(default=None, name="initialSize")
    add_bitmaps: bool | None = field(default=None, name="addBitmaps")
    legal: bool | None = None
    sequence: int | None = None
    bitmap: Uuid | None = None


@verb(
    "Volume.delete",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="sd_id",
    tier=3,
    raises=(*SPM_ON_DOMAIN, DiscardNotSupported, *TASK_BEGIN),
    later=(*VOLUME_UNKNOWN, VolumeHasChildren, VolumeIsShared, TaskAborted),
)
class DeleteVolume(Message, frozen=True, kw_only=True):
    """Delete one volume, a leaf unless `force` is true. Returns the id of an SPM task. postZero: overwrite it first.

    It is illegal from the start of that on; cut short anywhere, it may be asked again.
    """

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    post_zero: bool = field(name="postZero")
    force: bool
    discard: bool | None = None


@verb(
    "Volume.verify_untrusted",
    owner="storage",
    lane=Lane.KEYED,
    key="sd_id",
    tier=2,
    raises=(*HOST_ON_DOMAIN, *VOLUME_UNKNOWN, *VOLUME_UNREADABLE, ImageVerificationFailed),
)
class VerifyUntrustedVolume(Message, frozen=True, kw_only=True):
    """Look whether an uploaded volume may be used: its format, its backing file, and that it leads nowhere else.

    It is only read. 484 says what is wrong with it.
    """

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid = field(name="volumeID")


@verb(
    "Volume.extendSize",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="sd_id",
    tier=2,
    raises=(*SPM_ON_DOMAIN, InvalidVolumeParameter, *TASK_BEGIN),
    later=(*VOLUME_UNKNOWN, VolumeNotWritable, VolumeResizeRefused, VolumeExtendFailed, TaskAborted),
)
class ExtendVolumeSize(Message, frozen=True, kw_only=True):
    """Grow the virtual size of a leaf to `newSize` bytes. Returns the id of an SPM task. It never shrinks.

    A running VM is told by VM.diskSizeExtend.
    """

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid = field(name="volumeID")
    new_size: str = field(name="newSize")


@verb(
    "Volume.refresh", owner="storage", lane=Lane.KEYED, key="sd_id", tier=2, raises=(*HOST_ON_DOMAIN, *VOLUME_UNKNOWN)
)
class RefreshVolume(Message, frozen=True, kw_only=True):
    """Let this host see that a volume grew. Files do so by themselves: only its being there is looked at."""

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")


@verb(
    "Volume.setDescription",
    owner="storage",
    lane=Lane.KEYED,
    key="sd_id",
    tier=2,
    raises=(*SPM_ON_DOMAIN, *VOLUME_UNKNOWN, *VOLUME_UNREADABLE),
)
class SetVolumeDescription(Message, frozen=True, kw_only=True):
    """Change the description of a volume, where engines keep a disk's alias. The old one stays when it fails."""

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    description: str


@verb(
    "Volume.setLegality",
    owner="storage",
    lane=Lane.KEYED,
    key="sd_id",
    tier=2,
    raises=(*SPM_ON_DOMAIN, *VOLUME_UNKNOWN, *VOLUME_UNREADABLE, InvalidVolumeParameter),
)
class SetVolumeLegality(Message, frozen=True, kw_only=True):
    """Mark a volume as LEGAL or ILLEGAL; an illegal one is not prepared for VMs. It stays as it was when it fails."""

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    legality: str


@verb("Volume.teardown", owner="storage", lane=Lane.KEYED, key="sd_id", tier=3, raises=(DomainNotFound,))
class TeardownVolume(Message, frozen=True, kw_only=True):
    """Deactivate one volume. Files are not activated: only the domain's being there is looked at."""

    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid = field(name="volumeID")
