# SPDX-License-Identifier: Apache-2.0
"""What is known of files, directories and file systems of a domain, as its I/O child tells it."""

from typing import Any

import msgspec


class FileStat(msgspec.Struct, frozen=True):
    """kind: file, dir, link or other. mode: permission bits. Times: seconds since the epoch."""

    kind: str
    size_bytes: int
    allocated_bytes: int
    mode: int
    uid: int
    gid: int
    links: int
    inode: int
    changed_at: float
    modified_at: float


class FsStat(msgspec.Struct, frozen=True):
    """free_bytes: what this user may still write."""

    total_bytes: int
    free_bytes: int
    block_bytes: int


class Entry(msgspec.Struct, frozen=True):
    """kind: file, dir, link or other."""

    name: str
    kind: str


class Scanned(msgspec.Struct, frozen=True):
    """A file found by `scan`; data is None when none was asked for."""

    path: str
    stat: FileStat
    data: bytes | None


def scanned(path: str, row: dict[str, Any]) -> Scanned:
    """From the child's answer; row: the fields of a `FileStat`, and maybe "data", each character one byte."""
    data = row.pop("data", None)
    return Scanned(path, msgspec.convert(row, FileStat), None if data is None else data.encode("latin-1"))
