# SPDX-License-Identifier: Apache-2.0
"""The index of a domain's `xleases` area: bytes of header and records, and formatting it. Format as VDSM's.

Slots of `alignment` bytes: 0 unused lockspace, 1 this index, 2 sanlock's own, from 3 on one lease each.
"""

import struct
import time

from vdsm_mp.storage.domain_io import DomainIO

MAGIC = 0x12152016
VERSION = b"0001"
HEADER_BYTES = 512
RECORD_BYTES = 64
RECORDS = 3960
INDEX_BYTES = HEADER_BYTES + RECORDS * RECORD_BYTES
_ID_BYTES = 48

#: Searched byte for byte by every host, so written exactly so.
FREE_RECORD = bytes(_ID_BYTES) + b"\0" + b"0" * 11 + b"\0" + b"--\n"


def header(lockspace: str, mtime: int, *, updating: bool) -> bytes:
    """512 bytes. updating: the index must not be used (yet)."""
    head = struct.pack(
        ">Lx4sx48sx10sxs", MAGIC, VERSION, lockspace.encode("ascii"), b"%010d" % mtime, b"u" if updating else b"-"
    )
    return head.ljust(HEADER_BYTES - 1, b"\0") + b"\n"


def record(lease_id: str, offset: int, *, updating: bool) -> bytes:
    """64 bytes of a used record."""
    return struct.pack(
        ">48sx11sxsss", lease_id.encode("ascii"), b"%011d" % offset, b"u" if updating else b"-", b"-", b"\n"
    )


def format_index(io: DomainIO, path: str, lockspace: str, block_size: int, alignment: int) -> None:
    """Every record free. The header says `updating` until the rest is written: half a format is refused."""
    now = int(time.time())
    body = header(lockspace, now, updating=True) + FREE_RECORD * RECORDS
    io.write(path, body, offset=alignment, direct=True)
    first = header(lockspace, now, updating=False) + body[HEADER_BYTES:block_size]
    io.write(path, first, offset=alignment, direct=True)
