# SPDX-License-Identifier: Apache-2.0
"""From one format of a file domain to a later one, in steps that another host may read at any moment.

    3 -> 4    make and format `xleases`                        commit: VERSION=4
    4 -> 5    give every volume's metadata both sets of keys    commit: VERSION=5, BLOCK_SIZE, ALIGNMENT
              then only the new ones (a half of that is as good as all of it)

Interrupted anywhere, it is begun again and ends the same. The caller holds the domain exclusively and its SDM lease.
The version is committed only once every volume was read: one whose metadata make no sense stays as it is, one that
storage does not give now may be whole, and the domain keeps its old version until it is seen.
"""

import logging

from msgspec.structs import replace

from vdsm_mp.api.errors_storage import DomainVersionTooNew, DomainVersionUnsupported, StorageFileExists
from vdsm_mp.api.errors_volume import VOLUME_UNREADABLE, VolumeDoesNotExist, VolumeMetadataTooLong
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_file import XLEASES, FileDomain
from vdsm_mp.storage.domain_format import MIB, UPGRADES
from vdsm_mp.storage.domain_metadata import DomainMetadata
from vdsm_mp.storage.volume_file import META, images_of, read_volume, share, volume_path
from vdsm_mp.storage.volume_metadata import MAX_BYTES, VolumeMetadata, to_bytes
from vdsm_mp.storage.xlease_index import format_index

_log = logging.getLogger("storage.upgrade")

#: Of the volume itself; the next attempt would find the same.
_DAMAGED = (*VOLUME_UNREADABLE, VolumeMetadataTooLong, VolumeDoesNotExist)


def upgrade(domain: FileDomain, target: int) -> None:
    """Bring a domain to version `target`; being there already is fine.

    Raises: DomainVersionTooNew (it is past it), DomainVersionUnsupported, storage errors (it has its old version, or 4
    on the way to 5; ask again).
    """
    meta = domain.refresh()
    if meta.version == target:
        return
    if meta.version > target:
        raise DomainVersionTooNew(domain.sd_id, f"it has version {meta.version}, newer than {target}")
    if target not in UPGRADES.get(meta.version, ()):
        raise DomainVersionUnsupported(domain.sd_id, f"version {meta.version} cannot become {target}")
    if meta.version == 3:
        _add_external_leases(domain, meta)
        domain.change(lambda m: replace(m, version=4))
    if target == 5:
        _rewrite_volumes(domain, both=True)
        domain.change(_version_5)
        _drop_old_keys(domain)
    _log.info("domain %s: upgraded from version %d to %d", domain.sd_id, meta.version, target)


def _add_external_leases(domain: FileDomain, meta: DomainMetadata) -> None:
    if meta.kind.is_local:
        return
    try:
        domain.io.create(XLEASES, mode=0o660)
    except StorageFileExists:
        _log.info("domain %s: the lease area of an interrupted upgrade is used again", domain.sd_id)
    format_index(domain.io, XLEASES, domain.sd_id, meta.block_size, meta.alignment)


def _version_5(meta: DomainMetadata) -> DomainMetadata:
    return replace(meta, version=5, block_size=512, alignment=MIB)


def _drop_old_keys(domain: FileDomain) -> None:
    """Everybody reads the others, too, and whoever next changes a volume drops them: what fails here is no failure."""
    try:
        _rewrite_volumes(domain, both=False)
    except Error as e:
        _log.warning("domain %s: some volumes keep the keys of version 4 besides the new ones: %s", domain.sd_id, e)


def _rewrite_volumes(domain: FileDomain, *, both: bool) -> None:
    """Each volume once, by its own image; other images share it by hard links, which are made anew.

    Raises: storage errors.
    """
    for volume_id, images in images_of(domain).items():
        try:
            metadata, _ = read_volume(domain, min(images), volume_id)
            data = _both_keys(volume_id, metadata) if both else to_bytes(volume_id, metadata, 5)
        except _DAMAGED as e:
            # Left as it is: what it says is not known, and nothing refers to it in the new way.
            _log.warning("domain %s: volume %s is not converted: %s", domain.sd_id, volume_id, e)
            continue
        own = metadata.image_id if metadata.image_id in images else min(images)
        domain.io.replace(volume_path(own, volume_id) + META, data, mode=0o644)
        for image_id in sorted(images - {own}):
            share(domain, own, volume_id, image_id)


def _both_keys(volume_id: str, metadata: VolumeMetadata) -> bytes:
    """Readable as version 4 and as version 5; version 4 alone where both do not fit."""
    old = to_bytes(volume_id, metadata, 4)
    lines = set(old.splitlines()) | set(to_bytes(volume_id, metadata, 5).splitlines())
    lines.discard(b"EOF")
    both = b"\n".join((*sorted(lines), b"EOF")) + b"\n"
    return both if len(both) <= MAX_BYTES else old
