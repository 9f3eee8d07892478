# SPDX-License-Identifier: Apache-2.0
"""Adding a lease is undone, by this SPM or the next: what is stored, what becomes of the index. sanlock is recorded."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sanlock

from tests.support import domains
from tests.support.children import LocalChildren
from vdsm_mp.api.errors_storage import DomainNotFound
from vdsm_mp.api.errors_task import RecoveryInvalid
from vdsm_mp.storage import lease_undo, xlease
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.storage.locks import LocalLock, Locks
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.sanlock import SanlockLock
from vdsm_mp.storage.volume_undo import Undoing
from vdsm_mp.storage.xlease_index import HEADER_BYTES, RECORD_BYTES, record
from vdsm_mp.tasks.record import Recovery, TaskRecord, from_files, to_files

MIB = 2**20
FIRST, SECOND = "237f0858-6179-504e-8e20-c9bbd1511863", "c75eced0-7a2b-57b4-aaab-a30ce4cad30a"
NEW = "11111111-aaaa-4bbb-8ccc-111111111111"
TASK = "22222222-aaaa-4bbb-8ccc-222222222222"


class OneDomain:
    """A `Domains` with this one."""

    def __init__(self, domain: FileDomain) -> None:
        self._domain = domain

    def find(self, sd_id: str) -> FileDomain:
        if sd_id != self._domain.sd_id:
            raise DomainNotFound(sd_id)
        return self._domain


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return domains.unpack(tmp_path)["shared"].root / "dom_md/xleases"


@pytest.fixture
def domain(path: Path, children: LocalChildren) -> Iterator[FileDomain]:
    root = path.parents[1]
    made = FileDomain(root.name, DomainIO(children, "shared", str(root), deadline_s=10))
    yield made
    made.io.close()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, int]]:
    """(name of the lease, offset) of everything that sanlock was told to write."""
    calls: list[tuple[bytes, int]] = []

    def write_resource(lockspace: bytes, name: bytes, disks: list[tuple[str, int]], **options: int) -> None:
        calls.append((name, disks[0][1]))

    monkeypatch.setattr(sanlock, "write_resource", write_resource)
    return calls


def undo(domain: FileDomain, step: Recovery, locks: Locks | None = None) -> None:
    """As whoever is SPM then: by what the task has on storage."""
    stored = {
        name: text.encode() for name, text in to_files(TaskRecord(TASK, "addLease", recoveries=(step,)), "/x").items()
    }
    (step,) = from_files(TASK, stored).recoveries
    locks = locks or Locks(lambda one: SanlockLock(one, 10))
    Undoing(OneDomain(domain), Resources(), locks)(step, TASK)  # type: ignore[arg-type]


def test_a_lease_whose_task_was_cut_short_goes_and_the_others_stay(
    domain: FileDomain, path: Path, written: list[tuple[bytes, int]]
) -> None:
    before = path.read_bytes()
    xlease.add(domain, SanlockLock(domain, 10), NEW)
    assert xlease.exists(domain, NEW)
    for _ in range(2):  # the second time as after a death before the first was stored
        undo(domain, lease_undo.lease_created(domain, NEW))
        assert path.read_bytes() == before
    assert written == [(NEW.encode(), 4 * MIB), (b"", 4 * MIB)]
    assert set(xlease.leases(domain)) == {FIRST, SECOND}


def test_a_lease_that_never_got_its_name_is_no_matter(domain: FileDomain, written: list[tuple[bytes, int]]) -> None:
    undo(domain, lease_undo.lease_created(domain, NEW))
    assert written == []


def test_a_record_that_is_marked_as_half_made_goes(
    domain: FileDomain, path: Path, written: list[tuple[bytes, int]]
) -> None:
    before = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(MIB + HEADER_BYTES + RECORD_BYTES)
        file.write(record(NEW, 4 * MIB, updating=True))
    undo(domain, lease_undo.lease_created(domain, NEW))
    assert path.read_bytes() == before


def test_where_there_are_no_leases_there_is_nothing_to_undo(
    domain: FileDomain, path: Path, written: list[tuple[bytes, int]]
) -> None:
    before = path.read_bytes()
    undo(domain, lease_undo.lease_created(domain, FIRST), Locks(LocalLock))
    assert (path.read_bytes(), written) == (before, [])


def test_a_record_of_before_is_undone_too(domain: FileDomain, path: Path, written: list[tuple[bytes, int]]) -> None:
    before = path.read_bytes()
    xlease.add(domain, SanlockLock(domain, 10), NEW)
    undo(domain, Recovery("create lease rollback", "lease", "Lease", "createLeaseRollback", (domain.sd_id, NEW)))
    assert path.read_bytes() == before


def test_a_step_that_names_no_lease_is_told(domain: FileDomain) -> None:
    step = Recovery("create lease rollback", "lease", "Lease", "createLeaseRollback", (domain.sd_id,))
    with pytest.raises(RecoveryInvalid):
        undo(domain, step)
