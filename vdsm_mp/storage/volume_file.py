# SPDX-License-Identifier: Apache-2.0
"""Volumes as files: `images/IMAGE/VOLUME`, `VOLUME.meta`, and `VOLUME.lease` where the domain has volume leases.

Reads and writes them through the domain's I/O child, changes one thing at a time, and decides nothing: what may be
done with a volume is said in `volume_create`, `volume_delete`, `image_*`.
"""

import logging
import re
from typing import Any

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_storage import StorageFileMissing
from vdsm_mp.api.errors_volume import ImageDoesNotExist, VolumeDoesNotExist
from vdsm_mp.api.types import UUID_PATTERN
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.file_facts import FileStat
from vdsm_mp.storage.volume_chain import chain_of, chain_to, children_of
from vdsm_mp.storage.volume_metadata import VolumeMetadata, from_bytes, to_bytes

_log = logging.getLogger("storage.volume")

IMAGES = "images"
META = ".meta"
LEASE = ".lease"
REMOVED = "_remove_me_"
#: The same, to be zeroed first.
REMOVED_ZERO = "_remove_me_ZERO_"
#: Any reader may open a volume through its group; nobody else.
VOLUME_MODE = 0o660
#: More than is ever written: keys that nobody knows count for nothing, but those behind them do.
READ_BYTES = 4096

_UUID = re.compile(UUID_PATTERN)


def image_path(image_id: str) -> str:
    """Relative to the domain."""
    return f"{IMAGES}/{image_id}"


def volume_path(image_id: str, volume_id: str) -> str:
    """Relative to the domain."""
    return f"{IMAGES}/{image_id}/{volume_id}"


class ImageFiles(msgspec.Struct, frozen=True):
    """One image directory as it was read. broken: volumes whose metadata cannot be understood, and why."""

    sd_id: str
    image_id: str
    volumes: dict[str, VolumeMetadata]
    files: dict[str, FileStat]
    broken: dict[str, Error] = msgspec.field(default_factory=dict)

    def metadata(self, volume_id: str) -> VolumeMetadata:
        """Raises: VolumeDoesNotExist, or why its metadata is not understood."""
        if volume_id in self.broken:
            raise self.broken[volume_id]
        try:
            return self.volumes[volume_id]
        except KeyError:
            raise VolumeDoesNotExist(volume_id) from None

    def chain_to(self, volume_id: str) -> list[str]:
        """Base first. Raises: VolumeDoesNotExist, ImageIsNotLegalChain, VolumeMetadataInvalid of one in it."""
        self.metadata(volume_id)
        if self.broken:
            for one in self.volumes.values():
                if one.parent in self.broken:
                    raise self.broken[one.parent]
        return chain_to(self.volumes, self.image_id, volume_id)

    def chain(self) -> list[str]:
        """The whole chain, base first. Raises: ImageDoesNotExist, ImageIsNotLegalChain, VolumeMetadataInvalid."""
        for error in self.broken.values():
            raise error
        return chain_of(self.volumes, self.image_id, self.sd_id)

    def children(self, volume_id: str) -> list[str]:
        return children_of(self.volumes, volume_id)

    def stat(self, volume_id: str) -> FileStat:
        """Raises: VolumeDoesNotExist."""
        found = self.files.get(volume_id)
        if found is None or found.kind != "file":
            raise VolumeDoesNotExist(volume_id)
        return found


def read_image(domain: FileDomain, image_id: str) -> ImageFiles:
    """Everything in an image directory, in one request. Raises: ImageDoesNotExist, storage errors."""
    try:
        entries = domain.io.read_directory(image_path(image_id), META, limit=READ_BYTES)
    except StorageFileMissing:
        raise ImageDoesNotExist(image_id, domain.sd_id) from None
    volumes: dict[str, VolumeMetadata] = {}
    broken: dict[str, Error] = {}
    for entry in entries:
        if entry.data is None:
            continue
        volume_id = entry.path.removesuffix(META)
        if not _UUID.match(volume_id):  # QEMU would take a name like json:… or nbd:… for something else than a file
            _log.warning("%s of image %s is no volume's", entry.path[:100], image_id)
            continue
        try:
            volumes[volume_id] = from_bytes(volume_id, entry.data)
        except Error as e:
            broken[volume_id] = e
    return ImageFiles(domain.sd_id, image_id, volumes, {entry.path: entry.stat for entry in entries}, broken)


def read_volume(domain: FileDomain, image_id: str, volume_id: str) -> tuple[VolumeMetadata, FileStat]:
    """Metadata and stat of one volume. Raises: VolumeDoesNotExist, VolumeMetadataInvalid, storage errors."""
    path = volume_path(image_id, volume_id)
    try:
        data, found = domain.io.read_volume(path, path + META, limit=READ_BYTES)
    except StorageFileMissing:
        raise VolumeDoesNotExist(volume_id) from None
    if found is None or found.kind != "file":
        raise VolumeDoesNotExist(volume_id)
    return from_bytes(volume_id, data), found


def write_metadata(domain: FileDomain, image_id: str, volume_id: str, metadata: VolumeMetadata) -> None:
    """All or nothing. Raises: VolumeMetadataTooLong, storage errors."""
    data = to_bytes(volume_id, metadata, domain.meta.version)
    domain.io.replace(volume_path(image_id, volume_id) + META, data, mode=0o644)


def change_metadata(domain: FileDomain, image_id: str, volume_id: str, **changes: Any) -> VolumeMetadata:
    """Replace some fields; nothing is written when nothing changes. The caller holds the image exclusively."""
    before, _ = read_volume(domain, image_id, volume_id)
    after = replace(before, **changes)
    if after != before:
        write_metadata(domain, image_id, volume_id, after)
    return after


def recheck_leaf(domain: FileDomain, image_id: str, volume_id: str) -> bool:
    """INTERNAL becomes LEAF again when nothing stands on it any more; a template stays what it is. True = is a leaf."""
    image = read_image(domain, image_id)
    metadata = image.metadata(volume_id)
    if metadata.shared or image.children(volume_id):
        return False
    if metadata.voltype != "LEAF":
        write_metadata(domain, image_id, volume_id, replace(metadata, voltype="LEAF"))
    return True


def share(domain: FileDomain, image_id: str, volume_id: str, to_image_id: str) -> None:
    """Hard links of a template's files in another image's directory; links that are there are made anew."""
    source, target = volume_path(image_id, volume_id), volume_path(to_image_id, volume_id)
    suffixes = ("", LEASE, META) if domain.format.volume_leases else ("", META)
    for suffix in suffixes:
        domain.io.link(source + suffix, target + suffix, overwrite=True)


def unlink_volume(domain: FileDomain, image_id: str, volume_id: str) -> None:
    """The volume, then its lease, then its metadata, as far as they are there."""
    path = volume_path(image_id, volume_id)
    for suffix in ("", LEASE, META):
        domain.io.unlink(path + suffix, missing_ok=True)
        domain.io.unlink(f"{path}{suffix}.new", missing_ok=True)


def images_of(domain: FileDomain) -> dict[str, set[str]]:
    """{volume id: images that have it} of the whole domain, images being removed left out."""
    found: dict[str, set[str]] = {}
    for one in domain.io.scan(IMAGES, META):
        _, image_id, name = one.path.split("/")
        if not image_id.startswith(REMOVED):
            found.setdefault(name.removesuffix(META), set()).add(image_id)
    return found
