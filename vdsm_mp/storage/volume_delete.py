# SPDX-License-Identifier: Apache-2.0
"""Remove single volumes of an image. The caller holds the image exclusively.

Order: ILLEGAL, (zeroed), no parent, the parent a leaf again, file, lease, and last the metadata, so that a deletion cut
short anywhere can be asked for again and then ends the same.
"""

from msgspec.structs import replace

from vdsm_mp.api.errors_volume import VolumeDoesNotExist, VolumeHasChildren, VolumeIsShared
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.image_delete import wipe_file
from vdsm_mp.storage.volume_file import (
    image_path,
    images_of,
    read_image,
    recheck_leaf,
    unlink_volume,
    volume_path,
    write_metadata,
)
from vdsm_mp.tasks.progress import Progress


def delete(
    domain: FileDomain, image_id: str, volume_id: str, progress: Progress, *, wipe: bool = False, force: bool = False
) -> None:
    """Raises: VolumeDoesNotExist, VolumeIsShared (223), VolumeHasChildren (204): nothing has changed then.

    force: even a template nobody uses, or a volume with children, whose data is then lost.
    """
    image = read_image(domain, image_id)
    metadata = image.metadata(volume_id)
    children = image.children(volume_id)
    if children and not force:
        raise VolumeHasChildren(volume_id, ", ".join(children))
    if metadata.shared:
        users = images_of(domain).get(volume_id, set()) - {image_id}
        if users or not force:
            raise VolumeIsShared(volume_id, ", ".join(sorted(users)[:5]) or "none now")
    if metadata.legal:
        metadata = replace(metadata, legality="ILLEGAL")
        write_metadata(domain, image_id, volume_id, metadata)
    file = image.files.get(volume_id)
    if wipe and file is not None and file.links == 1:
        wipe_file(domain, volume_path(image_id, volume_id), file.size_bytes, progress)
    if metadata.has_parent:
        parent, metadata = metadata.parent, replace(metadata, parent=BLANK)
        write_metadata(domain, image_id, volume_id, metadata)
        _recheck(domain, image_id, parent)
    else:
        # Cut short last time after its parent was blanked: whoever may be a leaf now is looked at again.
        for one, other in image.volumes.items():
            if one != volume_id and other.voltype == "INTERNAL" and not image.children(one):
                recheck_leaf(domain, image_id, one)
    unlink_volume(domain, image_id, volume_id)
    if not any(other.image_id == image_id for one, other in image.volumes.items() if one != volume_id):
        # A template's links, at most, are left: the image is gone with its last volume.
        domain.io.remove_tree(image_path(image_id))


def _recheck(domain: FileDomain, image_id: str, parent: str) -> None:
    try:
        recheck_leaf(domain, image_id, parent)
    except VolumeDoesNotExist:  # forced away before
        return
