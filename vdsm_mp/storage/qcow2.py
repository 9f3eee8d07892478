# SPDX-License-Identifier: Apache-2.0
"""What a qcow2 header says, read from its first bytes; nothing here writes one (`qcow2_empty` does). Pure.

A guest can write any header into its disk, so a header is read as untrusted: only what decides whether QEMU would
open another file (backing file, external data file) and the virtual size.
"""

import struct

import msgspec

#: Enough of the file: header, extensions and the backing file's name, which must lie in the first cluster.
HEADER_BYTES = 64 * 1024

_MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQ")
_INCOMPATIBLE_AT = 72
_EXTERNAL_DATA = 1 << 2
_AUTOCLEAR_AT, _HEADER_LENGTH_AT = 88, 100
_BITMAPS_HOLD = 1
_EXTENSION = struct.Struct(">II")
_BITMAPS_EXTENSION = 0x23852875


class NotQcow2(ValueError):
    """The reason is the message."""


class Qcow2Header(msgspec.Struct, frozen=True):
    """backing: name as stored, None without one. external_data: the clusters live in another file."""

    version: int
    virtual_bytes: int
    backing: str | None
    external_data: bool


def read_header(data: bytes) -> Qcow2Header:
    """Raises: NotQcow2."""
    if len(data) < _HEADER.size:
        raise NotQcow2("the file is too short")
    magic, version, backing_at, backing_bytes, _, virtual_bytes = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise NotQcow2("the file does not begin as qcow2 does")
    if version not in (2, 3):
        raise NotQcow2(f"qcow2 version {version}")
    backing = None
    if backing_at:
        raw = data[backing_at : backing_at + backing_bytes]
        if not 1 <= backing_bytes <= 1023 or len(raw) != backing_bytes:
            raise NotQcow2("the name of its backing file is out of bounds")
        backing = raw.decode("utf-8", "replace")
    incompatible = 0
    if version == 3:
        if len(data) < _INCOMPATIBLE_AT + 8:
            raise NotQcow2("the header is cut off")
        (incompatible,) = struct.unpack_from(">Q", data, _INCOMPATIBLE_AT)
    return Qcow2Header(version, virtual_bytes, backing, bool(incompatible & _EXTERNAL_DATA))


def lost_bitmaps(data: bytes) -> bool:
    """There were bitmaps, and a program that changed them was killed so that none of them counts any more.

    QEMU takes its mark away while it writes them, and forgets them for good when it next opens the file for writing.
    """
    if len(data) < _HEADER_LENGTH_AT + 4 or data[:8] != _MAGIC + b"\0\0\0\3":
        return False
    (autoclear,) = struct.unpack_from(">Q", data, _AUTOCLEAR_AT)
    (at,) = struct.unpack_from(">I", data, _HEADER_LENGTH_AT)
    while at + _EXTENSION.size <= len(data):
        kind, length = _EXTENSION.unpack_from(data, at)
        if kind == _BITMAPS_EXTENSION:
            return not autoclear & _BITMAPS_HOLD
        if not kind:
            break
        at += _EXTENSION.size + (length + 7) // 8 * 8
    return False
