# SPDX-License-Identifier: Apache-2.0
"""Placeholders of templates on export domains: an image may be stored there without the template it stands on.

A placeholder is an empty qcow2 volume by the template's ids, SHARED and FAKE. It gives way to the real template when
that is copied to the domain: whoever stands on it is linked anew then.
"""

import logging

from vdsm_mp.api.errors_volume import VolumeDoesNotExist
from vdsm_mp.storage import volume_create
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.volume_create import LeaseWriter
from vdsm_mp.storage.volume_file import change_metadata, images_of, read_volume, share, unlink_volume
from vdsm_mp.storage.volume_metadata import VolumeMetadata
from vdsm_mp.storage.volume_spec import VolumeSpec
from vdsm_mp.tasks.progress import Progress

_log = logging.getLogger("storage.copy")

#: What VDSM writes, too.
_DESCRIPTION = "Fake volume"


def ensure(
    domain: FileDomain, leases: LeaseWriter | None, volume_id: str, template: VolumeMetadata, progress: Progress
) -> None:
    """The template or a placeholder is there. The caller holds the template's image exclusively. Idempotent.

    Raises: VolumeCreationFailed, TaskAborted, storage errors; ask again.
    """
    image_id = template.image_id
    try:
        found, _ = read_volume(domain, image_id, volume_id)
    except VolumeDoesNotExist:
        found = None
    if found is not None and found.shared:
        return
    # Cut short last time: ILLEGAL until it is a placeholder.
    unlink_volume(domain, image_id, volume_id)
    spec = VolumeSpec(
        image_id=image_id,
        volume_id=volume_id,
        capacity=template.capacity,
        format="COW",
        type="SPARSE",
        disk_type=template.disk_type,
        description=_DESCRIPTION,
        legal=False,
    )
    volume_create.make(domain, leases, spec, progress)
    change_metadata(domain, image_id, volume_id, legality="FAKE", voltype="SHARED")
    _log.info("domain %s: placeholder of template %s made", domain.sd_id, volume_id)


def relink(domain: FileDomain, image_id: str, volume_id: str) -> None:
    """Images that stood on a placeholder stand on the template now."""
    for user in sorted(images_of(domain).get(volume_id, set()) - {image_id}):
        share(domain, image_id, volume_id, user)
