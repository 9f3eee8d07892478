# SPDX-License-Identifier: Apache-2.0
"""What a start finds in the repository of pools that this host is in no more: links, which are never followed."""

import logging
import os
import re

from vdsm_mp.api.types import UUID_PATTERN

_log = logging.getLogger("storage.pool")

_UUID = re.compile(UUID_PATTERN)


def sweep_links(repository: str, *, keep: str) -> None:
    """Links of pools that this host has left, by a crash or a reboot, and links that were being replaced.

    Only links are removed, and the directories that held nothing else; none is followed, so nothing here can hang.
    """
    for entry in _listing(repository):
        if not _UUID.match(entry.name) or entry.name == keep:
            continue
        try:
            if entry.is_symlink():
                os.unlink(entry.path)  # noqa: PTH108 -- the link, not what it names
            elif entry.is_dir(follow_symlinks=False):
                for link in _listing(entry.path):
                    if link.is_symlink():
                        os.unlink(link.path)  # noqa: PTH108
                os.rmdir(entry.path)  # noqa: PTH106
        except OSError as e:
            _log.warning("%s stays: %s", entry.path, e.strerror)


def _listing(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
