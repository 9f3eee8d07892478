# SPDX-License-Identifier: Apache-2.0
"""Changes to one existing volume: description, legality, size. The caller holds its image exclusively."""

import logging

from vdsm_mp.api.errors_volume import (
    ImageIsNotLegalChain,
    InvalidVolumeParameter,
    VolumeExtendFailed,
    VolumeNotWritable,
    VolumeResizeRefused,
)
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.common.errors import Error
from vdsm_mp.storage import qemuimg
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.file_facts import FileStat
from vdsm_mp.storage.qcow2 import HEADER_BYTES, NotQcow2, read_header
from vdsm_mp.storage.volume_file import change_metadata, read_volume, volume_path
from vdsm_mp.storage.volume_metadata import VolumeMetadata, description_of
from vdsm_mp.tasks.progress import Progress

_log = logging.getLogger("storage.volume")

#: QEMU's sentence when somebody has the image open.
_LOCKED = "lock"


def set_description(domain: FileDomain, image_id: str, volume_id: str, text: str) -> None:
    change_metadata(domain, image_id, volume_id, description=description_of(text))


def set_legality(domain: FileDomain, image_id: str, volume_id: str, legality: str) -> None:
    if legality not in ("LEGAL", "ILLEGAL"):
        raise InvalidVolumeParameter("legality", legality)
    change_metadata(domain, image_id, volume_id, legality=legality)


def extend(domain: FileDomain, image_id: str, volume_id: str, to_bytes: int, progress: Progress) -> None:
    """Let the guest see a larger disk; absolute, so that asking twice is harmless.

    A raw base may grow under its children, otherwise only a leaf. A qcow2 leaf that a VM has open is left to that VM.
    Raises: VolumeNotWritable, VolumeResizeRefused (smaller than it is), VolumeExtendFailed.
    """
    metadata, file = read_volume(domain, image_id, volume_id)
    if metadata.shared or not (metadata.voltype == "LEAF" or (not metadata.cow and not metadata.has_parent)):
        raise VolumeNotWritable(volume_id, f"it is {metadata.voltype}")
    now = metadata.capacity if metadata.cow else max(metadata.capacity, file.size_bytes)
    if to_bytes < now:
        raise VolumeResizeRefused(volume_id, f"{to_bytes} is less than the {now} bytes it has")
    try:
        if metadata.cow:
            _extend_cow(domain, image_id, volume_id, to_bytes)
        else:
            _extend_raw(domain, image_id, volume_id, to_bytes, progress)
    except (CommandFailed, CommandOverdue) as e:
        raise VolumeExtendFailed(volume_id, str(e)) from e


def _extend_raw(domain: FileDomain, image_id: str, volume_id: str, to_bytes: int, progress: Progress) -> None:
    metadata, file = read_volume(domain, image_id, volume_id)
    path = volume_path(image_id, volume_id)
    grow_raw(domain, path, file.size_bytes, to_bytes, progress, allocate=metadata.type == "PREALLOCATED")
    # From here on the metadata is what is behind; preparing the image, too, would correct it.
    change_metadata(domain, image_id, volume_id, capacity=to_bytes)


def grow_raw(
    domain: FileDomain, path: str, now_bytes: int, to_bytes: int, progress: Progress, *, allocate: bool
) -> None:
    """A raw file, never smaller than it is. Raises: CommandFailed (no room; it is as it was), TaskAborted, …"""
    if now_bytes >= to_bytes:
        return
    if allocate:
        try:
            qemuimg.fallocate(domain.io.path_of(path), now_bytes, to_bytes - now_bytes, progress)
        except Error:  # a full file system lets it grow as far as there is room
            domain.io.truncate(path, now_bytes)
            raise
    domain.io.truncate(path, to_bytes)


def _extend_cow(domain: FileDomain, image_id: str, volume_id: str, to_bytes: int) -> None:
    before, _ = read_volume(domain, image_id, volume_id)
    path = domain.io.path_of(volume_path(image_id, volume_id))
    # Zero says "look into the file": whoever comes after a crash here takes the size from the header.
    change_metadata(domain, image_id, volume_id, capacity=0)
    try:
        qemuimg.resize(path, "qcow2", to_bytes)
    except (CommandFailed, CommandOverdue) as e:
        change_metadata(domain, image_id, volume_id, capacity=before.capacity)
        if isinstance(e, CommandFailed) and _LOCKED in e.err:
            _log.info("volume %s is open in a VM, which will grow it", volume_id)
            return
        raise
    change_metadata(domain, image_id, volume_id, capacity=to_bytes)


def settle_size(domain: FileDomain, image_id: str, volume_id: str) -> None:
    """After an extension that was cut short: what the file has grown to is the capacity.

    Raises: VolumeDoesNotExist, ImageIsNotLegalChain (no qcow2 file), storage errors.
    """
    metadata, file = read_volume(domain, image_id, volume_id)
    size = virtual_size(domain, image_id, volume_id, metadata, file)
    if metadata.capacity < size:
        change_metadata(domain, image_id, volume_id, capacity=size)


def virtual_size(domain: FileDomain, image_id: str, volume_id: str, metadata: VolumeMetadata, file: FileStat) -> int:
    """Bytes, by the file alone. Raises: ImageIsNotLegalChain, storage errors."""
    if not metadata.cow:
        return file.size_bytes
    data = domain.io.read(volume_path(image_id, volume_id), offset=0, length=HEADER_BYTES, direct=False)
    try:
        return read_header(data).virtual_bytes
    except NotQcow2 as e:
        raise ImageIsNotLegalChain(image_id, f"volume {volume_id} is no qcow2 file: {e}") from e
