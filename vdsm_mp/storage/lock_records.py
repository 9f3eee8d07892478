# SPDX-License-Identifier: Apache-2.0
"""What sanlock has written in a domain's `ids` and `leases`, for looking only: no lock is taken, no daemon asked.

Read by the domain's I/O child, so a hung domain holds up nobody else. Little-endian records at the start of a sector
(`ids`, one sector for each host) or of a slot (`leases`), as sanlock 3.8 writes them.
"""

import struct
from collections.abc import Iterator
from typing import Any

from vdsm_mp.storage.domain_file import IDS, LEASES, FileDomain

#: magic, version, flags, sector size; hosts, most hosts, owner, generation, version; lockspace, resource; timestamp.
_RECORD = struct.Struct("<IIII QQQQQ 48s48s Q")
_HOST_MAGIC = 0x12212010
_LEASE_MAGIC = 0x06152010
#: VDSM keeps that many for itself in `leases`.
_SLOTS = 100


def lockspace_of(domain: FileDomain) -> list[dict[str, Any]]:
    """Hosts that have ever joined: [{"offset", "lockspace", "resource" (a host's name), "timestamp", "own", "gen"}].

    timestamp: 0 = has left. Empty on a domain without sanlock. Raises: storage errors.
    """
    sector = domain.meta.block_size
    data = domain.io.read(IDS, length=domain.meta.alignment)
    found = []
    for offset in range(0, len(data) - _RECORD.size, sector):
        row = _record(data, offset, _HOST_MAGIC)
        if row is not None:
            del row["lver"]
            found.append(row | {"offset": offset})
    return found


def leases_of(domain: FileDomain) -> list[dict[str, Any]]:
    """Leases in the reserved slots: as hosts, resource being the lease's name, and "lver". Raises: storage errors.

    timestamp: 0 = nobody has it, "own" is who had it last.
    """
    return list(_leases(domain))


def _leases(domain: FileDomain) -> Iterator[dict[str, Any]]:
    alignment = domain.meta.alignment
    slots = min(domain.io.stat(LEASES).size_bytes // alignment, _SLOTS)
    for offset in range(0, slots * alignment, alignment):
        data = domain.io.read(LEASES, offset=offset, length=domain.meta.block_size)
        row = _record(data, 0, _LEASE_MAGIC)
        if row is not None:
            yield row | {"offset": offset}


def _record(data: bytes, at: int, magic: int) -> dict[str, Any] | None:
    """None where there is none, or one that names nobody."""
    if len(data) - at < _RECORD.size:
        return None
    found, *_, owner, generation, version, lockspace, resource, timestamp = _RECORD.unpack_from(data, at)
    if found != magic or not resource.rstrip(b"\0"):
        return None
    return {
        "lockspace": _text(lockspace),
        "resource": _text(resource),
        "timestamp": timestamp,
        "own": owner,
        "gen": generation,
        "lver": version,
    }


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")
