# SPDX-License-Identifier: Apache-2.0
"""Rebuilding the master of a pool, and what an old one leaves behind."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.support.pools import add_active_domain, add_domain, leave_unfinished, lock_of, metadata
from tests.support.storage_room import StorageRoom, code_of, new_id
from vdsm_mp.api.errors import Busy
from vdsm_mp.common.errors import Error
from vdsm_mp.storage import pool_master
from vdsm_mp.storage.domain_metadata import parse, serialize
from vdsm_mp.storage.locks import ClusterLock, Lease, LocalLock
from vdsm_mp.tasks.registry import Tasks

pytestmark = needs_program("qemu-img")


@pytest.fixture
def spm(room: StorageRoom) -> StorageRoom:
    return room.make()


def reconstruct_params(room: StorageRoom, master: str, version: int = 5) -> dict[str, Any]:
    return {
        "storagepoolID": room.pool_id,
        "hostId": 1,
        "name": "again",
        "masterSdUUID": master,
        "masterVersion": version,
        "domainDict": {room.sd_id: "attached", master: "active"},
        "lockRenewalIntervalSec": 5,
        "leaseTimeSec": 60,
        "ioOpTimeoutSec": 10,
        "leaseRetries": 3,
    }


def test_a_pool_is_rebuilt_on_another_domain_when_the_master_is_lost(spm: StorageRoom) -> None:
    second = add_active_domain(spm, "second")
    assert code_of(spm.call, "StoragePool.reconstructMaster", **reconstruct_params(spm, second)) == 656
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    shutil.move(spm.domain, spm.root / "lost")
    spm.call("StoragePool.reconstructMaster", **reconstruct_params(spm, second))
    pairs = metadata(spm, "second", second)
    assert (pairs["ROLE"], pairs["MASTER_VERSION"], pairs["POOL_DESCRIPTION"]) == ("Master", "5", "again")
    assert pairs["POOL_DOMAINS"] == f"{spm.sd_id}:Attached,{second}:Active"
    task_id = spm.call(
        "StoragePool.spmStart", storagepoolID=spm.pool_id, prevID=-1, prevLver="-1", enableScsiFencing="false"
    )
    spm.finished(task_id)
    info = spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)
    assert (info["info"]["master_uuid"], info["info"]["master_ver"]) == (second, 5)
    assert set(info["dominfo"]) == {spm.sd_id, second}
    # The lost one comes back and still says that it is master.
    shutil.move(spm.root / "lost", spm.domain)
    assert metadata(spm, "export", spm.sd_id)["ROLE"] == "Master"
    spm.call("StorageDomain.activate", storagepoolID=spm.pool_id, storagedomainID=spm.sd_id)
    eventually(lambda: metadata(spm, "export", spm.sd_id)["ROLE"] == "Regular")


@contextmanager
def nothing_goes(ovf: Path) -> Iterator[None]:
    subprocess.run(["chattr", "+i", ovf], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", ovf], check=True)


@needs_root()
def test_what_an_old_master_has_left_behind_goes_later_and_its_lease_with_it(
    spm: StorageRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_master, "_REPAIR_AFTER_S", 0.2)
    second = add_active_domain(spm, "second")
    task_id = leave_unfinished(spm)
    [ovf] = (spm.domain / "master/vms").rglob("*.ovf")
    with nothing_goes(ovf):
        ids = {"storagepoolID": spm.pool_id, "storagedomainID": spm.sd_id}
        spm.call("StorageDomain.deactivate", **ids, masterSdUUID=second, masterVersion=2)
        assert metadata(spm, "export", spm.sd_id)["ROLE"] == "Regular"
        assert os.listdir(spm.domain / "master/tasks") == [task_id]
    eventually(lambda: os.listdir(spm.domain / "master/tasks") == [])
    lock = spm_lock(spm)
    eventually(lambda: not lock.holds(lock.sdm) and not lock.has_host_id(1))


@needs_root()
def test_the_lease_of_an_old_master_goes_with_the_role(spm: StorageRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left to do is the next SPM's, on whichever host, who needs the lease for it."""
    monkeypatch.setattr(pool_master, "_REPAIR_AFTER_S", 0.2)
    second = add_active_domain(spm, "second")
    spm.call("Task.clear", taskID=leave_unfinished(spm))
    [ovf] = (spm.domain / "master/vms").rglob("*.ovf")
    lock = spm_lock(spm)
    with nothing_goes(ovf):
        ids = {"storagepoolID": spm.pool_id, "storagedomainID": spm.sd_id}
        spm.call("StorageDomain.deactivate", **ids, masterSdUUID=second, masterVersion=2)
        assert lock.holds(lock.sdm)
        spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
        eventually(lambda: not lock.holds(lock.sdm) and not lock.has_host_id(1))


def spm_lock(room: StorageRoom) -> ClusterLock:
    """Of the first domain."""
    return lock_of(room, room.sd_id)


def test_the_role_ends_when_an_engine_comes_with_another_master(spm: StorageRoom) -> None:
    """Another host has rebuilt the pool; the lease that this host has is that of the old master."""
    second = add_active_domain(spm, "second")
    path = spm.root / "second" / second / "dom_md/metadata"
    names = {"storagepoolID": spm.pool_id, "hostID": 1, "scsiKey": "", "masterSdUUID": second, "masterVersion": 2}

    def told_as_free() -> bool:
        path.write_bytes(serialize(second, parse(second, path.read_bytes()) | {"ROLE": "Master"}))
        try:
            spm.call("StoragePool.connect", **names, domainDict={spm.sd_id: "active", second: "active"})
            status = spm.call("StoragePool.getSpmStatus", storagepoolID=spm.pool_id)["spmStatus"]
        except Error:  # the first look at the new domain has just come, and with it the repair of its role
            return False
        return bool(status == "Free")

    eventually(lambda: spm.call("internal.domain_vitals")[second]["actual"])
    eventually(told_as_free)
    assert not spm_lock(spm).holds(spm_lock(spm).sdm)
    start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
    spm.finished(spm.call("StoragePool.spmStart", storagepoolID=spm.pool_id, **start))
    assert metadata(spm, "export", spm.sd_id)["ROLE"] == "Regular"


def test_a_domain_made_master_again_has_no_tasks_of_its_earlier_time(spm: StorageRoom) -> None:
    second = add_active_domain(spm, "second")
    task_id = leave_unfinished(spm)
    stale = spm.root / "second" / second / "master/tasks"
    stale.mkdir(parents=True)
    shutil.copytree(spm.domain / "master/tasks" / task_id, stale / task_id)
    spm.call("Task.clear", taskID=task_id)
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    spm.call("StoragePool.reconstructMaster", **reconstruct_params(spm, second))
    assert os.listdir(stale) == []
    # A domain that was master until now keeps them: they are the pool's.
    (stale / task_id).mkdir()
    spm.call("StoragePool.reconstructMaster", **reconstruct_params(spm, second, version=6))
    assert os.listdir(stale) == [task_id]


def test_tasks_of_a_master_that_another_host_has_rebuilt_meanwhile_stay(
    spm: StorageRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = add_active_domain(spm, "second")
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    path = spm.root / "second" / second
    task = path / "master/tasks" / new_id()
    acquire = LocalLock.acquire

    def another_was_faster(lock: LocalLock, lease: Lease, host_id: int) -> None:
        task.mkdir(parents=True)
        meta = path / "dom_md/metadata"
        meta.write_bytes(serialize(second, parse(second, meta.read_bytes()) | {"ROLE": "Master"}))
        acquire(lock, lease, host_id)

    monkeypatch.setattr(LocalLock, "acquire", another_was_faster)
    spm.call("StoragePool.reconstructMaster", **reconstruct_params(spm, second))
    assert task.is_dir()


def test_a_domain_of_another_pool_does_not_become_master(spm: StorageRoom) -> None:
    stranger = add_domain(spm, "stranger")
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    before = metadata(spm, "stranger", stranger)
    assert code_of(spm.call, "StoragePool.reconstructMaster", **reconstruct_params(spm, stranger)) == 324
    assert metadata(spm, "stranger", stranger) == before


def test_a_role_whose_taking_is_told_as_failed_is_nobodys(spm: StorageRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored tasks that find no thread to be rolled back in are the next SPM's."""
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    start = {"storagepoolID": spm.pool_id, "prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}

    def busy(tasks: Tasks) -> list[str]:
        raise Busy("the background")

    with monkeypatch.context() as patch:
        patch.setattr(Tasks, "recover", busy)
        assert spm.ended(spm.call("StoragePool.spmStart", **start))["message"] == str(Busy("the background"))
    assert spm.call("StoragePool.getSpmStatus", storagepoolID=spm.pool_id)["spmStatus"] == "Free"
    assert not spm_lock(spm).holds(spm_lock(spm).sdm)
    spm.finished(spm.call("StoragePool.spmStart", **start))
