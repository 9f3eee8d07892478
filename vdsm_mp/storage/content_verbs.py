# SPDX-License-Identifier: Apache-2.0
"""Handlers of StorageDomain.* that look into a domain or change its name."""

import fnmatch
import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_lease import LeaseIndexInvalid
from vdsm_mp.api.errors_storage import DomainClassWrong, StorageFileMissing
from vdsm_mp.api.errors_volume import ImageDoesNotExist
from vdsm_mp.api.storage_domain import (
    DumpStorageDomain,
    GetStorageDomainFileStats,
    GetStorageDomainImages,
    GetStorageDomainVolumes,
    SetStorageDomainDescription,
    ValidateStorageDomain,
)
from vdsm_mp.api.types import BLANK, UUID_PATTERN
from vdsm_mp.api.verb import handles
from vdsm_mp.common.errors import Error
from vdsm_mp.storage import lock_records, xlease
from vdsm_mp.storage.domain_file import ISO_IMAGE, FileDomain
from vdsm_mp.storage.domain_format import DomainClass, check_description
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.spm import Spm
from vdsm_mp.storage.volume_file import IMAGES, META, READ_BYTES, REMOVED, images_of, read_image, volume_path
from vdsm_mp.storage.volume_metadata import from_bytes

_UUID = re.compile(UUID_PATTERN)
#: Levels of directories below an ISO domain's image directory that are looked into.
_ISO_DEPTH = 4


@handles(GetStorageDomainImages)
def get_images(ask: GetStorageDomainImages, domains: Domains) -> list[str]:
    domain = domains.find(ask.sd_id)
    return sorted(e.name for e in domain.io.readdir(IMAGES) if e.kind == "dir" and _UUID.match(e.name))


@handles(GetStorageDomainVolumes)
def get_volumes(ask: GetStorageDomainVolumes, domains: Domains) -> list[str]:
    domain = domains.find(ask.sd_id)
    if ask.image_id in (None, BLANK):
        return sorted(images_of(domain))
    try:
        found = read_image(domain, str(ask.image_id))
    except ImageDoesNotExist:
        return []
    return sorted({*found.volumes, *found.broken})


@handles(GetStorageDomainFileStats)
def get_file_stats(ask: GetStorageDomainFileStats, domains: Domains) -> dict[str, Any]:
    """{path below the image directory: {"size", "ctime": text, "status": 0 or the code why it cannot be used}}."""
    domain = domains.find(ask.sd_id)
    if domain.meta.cls is not DomainClass.ISO:
        raise DomainClassWrong(ask.sd_id, "only ISO domains have files of their own")
    found: dict[str, Any] = {}
    _walk(domain, f"{IMAGES}/{ISO_IMAGE}", _ISO_DEPTH, found)
    pattern = ask.pattern if ask.case_sensitive else ask.pattern.lower()
    return {
        name: row
        for name, row in found.items()
        if fnmatch.fnmatchcase(name if ask.case_sensitive else name.lower(), pattern)
    }


def _walk(domain: FileDomain, path: str, depth: int, found: dict[str, Any]) -> None:
    top = f"{IMAGES}/{ISO_IMAGE}/"
    for entry in domain.io.read_directory(path, "", limit=0):
        where = f"{path}/{entry.path}"
        if entry.stat.kind == "dir" and depth > 1:
            _walk(domain, where, depth - 1, found)
        elif entry.stat.kind == "file":
            readable = entry.stat.mode & 0o044
            found[where.removeprefix(top)] = {
                "size": str(entry.stat.size_bytes),
                "ctime": str(entry.stat.changed_at),
                "status": 0 if readable else 469,
            }


@handles(SetStorageDomainDescription)
def set_description(ask: SetStorageDomainDescription, spm: Spm, domains: Domains, resources: Resources) -> None:
    pool_id = spm.require_any().pool_id
    check_description(ask.sd_id, ask.description, domains.find(ask.sd_id).format)
    with resources.claim(
        "StorageDomain.setDescription", shared=(("pool", pool_id),), exclusive=(("domain", ask.sd_id),)
    ):
        spm.require(pool_id)
        domains.find(ask.sd_id).change(lambda meta: replace(meta, name=ask.description))


@handles(ValidateStorageDomain)
def validate(ask: ValidateStorageDomain, domains: Domains) -> None:
    domain = domains.find(ask.sd_id)
    domain.refresh()
    domain.io.statvfs()


@handles(DumpStorageDomain)
def dump(ask: DumpStorageDomain, domains: Domains) -> dict[str, Any]:
    domain = domains.find(ask.sd_id)
    domain.refresh()
    found: dict[str, Any] = {"metadata": msgspec.to_builtins(domain.info()), "volumes": _volumes(domain)}
    if ask.full:
        found |= _locks(domain)
    return found


def _locks(domain: FileDomain) -> dict[str, Any]:
    """What is broken is named in `errors`, the rest is told all the same: that is what a dump is for."""
    parts: dict[str, Callable[[FileDomain], Any]] = {
        "leases": lock_records.leases_of,
        "lockspace": lock_records.lockspace_of,
    }
    if domain.format.external_leases:
        parts["xleases"] = xlease.leases
    found: dict[str, Any] = {}
    for name, read in parts.items():
        try:
            found[name] = read(domain)
        except (LeaseIndexInvalid, StorageFileMissing) as e:
            found.setdefault("errors", {})[name] = str(e)
    return found


def _volumes(domain: FileDomain) -> dict[str, dict[str, Any]]:
    """{volume id: what its metadata says, status OK, INVALID or REMOVED}, in two requests."""
    sizes = {one.path: one.stat for one in domain.io.scan(IMAGES)}
    found: dict[str, dict[str, Any]] = {}
    for one in domain.io.scan(IMAGES, META, data_limit=READ_BYTES):
        _, image_id, name = one.path.split("/")
        volume_id = name.removesuffix(META)
        removed = image_id.startswith(REMOVED)
        row: dict[str, Any] = {"image": image_id.removeprefix(REMOVED)}
        try:
            meta = from_bytes(volume_id, one.data or b"")
        except Error:
            row["status"] = "INVALID"
        else:
            row = {
                "image": meta.image_id.removeprefix(REMOVED),
                "parent": meta.parent,
                "capacity": meta.capacity,
                "format": meta.format,
                "type": meta.type,
                "voltype": meta.voltype,
                "disktype": meta.disk_type,
                "legality": meta.legality,
                "description": meta.description,
                "ctime": meta.ctime,
                "generation": meta.generation,
                "sequence": meta.sequence,
                "status": "REMOVED" if removed else "OK",
            }
        file = sizes.get(volume_path(image_id, volume_id))
        if file is None and not removed:
            row["status"] = "INVALID"
        elif file is not None:
            row |= {"apparentsize": file.size_bytes, "truesize": file.allocated_bytes}
        # A template is met once in every image that uses it; its own image tells of it.
        if volume_id not in found or row["image"] == image_id:
            found[volume_id] = row
    return found
