# SPDX-License-Identifier: Apache-2.0
"""Host ids with a real sanlock: what was taken for a moment is given back, whatever becomes of that moment."""

from pathlib import Path

import pytest
import sanlock

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from vdsm_mp.api.errors_storage import HostIdNotAcquired, LockNotInspected
from vdsm_mp.storage.locks import TEMPORARY_HOST_ID, Lease
from vdsm_mp.storage.sanlock import SanlockLock
from vdsm_mp.storage.sdm_lease import sdm_held

pytestmark = [pytest.mark.system, needs_program("sanlock"), pytest.mark.timeout(90)]


def ids_of(lock: SanlockLock) -> list[int]:
    """Host ids this host has, or is about to, in the domain."""
    return [one["host_id"] for one in sanlock.get_lockspaces() if one["path"] == _ids(lock)]


def _ids(lock: SanlockLock) -> str:
    return str(Path(lock.sdm.path).with_name("ids"))


def earlier_life(lock: SanlockLock, host_id: int) -> None:
    """A worker took it and was killed: the daemon keeps it."""
    name = Path(lock.sdm.path)
    found = sanlock.read_resource(str(name), lock.sdm.offset)["lockspace"]
    sanlock.add_lockspace(found, host_id, _ids(lock), iotimeout=1)


def test_an_id_taken_for_a_change_is_given_back_unless_the_domain_is_watched(lock: SanlockLock) -> None:
    """Also one that a worker had taken who was killed in such a change."""
    earlier_life(lock, 1)
    for watched in (True, False):
        with sdm_held(lock, 1, lambda watched=watched: watched):  # type: ignore[misc]
            assert lock.holds(lock.sdm)
            assert ids_of(lock) == [1]
        assert not lock.holds(lock.sdm)
        assert ids_of(lock) == ([1] if watched else [])


def test_a_temporary_id_that_a_killed_worker_has_left_keeps_no_host_out(lock: SanlockLock) -> None:
    """It died while it made a pool; with that id in the lockspace sanlock gives no other one, until the next reboot."""
    earlier_life(lock, TEMPORARY_HOST_ID)
    lock.acquire(lock.sdm, TEMPORARY_HOST_ID)
    with pytest.raises(HostIdNotAcquired):  # it is in use
        lock.wait_host_id(1)
    assert lock.holds(lock.sdm)
    lock.release(lock.sdm)
    lock.wait_host_id(1)
    assert ids_of(lock) == [1]


def test_an_id_that_comes_when_nobody_waits_for_it_any_more_is_given_back(lock: SanlockLock) -> None:
    with pytest.raises(HostIdNotAcquired, match=r"not within 0\.2 s"):
        lock.wait_host_id(1, within_s=0.2, wanted=lambda: False)
    assert ids_of(lock) == [1]
    eventually(lambda: ids_of(lock) == [], within_s=40)


def test_a_place_that_cannot_be_read_is_not_taken_for_one_without_a_lease(lock: SanlockLock) -> None:
    """Who puts the index of leases in order would write there, and somebody may hold what is there."""
    assert lock.name_at(Lease("", lock.sdm.path, 0)) is None
    assert lock.name_at(lock.sdm) == "SDM"
    with pytest.raises(LockNotInspected):
        lock.name_at(Lease("", f"{lock.sdm.path}-gone", 0))
