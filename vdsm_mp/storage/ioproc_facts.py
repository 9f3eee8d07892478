# SPDX-License-Identifier: Apache-2.0
"""What an I/O child tells the worker of files and directories, and in which words."""

import errno
import os
import stat
from collections.abc import Iterator
from typing import Any

#: More entries than any sane directory; a listing stops being useful long before.
_MAX_ENTRIES = 500_000


def entries(fd: int) -> Iterator[tuple[os.DirEntry[str], str]]:
    """What is in an open directory, with its kind: "file", "dir", "link" or "other". EFBIG when it is too much."""
    with os.scandir(fd) as listing:
        for count, entry in enumerate(listing):
            if count >= _MAX_ENTRIES:
                raise OSError(errno.EFBIG, "too many entries")
            yield entry, _entry_kind(entry)


def entry_names(fd: int) -> list[str]:
    """As the file system has them: what is not UTF-8 has surrogates."""
    return [entry.name for entry, _ in entries(fd)]


def _entry_kind(entry: os.DirEntry[str]) -> str:
    if entry.is_dir(follow_symlinks=False):
        return "dir"
    if entry.is_file(follow_symlinks=False):
        return "file"
    return "link" if entry.is_symlink() else "other"


def _kind(mode: int) -> str:
    for name, test in (("file", stat.S_ISREG), ("dir", stat.S_ISDIR), ("link", stat.S_ISLNK)):
        if test(mode):
            return name
    return "other"


def stat_fields(found: os.stat_result) -> dict[str, Any]:
    """`stat` by names. Times in seconds of the wall clock; kind as in `entries`."""
    return {
        "kind": _kind(found.st_mode),
        "size_bytes": found.st_size,
        "allocated_bytes": found.st_blocks * 512,
        "mode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "links": found.st_nlink,
        "inode": found.st_ino,
        "changed_at": found.st_ctime,
        "modified_at": found.st_mtime,
    }


def readable(name: str) -> str:
    """A name that JSON can carry: what is not UTF-8 becomes replacement characters."""
    return os.fsencode(name).decode("utf-8", "replace")
