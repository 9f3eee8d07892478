# SPDX-License-Identifier: Apache-2.0
"""External leases: VDSM's index read and changed, with the sanlock part recorded; mutants refused."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import domains
from tests.support.children import LocalChildren
from vdsm_mp.api.errors_lease import LeaseExists, LeaseIndexInvalid, NoRoomForLease, NoSuchLease
from vdsm_mp.api.errors_storage import LockInitFailed
from vdsm_mp.storage import xlease
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.storage.locks import Lease
from vdsm_mp.storage.xlease_index import FREE_RECORD, HEADER_BYTES, RECORD_BYTES, record

MIB = 2**20
FIRST, SECOND = "237f0858-6179-504e-8e20-c9bbd1511863", "c75eced0-7a2b-57b4-aaab-a30ce4cad30a"
NEW = "11111111-aaaa-4bbb-8ccc-111111111111"


class Formatter:
    """sanlock's part, remembered: {offset: name}."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = dict(names)

    def write_lease(self, lease: Lease) -> None:
        self.names[lease.offset] = lease.name

    def clear_lease(self, lease: Lease) -> None:
        self.names.pop(lease.offset, None)

    def name_at(self, lease: Lease) -> str | None:
        return self.names.get(lease.offset)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    shared = domains.unpack(tmp_path)["shared"]
    return shared.root / "dom_md/xleases"


@pytest.fixture
def domain(path: Path, children: LocalChildren) -> Iterator[FileDomain]:
    root = path.parents[1]
    made = FileDomain(root.name, DomainIO(children, "shared", str(root), deadline_s=10))
    yield made
    made.io.close()


@pytest.fixture
def formatter() -> Formatter:
    return Formatter({3 * MIB: FIRST, 5 * MIB: SECOND})


def poke(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(MIB + at)
        file.write(data)


def test_leases_of_vdsm_are_found_where_they_are(domain: FileDomain) -> None:
    assert xlease.leases(domain) == {
        FIRST: {"offset": 3 * MIB, "updating": False},
        SECOND: {"offset": 5 * MIB, "updating": False},
    }
    assert xlease.find(domain, SECOND).offset == 5 * MIB
    with pytest.raises(NoSuchLease):
        xlease.find(domain, NEW)


def test_a_lease_takes_the_first_free_place_and_leaves_it_as_it_was(
    domain: FileDomain, path: Path, formatter: Formatter
) -> None:
    before = path.read_bytes()
    lease = xlease.add(domain, formatter, NEW)
    assert (lease.name, lease.offset) == (NEW, 4 * MIB)
    assert formatter.names[4 * MIB] == NEW
    assert xlease.find(domain, NEW) == lease
    at = MIB + HEADER_BYTES + RECORD_BYTES
    changed = before[:at] + record(NEW, 4 * MIB, updating=False) + before[at + RECORD_BYTES :]
    assert path.read_bytes() == changed
    with pytest.raises(LeaseExists):
        xlease.add(domain, formatter, NEW)
    xlease.remove(domain, formatter, NEW)
    assert path.read_bytes() == before
    assert 4 * MIB not in formatter.names
    with pytest.raises(NoSuchLease):
        xlease.remove(domain, formatter, NEW)


def test_nobody_finds_a_lease_before_it_has_what_it_is_to_hold(domain: FileDomain, formatter: Formatter) -> None:
    def fail(lease: Lease) -> None:
        assert formatter.names[lease.offset] == NEW
        raise LockInitFailed("sd", NEW, "no")

    with pytest.raises(LockInitFailed):
        xlease.add(domain, formatter, NEW, fail)
    assert not xlease.exists(domain, NEW)
    xlease.add(domain, formatter, NEW)
    assert xlease.exists(domain, NEW)


def test_a_record_that_was_being_changed_counts_as_absent_and_is_used_again(
    domain: FileDomain, path: Path, formatter: Formatter
) -> None:
    poke(path, HEADER_BYTES, record(FIRST, 3 * MIB, updating=True))
    with pytest.raises(NoSuchLease):
        xlease.find(domain, FIRST)
    assert xlease.leases(domain)[FIRST]["updating"] is True
    assert xlease.add(domain, formatter, FIRST).offset == 3 * MIB
    assert xlease.find(domain, FIRST).offset == 3 * MIB


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: poke(path, 0, struct.pack(">L", 0x12152017)),
        lambda path: poke(path, 5, b"0002"),
        lambda path: poke(path, 59, b"yesterday!"),
        lambda path: poke(path, 0, bytes(512)),
        lambda path: path.write_bytes(path.read_bytes()[: MIB + 1000]),
        lambda path: path.write_bytes(b""),
    ],
    ids=["magic", "version", "mtime", "zeros", "truncated", "empty"],
)
def test_a_damaged_index_is_refused_and_not_touched(
    domain: FileDomain, path: Path, formatter: Formatter, damage: object
) -> None:
    damage(path)  # type: ignore[operator]
    before = path.read_bytes()
    for call in (
        lambda: xlease.find(domain, FIRST),
        lambda: xlease.add(domain, formatter, NEW),
        lambda: xlease.remove(domain, formatter, FIRST),
        lambda: xlease.leases(domain),
        lambda: xlease.rebuild(domain, formatter),
    ):
        with pytest.raises(LeaseIndexInvalid):
            call()
    assert path.read_bytes() == before


def test_a_record_of_garbage_hides_only_itself(domain: FileDomain, path: Path, formatter: Formatter) -> None:
    poke(path, HEADER_BYTES + RECORD_BYTES, b"\xff" * RECORD_BYTES)
    assert set(xlease.leases(domain)) == {FIRST, SECOND}
    assert xlease.add(domain, formatter, NEW).offset == 6 * MIB
    assert xlease.find(domain, SECOND).offset == 5 * MIB


def test_a_name_written_across_two_records_is_not_found(domain: FileDomain, path: Path) -> None:
    poke(path, HEADER_BYTES + RECORD_BYTES + 10, NEW.encode() + bytes(20))
    with pytest.raises(NoSuchLease):
        xlease.find(domain, NEW)


def test_a_full_index_says_so(domain: FileDomain, path: Path, formatter: Formatter) -> None:
    poke(path, HEADER_BYTES, b"".join(record(f"lease-{number}", 0, updating=False) for number in range(3960)))
    with pytest.raises(NoRoomForLease):
        xlease.add(domain, formatter, NEW)


def test_rebuilding_makes_leases_follow_the_index(domain: FileDomain, path: Path) -> None:
    poke(path, HEADER_BYTES, record(FIRST, 99, updating=True))
    poke(path, HEADER_BYTES + RECORD_BYTES, b"\xff" * RECORD_BYTES)
    formatter = Formatter({4 * MIB: NEW, 5 * MIB: "another-name"})
    xlease.rebuild(domain, formatter)
    assert formatter.names == {3 * MIB: FIRST, 4 * MIB: NEW, 5 * MIB: SECOND}
    assert set(xlease.leases(domain)) == {FIRST, SECOND, NEW}
    raw = path.read_bytes()[MIB + HEADER_BYTES + 3 * RECORD_BYTES :]
    assert raw.startswith(FREE_RECORD)
    again = path.read_bytes()
    xlease.rebuild(domain, formatter)
    assert path.read_bytes() == again


def test_a_lease_that_was_half_made_is_absent_after_rebuilding_as_before(
    domain: FileDomain, path: Path, formatter: Formatter
) -> None:
    """As for VDSM: an engine that was told of a failure adds it again, and would be refused."""
    poke(path, HEADER_BYTES, record(FIRST, 3 * MIB, updating=True))
    xlease.rebuild(domain, formatter)
    with pytest.raises(NoSuchLease):
        xlease.find(domain, FIRST)
    assert xlease.add(domain, formatter, FIRST).offset == 3 * MIB


def test_an_index_that_names_another_domain_names_this_one_after_rebuilding(
    domain: FileDomain, path: Path, formatter: Formatter
) -> None:
    """VDSM takes the name of the lockspace from there."""
    records = path.read_bytes()[MIB + HEADER_BYTES :]
    poke(path, 10, b"\xff")
    xlease.rebuild(domain, formatter)
    assert path.read_bytes()[MIB + 10 : MIB + 58].rstrip(b"\0") == domain.sd_id.encode()
    assert path.read_bytes()[MIB + HEADER_BYTES :] == records


def test_an_index_that_was_left_while_it_was_changed_waits_for_a_rebuild(
    domain: FileDomain, path: Path, formatter: Formatter
) -> None:
    poke(path, 70, b"u")
    for call in (
        lambda: xlease.find(domain, FIRST),
        lambda: xlease.add(domain, formatter, NEW),
        lambda: xlease.remove(domain, formatter, FIRST),
        lambda: xlease.leases(domain),
    ):
        with pytest.raises(LeaseIndexInvalid, match="rebuild"):
            call()
    records = path.read_bytes()[MIB + HEADER_BYTES :]
    xlease.rebuild(domain, formatter)
    assert set(xlease.leases(domain)) == {FIRST, SECOND}
    assert path.read_bytes()[MIB + HEADER_BYTES :] == records
    assert path.read_bytes()[MIB + 10 : MIB + 58].rstrip(b"\0") == domain.sd_id.encode()


def test_a_record_beyond_the_end_of_the_volume_is_freed(domain: FileDomain, path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(5 * MIB)
    formatter = Formatter({3 * MIB: FIRST})
    xlease.rebuild(domain, formatter)
    assert set(xlease.leases(domain)) == {FIRST}
    assert formatter.names == {3 * MIB: FIRST}
    assert path.read_bytes()[MIB + HEADER_BYTES + 2 * RECORD_BYTES :].startswith(FREE_RECORD)
