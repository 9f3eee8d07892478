# SPDX-License-Identifier: Apache-2.0
"""Image.*"""

from msgspec import UNSET, UnsetType, field

from vdsm_mp.api.errors_volume import CopyImageFailed, InvalidVolumeParameter, SharedVolumeNotWritable
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb("Image.delete", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=1)
class DeleteImage(Message, frozen=True, kw_only=True):
    """Remove an image with all its volumes.

    Returns the id of an SPM task.
    """

    image_id: Uuid = field(name="imageID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    post_zero: bool = field(name="postZero")
    force: bool
    discard: bool | None = None


@verb("Image.deleteVolumes", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=2)
class DeleteImageVolumes(Message, frozen=True, kw_only=True):
    """Remove some volumes of an image.

    Returns the id of an SPM task.
    """

    image_id: Uuid = field(name="imageID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    volume_list: list[Uuid] = field(name="volumeList")
    post_zero: bool | None = field(default=None, name="postZero")
    force: bool | None = None
    discard: bool | None = None


@verb("Image.getVolumes", owner="storage", reply=list[Uuid], safe=True, tier=3)
class GetImageVolumes(Message, frozen=True, kw_only=True):
    """Volume ids of an image."""

    image_id: Uuid = field(name="imageID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")


@verb("Image.move", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=2)
class MoveImage(Message, frozen=True, kw_only=True):
    """Copy or move an image between domains (operation 1 copy, 2 move).

    Returns the id of an SPM task.
    """

    image_id: Uuid = field(name="imageID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    dst_sd_id: Uuid = field(name="dstSdUUID")
    operation: int
    post_zero: bool = field(name="postZero")
    force: bool
    discard: bool | None = None


@verb("Image.cloneStructure", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=2)
class CloneImageStructure(Message, frozen=True, kw_only=True):
    """Create the same volume chain, empty, on another domain (live storage migration).

    Returns the id of an SPM task.
    """

    image_id: Uuid = field(name="imageID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    dst_sd_id: Uuid = field(name="dstSdUUID")


@verb("Image.syncData", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=2)
class SyncImageData(Message, frozen=True, kw_only=True):
    """Copy data of the INTERNAL/LEAF/ALL volumes (live storage migration).

    Returns the id of an SPM task.
    """

    image_id: Uuid = field(name="imageID")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    dst_sd_id: Uuid = field(name="dstSdUUID")
    sync_type: str = field(name="syncType")


class ImageSharing(Message, frozen=True, kw_only=True):
    """method: "http". url: http or https. headers: sent along, those about the connection left out."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


_SHARING = (InvalidVolumeParameter, CopyImageFailed, SharedVolumeNotWritable)


@verb("Image.download", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=3, raises=_SHARING)
class DownloadImage(Message, frozen=True, kw_only=True):
    """GET what becomes the content of an image of one volume from an HTTP server (Glance).

    Returns the id of an SPM task.
    """

    method: ImageSharing = field(name="methodArgs")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid | None = field(default=None, name="volumeID")


@verb("Image.upload", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=3, raises=_SHARING)
class UploadImage(Message, frozen=True, kw_only=True):
    """PUT the content of an image of one volume to an HTTP server (Glance).

    Returns the id of an SPM task.
    """

    method: ImageSharing = field(name="methodArgs")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid | None = field(default=None, name="volumeID")


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
)
class PrepareImage(Message, frozen=True, kw_only=True):
    """Activate a volume chain on this host and return its path."""

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid = field(name="volumeID")
    allow_illegal: bool | None = field(default=None, name="allowIllegal")


@verb("Image.teardown", owner="storage", lane=Lane.KEYED, key="image_id", tier=2)
class TeardownImage(Message, frozen=True, kw_only=True):
    """Deactivate it."""

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid | None = field(default=None, name="volumeID")


@verb("Image.reconcileVolumeChain", owner="storage", reply=list[Uuid], lane=Lane.KEYED, key="sd_id", tier=2)
class ReconcileImageVolumeChain(Message, frozen=True, kw_only=True):
    """Correct metadata after an interrupted live merge and return the real chain.

    Needs the SPM role (654).
    """

    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    leaf_volume_id: Uuid = field(name="leafVolID")
