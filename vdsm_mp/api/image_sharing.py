# SPDX-License-Identifier: Apache-2.0
"""Image.* from and to HTTP servers."""

from msgspec import field

from vdsm_mp.api.errors_storage import SPM_ON_DOMAIN
from vdsm_mp.api.errors_task import TASK_BEGIN, TaskAborted
from vdsm_mp.api.errors_volume import (
    VOLUME_UNKNOWN,
    CopyImageFailed,
    ImageIsNotLegalChain,
    InvalidVolumeParameter,
    SharedVolumeNotWritable,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


class ImageSharing(Message, frozen=True, kw_only=True):
    """method: "http". url: http or https. headers: sent along, those about the connection left out."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


@verb(
    "Image.download",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="sd_id",
    tier=3,
    raises=(
        *SPM_ON_DOMAIN,
        InvalidVolumeParameter,
        *VOLUME_UNKNOWN,
        ImageIsNotLegalChain,
        SharedVolumeNotWritable,
        CopyImageFailed,
        *TASK_BEGIN,
    ),
    later=(CopyImageFailed, TaskAborted),
)
class DownloadImage(Message, frozen=True, kw_only=True):
    """GET what becomes the content of an image of one volume from an HTTP server. Returns the id of an SPM task.

    A failure leaves the volume with what came until then.
    """

    method: ImageSharing = field(name="methodArgs")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid | None = field(default=None, name="volumeID")


@verb(
    "Image.upload",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="sd_id",
    tier=3,
    raises=(
        *SPM_ON_DOMAIN,
        InvalidVolumeParameter,
        *VOLUME_UNKNOWN,
        ImageIsNotLegalChain,
        CopyImageFailed,
        *TASK_BEGIN,
    ),
    later=(CopyImageFailed, TaskAborted),
)
class UploadImage(Message, frozen=True, kw_only=True):
    """PUT the content of an image of one volume to an HTTP server (Glance). Returns the id of an SPM task.

    The volume is only read; what the server keeps of a failed upload is its own affair.
    """

    method: ImageSharing = field(name="methodArgs")
    pool_id: Uuid = field(name="storagepoolID")
    sd_id: Uuid = field(name="storagedomainID")
    image_id: Uuid = field(name="imageID")
    volume_id: Uuid | None = field(default=None, name="volumeID")
