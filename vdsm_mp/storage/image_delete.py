# SPDX-License-Identifier: Apache-2.0
"""Remove an image, in two phases: renamed while the client waits, its files removed by the task.

From the rename on the image does not exist, for anybody. What an interrupted deletion leaves is removed by
`image_remnants`.
"""

from vdsm_mp.api.errors_storage import IoChildDied, StorageFileExists, StorageFileMissing
from vdsm_mp.api.errors_volume import ImageDoesNotExist, VolumeIsShared
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import DomainClass
from vdsm_mp.storage.volume_file import (
    IMAGES,
    META,
    REMOVED,
    REMOVED_ZERO,
    ImageFiles,
    image_path,
    images_of,
    read_image,
)
from vdsm_mp.tasks.progress import Progress

#: Zeroed by one request to the I/O child.
_WIPE_STEP = 64 * 2**20


def take_away(domain: FileDomain, image_id: str, *, wipe: bool) -> str:
    """Phase 1; the caller holds the image exclusively. Returns the name of the remnant, which says what is to be done.

    Raises: ImageDoesNotExist, VolumeIsShared, storage errors; the image is there then, but for IoTimedOut and
    IoChildDied: the request that renames it may still be carried out.
    """
    image = read_image(domain, image_id)
    if not any(one.image_id == image_id for one in image.volumes.values()) and not image.broken:
        # Only links of a template, or nothing: what a failed creation may leave. VDSM calls that no image either.
        raise ImageDoesNotExist(image_id, domain.sd_id)
    if domain.meta.cls is not DomainClass.BACKUP:
        refuse_used_templates(domain, image)
    remnant = (REMOVED_ZERO if wipe else REMOVED) + image_id
    try:
        domain.io.rename(image_path(image_id), image_path(remnant))
    except StorageFileExists:  # of an image by the same id that was deleted before
        domain.io.remove_tree(image_path(remnant))
        domain.io.rename(image_path(image_id), image_path(remnant))
    except StorageFileMissing:
        raise ImageDoesNotExist(image_id, domain.sd_id) from None
    except IoChildDied:  # it may have renamed before: an image that is gone is no failure
        if domain.io.exists(image_path(image_id)) or not domain.io.exists(image_path(remnant)):
            raise
    return remnant


def put_back(domain: FileDomain, image_id: str, remnant: str) -> None:
    """Phase 1 undone, when the task that was to do phase 2 could not be made."""
    domain.io.rename(image_path(remnant), image_path(image_id))


def refuse_used_templates(domain: FileDomain, image: ImageFiles) -> None:
    """Raises: VolumeIsShared (223) when other images stand on a volume of this one."""
    for one, others in used_templates(domain, image).items():
        raise VolumeIsShared(one, ", ".join(sorted(others)[:5]))


def used_templates(domain: FileDomain, image: ImageFiles) -> dict[str, set[str]]:
    """{template of this image: other images that stand on it}."""
    templates = [
        one for one, metadata in image.volumes.items() if metadata.shared and metadata.image_id == image.image_id
    ]
    # Each link counts, those of images being removed too, so one link alone needs no search.
    if not any(image.files[one].links > 1 for one in templates if one in image.files):
        return {}
    users = images_of(domain)
    found = {one: users.get(one, set()) - {image.image_id} for one in templates}
    return {one: others for one, others in found.items() if others}


def remove_remnant(domain: FileDomain, remnant: str, progress: Progress) -> None:
    """Phase 2. What this image alone has is zeroed first, when its name says so. Interrupted, it is begun again."""
    where = image_path(remnant)
    try:
        if remnant.startswith(REMOVED_ZERO):
            for entry in domain.io.read_directory(where):
                if entry.stat.kind == "file" and not entry.path.endswith(META) and entry.stat.links == 1:
                    wipe_file(domain, f"{where}/{entry.path}", entry.stat.size_bytes, progress)
    except StorageFileMissing:  # another host has opened the domain and removed it
        return
    progress.check()
    domain.io.remove_tree(where)


def wipe_file(domain: FileDomain, path: str, size_bytes: int, progress: Progress) -> None:
    """Zero what is allocated in a file. Raises: TaskAborted, storage errors."""
    offset = 0
    while offset < size_bytes:
        progress.check()
        offset = domain.io.wipe(path, offset, _WIPE_STEP)
        progress.at(100.0 * offset / max(size_bytes, 1))


def remnants_of(domain: FileDomain) -> list[str]:
    """Names of what deletions have taken away, and not removed yet."""
    return [e.name for e in domain.io.readdir(IMAGES) if e.kind == "dir" and e.name.startswith(REMOVED)]


def image_of_remnant(remnant: str) -> str:
    return remnant.removeprefix(REMOVED_ZERO).removeprefix(REMOVED)
