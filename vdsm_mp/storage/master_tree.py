# SPDX-License-Identifier: Apache-2.0
"""Directories below `master/` as a move of the master takes them along: files two levels below, of tasks and OVFs."""

from collections.abc import Collection

from vdsm_mp.api.errors_storage import StorageFileMissing
from vdsm_mp.storage.domain_file import FileDomain

#: An OVF of the largest VM is far below.
_FILE_LIMIT = 16 * 2**20


def empty(domain: FileDomain, path: str) -> None:
    try:
        found = domain.io.readdir(path)
    except StorageFileMissing:  # it never was master
        return
    for entry in found:
        domain.io.remove_tree(f"{path}/{entry.name}")


def copy(old: FileDomain, new: FileDomain, path: str, only: Collection[str] = ()) -> None:
    """Files two levels below `path`, as tasks and OVFs are; each whole or not at all. only: of these ids, if any."""
    try:
        found = old.io.scan(path)
    except StorageFileMissing:  # a master that never had an SPM
        return
    for one in found:
        if only and one.path.split("/")[-2].partition(".")[0] not in only:
            continue
        new.io.mkdir(one.path.rpartition("/")[0], exist_ok=True)
        new.io.replace(one.path, old.io.read(one.path, limit=_FILE_LIMIT), mode=one.stat.mode)
