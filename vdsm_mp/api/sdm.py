# SPDX-License-Identifier: Apache-2.0
"""SDM.*: jobs on storage that need no SPM."""

from typing import Any

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb("SDM.copy_data", owner="storage", lane=Lane.KEYED, key="job_id", tier=2, planned=True)
class CopyData(Message, frozen=True, kw_only=True):
    """Copy data between volumes or managed paths."""

    job_id: Uuid
    source: dict[str, Any]
    destination: dict[str, Any]
    copy_bitmaps: bool | None = None


@verb("SDM.sparsify_volume", owner="storage", lane=Lane.KEYED, key="job_id", tier=2, planned=True)
class SparsifyVolume(Message, frozen=True, kw_only=True):
    """Virt-sparsify."""

    job_id: Uuid
    vol_info: dict[str, Any]


@verb("SDM.merge", owner="storage", lane=Lane.KEYED, key="job_id", tier=2, planned=True)
class MergeSubchain(Message, frozen=True, kw_only=True):
    """Cold merge step 2: commit data."""

    job_id: Uuid
    subchain_info: dict[str, Any]
    merge_bitmaps: bool | None = None


@verb("SDM.amend_volume", owner="storage", lane=Lane.KEYED, key="job_id", tier=2, planned=True)
class AmendVolume(Message, frozen=True, kw_only=True):
    """Change the qcow2 compat level."""

    job_id: Uuid
    vol_info: dict[str, Any]
    qcow2_attr: dict[str, Any]


@verb("SDM.move_domain_device", owner="storage", lane=Lane.KEYED, key="job_id", tier=3, planned=True)
class MoveDomainDevice(Message, frozen=True, kw_only=True):
    """Empty a PV."""

    job_id: Uuid
    move_params: dict[str, Any]


@verb("SDM.reduce_domain", owner="storage", lane=Lane.KEYED, key="job_id", tier=3, planned=True)
class ReduceDomain(Message, frozen=True, kw_only=True):
    """Remove a PV from a domain."""

    job_id: Uuid
    reduce_params: dict[str, Any]


@verb("SDM.update_volume", owner="storage", lane=Lane.KEYED, key="job_id", tier=2, planned=True)
class UpdateVolume(Message, frozen=True, kw_only=True):
    """Change legality, description, generation or type."""

    job_id: Uuid
    vol_info: dict[str, Any]
    vol_attr: dict[str, Any]


@verb("SDM.add_bitmap", owner="storage", lane=Lane.KEYED, key="job_id", tier=2, planned=True)
class AddBitmap(Message, frozen=True, kw_only=True):
    """Add a bitmap to a volume."""

    job_id: Uuid
    vol_info: dict[str, Any]
    bitmap: str


@verb("SDM.remove_bitmap", owner="storage", lane=Lane.KEYED, key="job_id", tier=2, planned=True)
class RemoveBitmap(Message, frozen=True, kw_only=True):
    """Remove a bitmap."""

    job_id: Uuid
    vol_info: dict[str, Any]
    bitmap: str


@verb("SDM.clear_bitmaps", owner="storage", lane=Lane.KEYED, key="job_id", tier=2, planned=True)
class ClearBitmaps(Message, frozen=True, kw_only=True):
    """Remove all bitmaps."""

    job_id: Uuid
    vol_info: dict[str, Any]
