# SPDX-License-Identifier: Apache-2.0
"""Volume.* that only look: what a volume is, how large, and how large a copy of it would be."""

from msgspec import UNSET, UnsetType, field

from vdsm_mp.api.errors_storage import HOST_ON_DOMAIN
from vdsm_mp.api.errors_volume import (
    VOLUME_UNKNOWN,
    VOLUME_UNREADABLE,
    ImageIsNotLegalChain,
    IncorrectFormat,
    VolumeNotInChain,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Message, verb


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


@verb("Volume.getInfo", owner="storage", reply=VolumeInfo, safe=True, tier=1, raises=(*HOST_ON_DOMAIN, *VOLUME_UNKNOWN))
class GetVolumeInfo(Message, frozen=True, kw_only=True):
    """Metadata of a volume, its sizes in bytes as text, its children, and who holds its lease.

    status: OK, ILLEGAL, or INVALID when its metadata cannot be read.
    """

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")


class VolumeMeasure(Message, frozen=True, kw_only=True):
    """Bytes the data takes in the other format; fully_allocated: at most, ever. bitmaps: on top of that."""

    required: int
    fully_allocated: int = field(name="fully-allocated")
    bitmaps: int | UnsetType = UNSET


@verb(
    "Volume.measure",
    owner="storage",
    reply=VolumeMeasure,
    safe=True,
    tier=2,
    raises=(*HOST_ON_DOMAIN, *VOLUME_UNKNOWN, IncorrectFormat, VolumeNotInChain, ImageIsNotLegalChain),
)
class MeasureVolume(Message, frozen=True, kw_only=True):
    """Bytes that a volume's data take in another format: 4 qcow2, 5 raw.

    With all below it, unless `backing_chain` is false. baseID: only what is above that volume.
    """

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


@verb(
    "Volume.getQemuImageInfo",
    owner="storage",
    reply=QemuImageInfo,
    safe=True,
    tier=2,
    raises=(*HOST_ON_DOMAIN, *VOLUME_UNKNOWN, *VOLUME_UNREADABLE),
)
class GetVolumeQemuImageInfo(Message, frozen=True, kw_only=True):
    """What qemu-img says of a volume: format, sizes, backing file, bitmaps."""

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")


class VolumeSize(Message, frozen=True, kw_only=True):
    """Bytes, as digits."""

    truesize: str
    apparentsize: str


@verb("Volume.getSize", owner="storage", reply=VolumeSize, safe=True, tier=3, raises=(*HOST_ON_DOMAIN, *VOLUME_UNKNOWN))
class GetVolumeSize(Message, frozen=True, kw_only=True):
    """Size of a volume's file and what it takes of its domain, in bytes as text."""

    volume_id: Uuid = field(name="volumeID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
