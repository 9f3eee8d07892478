# SPDX-License-Identifier: Apache-2.0
"""SDM.*: jobs on storage that need no SPM."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_lease import JobStatusMismatch, LeaseIndexInvalid, LeasesNotSupported, NoSuchLease
from vdsm_mp.api.errors_managed import ManagedVolumeHelperFailed
from vdsm_mp.api.errors_storage import VOLUME_LEASE, DomainNotFound, LockNotInspected
from vdsm_mp.api.errors_task import JobExists
from vdsm_mp.api.errors_volume import (
    VOLUME_UNKNOWN,
    GenerationMismatch,
    ImageActionFailed,
    ImageIsNotLegalChain,
    IncorrectFormat,
    InternalVolumeNotWritable,
    InvalidVolumeParameter,
    SharedVolumeNotWritable,
    UnexpectedVolumeState,
    VolumeCopyFailed,
    VolumeMetadataTooLong,
    VolumeUpdateRefused,
    WrongParentVolume,
)
from vdsm_mp.api.lease import LeaseName
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


class VolumeRef(Message, frozen=True, kw_only=True):
    """One volume, and the generation it must have for the job to run."""

    sd_id: Uuid
    image_id: Uuid = field(name="img_id")
    volume_id: Uuid = field(name="vol_id")
    generation: int | None = None


class CopyEndpoint(Message, frozen=True, kw_only=True):
    """endpoint_type "div": a volume by its ids. "external": the device of a managed volume that is attached here.

    url: its path or managed_path. format: raw or cow. lease: the job's, for a destination; generation: what that must
    have. is_zero: everything on it is zero.
    """

    endpoint_type: str = "div"
    sd_id: Uuid | None = None
    image_id: Uuid | None = field(default=None, name="img_id")
    volume_id: Uuid | None = field(default=None, name="vol_id")
    generation: int | None = None
    url: str | None = None
    format: str | None = None
    lease: LeaseName | None = None
    is_zero: bool | None = None


class Subchain(Message, frozen=True, kw_only=True):
    """A volume (top) and its parent (base), which is to take over what the top has."""

    sd_id: Uuid
    image_id: Uuid = field(name="img_id")
    base_id: Uuid
    top_id: Uuid
    base_generation: int | None = None


class VolumeAttributes(Message, frozen=True, kw_only=True):
    """What is absent stays as it is."""

    generation: int | None = None
    description: str | None = None
    legality: str | None = None
    type: str | None = None


class Qcow2Attributes(Message, frozen=True, kw_only=True):
    compat: str


@verb(
    "SDM.copy_data",
    owner="storage",
    lane=Lane.KEYED,
    key="job_id",
    tier=2,
    raises=(JobExists, InvalidVolumeParameter, ManagedVolumeHelperFailed),
    later=(
        DomainNotFound,
        *VOLUME_LEASE,
        *VOLUME_UNKNOWN,
        GenerationMismatch,
        ImageIsNotLegalChain,
        SharedVolumeNotWritable,
        VolumeCopyFailed,
        InvalidVolumeParameter,
        ManagedVolumeHelperFailed,
        LeasesNotSupported,
        NoSuchLease,
        LeaseIndexInvalid,
        JobStatusMismatch,
        LockNotInspected,
    ),
)
class CopyData(Message, frozen=True, kw_only=True):
    """Copy data into a volume that exists, or onto a managed volume, as a job; from either kind.

    A volume is illegal while it is written, and legal with a higher generation afterwards; when it fails it stays
    illegal. For a managed volume the job's lease tells the same: PENDING, and SUCCEEDED with a higher generation or
    FAILED. copy_bitmaps: with the bitmaps of qcow2.
    """

    job_id: Uuid
    source: CopyEndpoint
    destination: CopyEndpoint
    copy_bitmaps: bool | None = None


@verb(
    "SDM.sparsify_volume",
    owner="storage",
    lane=Lane.KEYED,
    key="job_id",
    tier=2,
    raises=(
        JobExists,
        DomainNotFound,
        *VOLUME_UNKNOWN,
        ImageActionFailed,
        InternalVolumeNotWritable,
        SharedVolumeNotWritable,
    ),
    later=(*VOLUME_LEASE, GenerationMismatch, ImageActionFailed),
)
class SparsifyVolume(Message, frozen=True, kw_only=True):
    """Give back the space that file systems in a leaf do not use, as a job; needs virt-sparsify on the host (250).

    When it fails the data are as they were.
    """

    job_id: Uuid
    volume: VolumeRef = field(name="vol_info")


@verb(
    "SDM.merge",
    owner="storage",
    lane=Lane.KEYED,
    key="job_id",
    tier=2,
    raises=(JobExists,),
    later=(
        DomainNotFound,
        *VOLUME_LEASE,
        *VOLUME_UNKNOWN,
        GenerationMismatch,
        WrongParentVolume,
        UnexpectedVolumeState,
        ImageIsNotLegalChain,
    ),
)
class MergeSubchain(Message, frozen=True, kw_only=True):
    """Cold merge, step 2 of 3: commit the data of the top into its base, as a job.

    The base gets a higher generation. When it fails the top still has all of its data; it may be asked again.
    """

    job_id: Uuid
    subchain: Subchain = field(name="subchain_info")
    merge_bitmaps: bool | None = None


@verb(
    "SDM.amend_volume",
    owner="storage",
    lane=Lane.KEYED,
    key="job_id",
    tier=2,
    raises=(JobExists, InvalidVolumeParameter),
    later=(
        DomainNotFound,
        *VOLUME_LEASE,
        *VOLUME_UNKNOWN,
        GenerationMismatch,
        IncorrectFormat,
        VolumeUpdateRefused,
        ImageIsNotLegalChain,
    ),
)
class AmendVolume(Message, frozen=True, kw_only=True):
    """Change the compat level of a qcow2 volume, 0.10 or 1.1, as a job. It gets a higher generation."""

    job_id: Uuid
    volume: VolumeRef = field(name="vol_info")
    qcow2: Qcow2Attributes = field(name="qcow2_attr")


@verb("SDM.move_domain_device", owner="storage", lane=Lane.KEYED, key="job_id", tier=3, planned=True)
class MoveDomainDevice(Message, frozen=True, kw_only=True):
    """Empty a physical volume of a block domain, as a job."""

    job_id: Uuid
    move_params: dict[str, Any]


@verb("SDM.reduce_domain", owner="storage", lane=Lane.KEYED, key="job_id", tier=3, planned=True)
class ReduceDomain(Message, frozen=True, kw_only=True):
    """Remove a physical volume from a block domain, as a job."""

    job_id: Uuid
    reduce_params: dict[str, Any]


@verb(
    "SDM.update_volume",
    owner="storage",
    lane=Lane.KEYED,
    key="job_id",
    tier=2,
    raises=(JobExists, InvalidVolumeParameter),
    later=(
        DomainNotFound,
        *VOLUME_LEASE,
        *VOLUME_UNKNOWN,
        GenerationMismatch,
        VolumeUpdateRefused,
        VolumeMetadataTooLong,
    ),
)
class UpdateVolume(Message, frozen=True, kw_only=True):
    """Change legality, description, generation or type in a volume's metadata, as a job. All or nothing."""

    job_id: Uuid
    volume: VolumeRef = field(name="vol_info")
    attributes: VolumeAttributes = field(name="vol_attr")


@verb(
    "SDM.add_bitmap",
    owner="storage",
    lane=Lane.KEYED,
    key="job_id",
    tier=2,
    raises=(JobExists,),
    later=(DomainNotFound, *VOLUME_LEASE, *VOLUME_UNKNOWN, GenerationMismatch, IncorrectFormat, ImageIsNotLegalChain),
)
class AddBitmap(Message, frozen=True, kw_only=True):
    """Add a bitmap to a qcow2 volume, as a job. The volume gets a higher generation.

    With a generation, one by that name that is whole will do: it may be asked again. Without, it is an error.
    """

    job_id: Uuid
    volume: VolumeRef = field(name="vol_info")
    bitmap: str


@verb(
    "SDM.remove_bitmap",
    owner="storage",
    lane=Lane.KEYED,
    key="job_id",
    tier=2,
    raises=(JobExists,),
    later=(
        DomainNotFound,
        *VOLUME_LEASE,
        *VOLUME_UNKNOWN,
        GenerationMismatch,
        IncorrectFormat,
        ImageIsNotLegalChain,
    ),
)
class RemoveBitmap(Message, frozen=True, kw_only=True):
    """Remove a bitmap from a qcow2 volume, as a job; having none is fine. The volume gets a higher generation."""

    job_id: Uuid
    volume: VolumeRef = field(name="vol_info")
    bitmap: str


@verb(
    "SDM.clear_bitmaps",
    owner="storage",
    lane=Lane.KEYED,
    key="job_id",
    tier=2,
    raises=(JobExists,),
    later=(DomainNotFound, *VOLUME_LEASE, *VOLUME_UNKNOWN, GenerationMismatch, IncorrectFormat, ImageIsNotLegalChain),
)
class ClearBitmaps(Message, frozen=True, kw_only=True):
    """Remove all bitmaps from a qcow2 volume, as a job. The volume gets a higher generation."""

    job_id: Uuid
    volume: VolumeRef = field(name="vol_info")
