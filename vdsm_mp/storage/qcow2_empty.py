# SPDX-License-Identifier: Apache-2.0
"""The bytes of an empty qcow2 volume, as `qemu-img create` would lay them out. Pure.

Starting a program costs more than the rest of a volume's creation, so the usual volume needs none. What is unusual is
QEMU's to make: `empty` says None. Layout, in clusters of 64 KiB: header, refcount table, one refcount block, L1 table.
Source: QEMU's docs/interop/qcow2.txt.
"""

import struct

import msgspec

CLUSTER = 64 * 1024
#: What one entry of the L1 table maps, and how many fit into its one cluster: 4 TiB.
_L1_SPAN = CLUSTER // 8 * CLUSTER
_L1_ENTRIES = CLUSTER // 8
#: As many as there are clusters in the layout above, each used once.
_REFCOUNTS = struct.pack(">4H", 1, 1, 1, 1)

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT = 0xE2792ACA
_MAX_NAME = 1023


class Empty(msgspec.Struct, frozen=True):
    """A file of `size_bytes`, zero but for `pieces`, {offset: bytes}."""

    size_bytes: int
    pieces: dict[int, bytes]


def empty(virtual_bytes: int, *, compat: str, backing: str = "", backing_fmt: str = "") -> Empty | None:
    """compat: "0.10" or "1.1". backing: a name to write down. None: not one of the usual volumes."""
    entries = -(-virtual_bytes // _L1_SPAN)
    name = backing.encode()
    if compat not in ("0.10", "1.1") or not 0 < entries <= _L1_ENTRIES or len(name) > _MAX_NAME:
        return None
    extension = _extension(_BACKING_FORMAT, backing_fmt.encode()) if backing else b""
    version, more = (2, b"") if compat == "0.10" else (3, _V3.pack(0, 0, 0, 4, _V2.size + _V3.size))
    tail = more + extension + _extension(0, b"")
    name_at = _V2.size + len(tail) if backing else 0
    header = _V2.pack(
        b"QFI\xfb",
        version,
        name_at,
        len(name),
        CLUSTER.bit_length() - 1,
        virtual_bytes,
        0,  # not encrypted
        entries,
        3 * CLUSTER,  # L1 table
        CLUSTER,  # refcount table …
        1,  # … of one cluster
        0,  # no internal snapshots …
        0,  # … anywhere
    )
    refcount_block_at = struct.pack(">Q", 2 * CLUSTER)
    pieces = {0: header + tail + name, CLUSTER: refcount_block_at, 2 * CLUSTER: _REFCOUNTS}
    return Empty(3 * CLUSTER + 8 * entries, pieces)


def _extension(kind: int, data: bytes) -> bytes:
    return _EXTENSION.pack(kind, len(data)) + data + bytes(-len(data) % 8)
