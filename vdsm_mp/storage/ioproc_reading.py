# SPDX-License-Identifier: Apache-2.0
"""Operations of an I/O child that only look. Rules of all operations: `ioproc_operations.py`."""

import errno
import os
import stat
from typing import Any

from vdsm_mp.storage.ioproc_direct import read_direct
from vdsm_mp.storage.ioproc_facts import entries, readable, stat_fields
from vdsm_mp.storage.ioproc_paths import Root

_MAX_SCAN_BYTES = 256 * 2**20


def stat_(root: Root, path: str) -> dict[str, Any]:
    return stat_fields(root.stat(path))


def statvfs(root: Root) -> dict[str, int]:
    found = root.statvfs()
    return {
        "total_bytes": found.f_frsize * found.f_blocks,
        "free_bytes": found.f_frsize * found.f_bavail,
        "block_bytes": found.f_bsize,
    }


def readdir(root: Root, path: str) -> list[tuple[str, str]]:
    """[(name, kind)], kind as in `entries`; names that are not UTF-8 come with replacement characters."""
    with root.directory(path) as fd:
        return [(readable(entry.name), kind) for entry, kind in entries(fd)]


def scan(root: Root, path: str, suffix: str, data_limit: int) -> list[dict[str, Any]]:
    """Regular files two levels below `path` (DIR/FILE) whose names end with `suffix`, with stat and content.

    data_limit: bytes read of each file; 0 = none. A file that vanishes meanwhile is left out.
    """
    found: list[dict[str, Any]] = []
    with root.directory(path) as top:
        subs = sorted(entry.name for entry, kind in entries(top) if kind == "dir")
    size = 0
    for sub in subs:
        rows = _scan_one(root, f"{path}/{sub}", suffix, data_limit)
        found += rows
        size += sum(len(row.get("data", "")) for row in rows)
        if size > _MAX_SCAN_BYTES:
            raise OSError(errno.EFBIG, "the scan returns too much", path)
    return found


def _scan_one(root: Root, path: str, suffix: str, data_limit: int) -> list[dict[str, Any]]:
    rows = []
    try:
        with root.directory(path) as fd:
            for name in sorted(e.name for e, kind in entries(fd) if kind == "file" and e.name.endswith(suffix)):
                if (row := _scanned(fd, name, data_limit)) is not None:
                    rows.append({**row, "path": readable(f"{path}/{name}")})
    except FileNotFoundError:
        pass  # what was found of a directory that goes is told all the same
    return rows


def _scanned(directory: int, name: str, data_limit: int) -> dict[str, Any] | None:
    """One file by its name in an open directory, None when it vanished. All are looked at, so each costs little."""
    try:
        row = stat_fields(os.stat(name, dir_fd=directory, follow_symlinks=False))
        if data_limit and row["kind"] == "file":
            # Not waiting and not following: what was a file a moment ago may be something else now.
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return None
                row["data"] = os.pread(fd, data_limit, 0).decode("latin-1")
            finally:
                os.close(fd)
    except FileNotFoundError:
        return None
    return row if row["kind"] == "file" else None


def read(root: Root, path: str, offset: int, length: int, direct: bool) -> bytes:
    """Up to `length` bytes from `offset`. direct: past the page cache, where the file system can do that."""
    with root.file(path, os.O_RDONLY | (os.O_DIRECT if direct else 0)) as fd:
        return (read_direct if direct else _read)(fd, offset, length)


def _read(fd: int, offset: int, length: int) -> bytes:
    parts = []
    while length > 0:
        part = os.pread(fd, length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def access(root: Root) -> dict[str, bool]:
    """May this process read, write and search the root? Asked of the kernel (and of the server, on NFS)."""
    with root.directory(".") as fd:
        path = f"/proc/self/fd/{fd}"
        return {
            "read": os.access(path, os.R_OK, effective_ids=True),
            "write": os.access(path, os.W_OK, effective_ids=True),
            "search": os.access(path, os.X_OK, effective_ids=True),
        }
