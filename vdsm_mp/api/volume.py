# SPDX-License-Identifier: Apache-2.0
"""Volume.*"""

from msgspec import UNSET, UnsetType, field

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb("Volume.copy", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=2)
class CopyVolume(Message, frozen=True, kw_only=True):
    """Copy and collapse (template creation, clone).

    Returns the id of an SPM task.
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


@verb("Volume.create", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=1)
class CreateVolume(Message, frozen=True, kw_only=True):
    """Create a volume.

    Returns the id of an SPM task.
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


@verb("Volume.delete", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=3)
class DeleteVolume(Message, frozen=True, kw_only=True):
    """Delete volumes (older form of Image.deleteVolumes).

    Returns the id of an SPM task.
    """

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    post_zero: bool = field(name="postZero")
    force: bool
    discard: bool | None = None


@verb("Volume.verify_untrusted", owner="storage", lane=Lane.KEYED, key="sd_id", tier=2)
class VerifyUntrustedVolume(Message, frozen=True, kw_only=True):
    """Check an uploaded image before use."""

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid = field(name="volumeID")


@verb("Volume.extendSize", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=2)
class ExtendVolumeSize(Message, frozen=True, kw_only=True):
    """Grow the virtual size.

    Returns the id of an SPM task.
    """

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid = field(name="volumeID")
    new_size: str = field(name="newSize")


class VolumeLease(Message, frozen=True, kw_only=True):
    """owners: host ids, empty = free. version: counts the holders; None while it is free."""

    path: str
    offset: int
    owners: list[int]
    version: int | None


class VolumeInfo(Message, frozen=True, kw_only=True):
    """A volume as the engine casts it: sizes and times are strings. lease: absent where volumes have none."""

    uuid: str
    type: str
    format: str
    disktype: str
    voltype: str
    capacity: str
    parent: str
    description: str
    pool: str = ""
    domain: str
    image: str
    ctime: str
    mtime: str = "0"
    legality: str
    generation: int
    sequence: int
    apparentsize: str
    truesize: str
    status: str
    children: list[str]
    lease: VolumeLease | UnsetType | None = UNSET


@verb("Volume.getInfo", owner="storage", reply=VolumeInfo, safe=True, tier=1)
class GetVolumeInfo(Message, frozen=True, kw_only=True):
    """Metadata and sizes."""

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")


class VolumeMeasure(Message, frozen=True, kw_only=True):
    """Bytes the data takes in the other format; fully_allocated: at most, ever. bitmaps: on top of that."""

    required: int
    fully_allocated: int = field(name="fully-allocated")
    bitmaps: int | UnsetType = UNSET


@verb("Volume.measure", owner="storage", reply=VolumeMeasure, safe=True, tier=2)
class MeasureVolume(Message, frozen=True, kw_only=True):
    """Required size in another format."""

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    dst_vol_format: int = field(name="dstVolFormat")
    backing_chain: bool | None = None
    base_id: Uuid | None = field(default=None, name="baseID")


class QemuBitmap(Message, frozen=True, kw_only=True):
    name: str
    granularity: int
    flags: list[str]


class QemuImageInfo(Message, frozen=True, kw_only=True):
    """What is absent does not exist in that format."""

    format: str
    virtualsize: int
    clustersize: int | UnsetType = UNSET
    backingfile: str | UnsetType = UNSET
    compat: str | UnsetType = UNSET
    bitmaps: list[QemuBitmap] | UnsetType = UNSET


@verb("Volume.getQemuImageInfo", owner="storage", reply=QemuImageInfo, safe=True, tier=2)
class GetVolumeQemuImageInfo(Message, frozen=True, kw_only=True):
    """Qemu-img info subset."""

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")


class VolumeSize(Message, frozen=True, kw_only=True):
    """Bytes, as digits."""

    truesize: str
    apparentsize: str


@verb("Volume.getSize", owner="storage", reply=VolumeSize, safe=True, tier=3)
class GetVolumeSize(Message, frozen=True, kw_only=True):
    """Sizes only."""

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")


@verb("Volume.refresh", owner="storage", lane=Lane.KEYED, key="sd_id", tier=2)
class RefreshVolume(Message, frozen=True, kw_only=True):
    """Re-activate an LV that grew."""

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")


@verb("Volume.setDescription", owner="storage", lane=Lane.KEYED, key="sd_id", tier=2)
class SetVolumeDescription(Message, frozen=True, kw_only=True):
    """Disk alias stored with the volume.

    Needs the SPM role (654).
    """

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    description: str


@verb("Volume.setLegality", owner="storage", lane=Lane.KEYED, key="sd_id", tier=2)
class SetVolumeLegality(Message, frozen=True, kw_only=True):
    """LEGAL / ILLEGAL.

    Needs the SPM role (654).
    """

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    legality: str


@verb("Volume.teardown", owner="storage", lane=Lane.KEYED, key="sd_id", tier=3)
class TeardownVolume(Message, frozen=True, kw_only=True):
    """Deactivate one volume."""

    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid = field(name="volumeID")
