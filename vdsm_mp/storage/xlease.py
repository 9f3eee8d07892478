# SPDX-License-Identifier: Apache-2.0
"""External leases of a domain by name: find, add, remove, list, rebuild. On disk as `xlease_index` says.

Any host looks up, reading the index from storage each time; only the SPM changes it, one change at a time (the caller's
claim). A lease's place follows from its record's number, never from the offset written in it. A record marked as
being updated counts as absent, and its place is used again.
"""

import logging
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import msgspec

from vdsm_mp.api.errors_lease import LeaseExists, LeaseIndexInvalid, NoRoomForLease, NoSuchLease
from vdsm_mp.api.errors_storage import LockInitFailed
from vdsm_mp.storage.domain_file import XLEASES, FileDomain
from vdsm_mp.storage.locks import Lease
from vdsm_mp.storage.xlease_index import (
    FREE_RECORD,
    HEADER_BYTES,
    INDEX_BYTES,
    MAGIC,
    RECORD_BYTES,
    RECORDS,
    VERSION,
    header,
    record,
)

_log = logging.getLogger("storage.xlease")

_FIRST_SLOT = 3
_RECORD = struct.Struct(">48sx11sxsss")


class LeaseFormatter(Protocol):
    def write_lease(self, lease: Lease) -> None: ...

    def clear_lease(self, lease: Lease) -> None: ...

    def name_at(self, lease: Lease) -> str | None: ...


class Record(msgspec.Struct, frozen=True):
    """number: decides where the lease is."""

    number: int
    lease_id: str
    updating: bool


class Index:
    """The index as it was read. Raises on making: LeaseIndexInvalid.

    updating: accept one that says it is being changed, as whoever puts it in order does.
    """

    def __init__(self, sd_id: str, data: bytes, *, updating: bool = False) -> None:
        if len(data) < INDEX_BYTES:
            raise LeaseIndexInvalid(sd_id, f"it ends after {len(data)} bytes")
        magic, version = struct.unpack_from(">Lx4s", data)
        mtime, state = data[59:69], data[70:71]
        if magic != MAGIC or version != VERSION or not mtime.isdigit():
            raise LeaseIndexInvalid(sd_id, "its header is not one")
        if state != b"-" and not updating:
            raise LeaseIndexInvalid(sd_id, "it was being formatted or rebuilt; rebuild it")
        self.updating = state != b"-"
        #: Whose index it says it is; what stands there matters to VDSM alone.
        self.lockspace = data[10:58].rstrip(b"\0")
        self._data = data

    def raw(self, number: int) -> bytes:
        start = HEADER_BYTES + number * RECORD_BYTES
        return self._data[start : start + RECORD_BYTES]

    def record(self, number: int) -> Record | None:
        """None when the record is free, or not understood."""
        lease_id, _, updating, _, _ = _RECORD.unpack(self.raw(number))
        try:
            name = lease_id.rstrip(b"\0").decode("ascii")
        except UnicodeDecodeError:
            return None
        return Record(number, name, updating == b"u") if name else None

    def find(self, lease_id: str) -> Record | None:
        wanted = lease_id.encode("ascii").ljust(49, b"\0")
        at = HEADER_BYTES
        while (at := self._data.find(wanted, at)) >= 0:
            if (at - HEADER_BYTES) % RECORD_BYTES == 0:
                return self.record((at - HEADER_BYTES) // RECORD_BYTES)
            at += 1
        return None

    def first_free(self) -> int | None:
        """The first record that is exactly free; other bytes may be somebody's."""
        return next((n for n in range(RECORDS) if self.raw(n) == FREE_RECORD), None)

    def all(self) -> list[Record]:
        return [found for n in range(RECORDS) if (found := self.record(n)) is not None]

    def block_with(self, number: int, raw: bytes, block_size: int) -> tuple[int, bytes]:
        """(offset in the index, block) that holds a record, with the record replaced."""
        at = HEADER_BYTES + number * RECORD_BYTES
        start = at - at % block_size
        block = bytearray(self._data[start : start + block_size])
        block[at - start : at - start + RECORD_BYTES] = raw
        return start, bytes(block)

    def first_block_with(self, head: bytes, block_size: int) -> bytes:
        return head + self._data[len(head) : block_size]


def read_index(domain: FileDomain, *, updating: bool = False) -> Index:
    """From storage, past all caches. Raises: LeaseIndexInvalid, storage errors."""
    data = domain.io.read(XLEASES, offset=domain.meta.alignment, length=INDEX_BYTES, direct=True)
    return Index(domain.sd_id, data, updating=updating)


def place_of(domain: FileDomain, number: int, lease_id: str) -> Lease:
    return Lease(lease_id, domain.io.path_of(XLEASES), (_FIRST_SLOT + number) * domain.meta.alignment)


def find(domain: FileDomain, lease_id: str) -> Lease:
    """Raises: NoSuchLease (936), LeaseIndexInvalid, storage errors."""
    found = read_index(domain).find(lease_id)
    if found is None or found.updating:
        raise NoSuchLease(lease_id, domain.sd_id)
    return place_of(domain, found.number, lease_id)


def read_value(domain: FileDomain, lease: Lease) -> bytes:
    """The lease's value block, without taking the lease; empty when the file ends before it.

    sanlock keeps it in the sector behind leader, request and one sector for each possible host (seen with 3.8.5, on
    512-byte sectors). A holder's change is seen once it has let go.
    """
    sector, alignment = domain.meta.block_size, domain.meta.alignment
    hosts = 2000 if sector == 512 else 250 * alignment // 2**20
    return domain.io.read(XLEASES, offset=lease.offset + (2 + hosts) * sector, length=sector, direct=True)


def exists(domain: FileDomain, lease_id: str) -> bool:
    """Raises: LeaseIndexInvalid, storage errors."""
    found = read_index(domain).find(lease_id)
    return found is not None and not found.updating


def add(
    domain: FileDomain, formatter: LeaseFormatter, lease_id: str, fill: Callable[[Lease], None] = lambda lease: None
) -> Lease:
    """A new lease that nobody holds. Cut short, it is absent. fill: puts its value in, before anybody finds it.

    Raises: LeaseExists, NoRoomForLease, LockInitFailed, what `fill` raises.
    """
    index = read_index(domain)
    known = index.find(lease_id)
    if known is not None and not known.updating:
        raise LeaseExists(lease_id, domain.sd_id)
    number = known.number if known is not None else index.first_free()
    if number is None:
        raise NoRoomForLease(domain.sd_id, RECORDS)
    lease = place_of(domain, number, lease_id)
    # The lease before the name: a name always leads to a lease, with all that it was to hold.
    formatter.write_lease(lease)
    fill(lease)
    _write(domain, index, number, record(lease_id, lease.offset, updating=False))
    return lease


def remove(
    domain: FileDomain,
    formatter: LeaseFormatter,
    lease_id: str,
    holding: Callable[[Lease], AbstractContextManager[None]] = lambda lease: nullcontext(),
) -> None:
    """holding: inside, the name goes. Raises: NoSuchLease, what `holding` raises."""
    index = read_index(domain)
    found = index.find(lease_id)
    if found is None:
        raise NoSuchLease(lease_id, domain.sd_id)
    lease = place_of(domain, found.number, lease_id)
    with holding(lease):
        _write(domain, index, found.number, FREE_RECORD)
    try:
        formatter.clear_lease(lease)
    except LockInitFailed as e:  # nobody finds it any more; adding a lease here writes it anew
        _log.warning("lease %s is removed, its place is not cleared: %s", lease_id, e)


def leases(domain: FileDomain) -> dict[str, dict[str, object]]:
    """{lease id: {"offset", "updating"}} of everything that can be read."""
    return {
        one.lease_id: {"offset": place_of(domain, one.number, one.lease_id).offset, "updating": one.updating}
        for one in read_index(domain).all()
    }


def rebuild(domain: FileDomain, formatter: LeaseFormatter) -> None:
    """Make index and leases agree. The index is the truth; a lease it lacks is cleared, one that is missing is made.

    A record whose place the volume does not reach names nothing any more. An index that somebody left while changing it
    can be used again afterwards. Raises: LeaseIndexInvalid (there is no index), LockInitFailed, LockNotInspected (a
    place could not be read; it stays as it is), storage errors.
    """
    index = read_index(domain, updating=True)
    size = domain.io.stat(XLEASES).size_bytes
    names = {one.lease_id for one in index.all()}
    for number in range(RECORDS):
        known = index.record(number)
        place = place_of(domain, number, known.lease_id if known else "")
        after = FREE_RECORD
        if place.offset + domain.meta.alignment <= size:
            after = _agreed(formatter, place, index.raw(number), known, names)
        if after != index.raw(number):
            _log.warning("domain %s: record %d is written anew", domain.sd_id, number)
            _write(domain, read_index(domain, updating=True), number, after)
    if index.updating or index.lockspace != domain.sd_id.encode():
        _finish(domain, read_index(domain, updating=True))


def _agreed(formatter: LeaseFormatter, place: Lease, raw: bytes, known: Record | None, names: set[str]) -> bytes:
    """What the record is to be; the lease at its place is made to say the same."""
    written = formatter.name_at(place)
    if known is not None:
        if written != known.lease_id:
            formatter.write_lease(place)
        # One that was half made stays so: it counts as absent, and may be added again.
        return record(known.lease_id, place.offset, updating=known.updating)
    if raw != FREE_RECORD and written and written not in names:
        return record(written, place.offset, updating=False)
    if written:
        formatter.clear_lease(place)
    return FREE_RECORD


def _finish(domain: FileDomain, index: Index) -> None:
    """The header says that the index may be used."""
    head = header(domain.sd_id, int(time.time()), updating=False)
    domain.io.write(
        XLEASES, index.first_block_with(head, domain.meta.block_size), offset=domain.meta.alignment, direct=True
    )


def _write(domain: FileDomain, index: Index, number: int, raw: bytes) -> None:
    """One block, in place: sanlock's own blocks are next to nothing else."""
    start, block = index.block_with(number, raw, domain.meta.block_size)
    domain.io.write(XLEASES, block, offset=domain.meta.alignment + start, direct=True)
