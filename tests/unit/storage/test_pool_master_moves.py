# SPDX-License-Identifier: Apache-2.0
"""Moving the master of a pool to another domain, whoever takes part."""

import os
import shutil
import threading
from collections.abc import Callable

import msgspec
import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.pools import add_active_domain, add_domain, leave_unfinished, metadata
from tests.support.storage_room import StorageRoom, code_of, new_id
from vdsm_mp.api.errors_storage import IoChildDied, NotSpm, PoolNotConnected, WrongMaster
from vdsm_mp.storage import pool_master
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import Role
from vdsm_mp.storage.domain_metadata import DomainMetadata

pytestmark = needs_program("qemu-img")


@pytest.fixture
def spm(room: StorageRoom) -> StorageRoom:
    return room.make()


def check_moved(room: StorageRoom, second: str, task_id: str) -> None:
    info = room.call("StoragePool.getInfo", storagepoolID=room.pool_id)
    assert (info["info"]["master_uuid"], info["info"]["master_ver"]) == (second, 2)
    assert metadata(room, "second", second)["ROLE"] == "Master"
    assert metadata(room, "export", room.sd_id)["ROLE"] == "Regular"
    tree = room.root / "second" / second / "master"
    assert task_id in os.listdir(tree / "tasks")
    assert len(list((tree / "vms").rglob("*.ovf"))) == 1
    assert os.listdir(room.domain / "master/tasks") == []
    link = room.root / "data-center" / room.pool_id / "mastersd"
    assert link.resolve() == room.root / "second" / second
    assert room.call("Host.getAllTasksStatuses")[task_id]["taskResult"] == "success"
    room.call("Task.clear", taskID=task_id)
    assert task_id not in os.listdir(tree / "tasks")


def test_the_master_moves_with_its_tasks_and_the_role_stays(spm: StorageRoom) -> None:
    second = add_active_domain(spm, "second")
    task_id = leave_unfinished(spm)
    spm.finished(spm.start_switch(second))
    check_moved(spm, second, task_id)
    assert spm.call("StoragePool.getSpmStatus", storagepoolID=spm.pool_id)["spmStatus"] == "SPM"
    spm.create()
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)


def test_a_host_that_lost_the_role_meanwhile_moves_no_master(spm: StorageRoom) -> None:
    second = add_active_domain(spm, "second")
    found = {type(thing).__name__: thing for thing in spm.room.room.state}
    lock = found["Locks"].of(found["Domains"].find(spm.sd_id))
    lock.release(lock.sdm)
    refused = spm.ended(spm.start_switch(second))
    assert refused["code"] == NotSpm.code, refused
    assert metadata(spm, "export", spm.sd_id)["ROLE"] == "Master"
    assert metadata(spm, "second", second)["ROLE"] == "Regular"
    other = found["Locks"].of(found["Domains"].find(second))
    assert not other.holds(other.sdm)


def test_a_host_that_lost_the_role_touches_nothing_of_a_master_that_another_host_has_made(spm: StorageRoom) -> None:
    second = add_active_domain(spm, "second")
    found = {type(thing).__name__: thing for thing in spm.room.room.state}
    lock = found["Locks"].of(found["Domains"].find(spm.sd_id))
    lock.release(lock.sdm)
    new = found["Domains"].find(second)
    new.make_master_tree()
    new.change(lambda meta: msgspec.structs.replace(meta, role=Role.MASTER))
    kept = [spm.root / "second" / second / "master" / folder / new_id() for folder in ("vms", "tasks")]
    for path in kept:
        path.mkdir(parents=True)
    found["MasterMoves"].repair_roles(found["Pools"].state)
    assert metadata(spm, "second", second)["ROLE"] == "Master"
    refused = spm.ended(spm.start_switch(second))
    assert refused["code"] == NotSpm.code, refused
    assert metadata(spm, "second", second)["ROLE"] == "Master"
    assert [path for path in kept if not path.is_dir()] == []
    other = found["Locks"].of(new)
    assert not other.holds(other.sdm)


def test_a_host_that_missed_a_move_does_not_become_spm_of_the_old_master(spm: StorageRoom) -> None:
    """There would be two, and this one would make the new master Regular."""
    second = add_active_domain(spm, "second")
    found = {type(thing).__name__: thing for thing in spm.room.room.state}
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    for sd_id, role in ((second, Role.MASTER), (spm.sd_id, Role.REGULAR)):
        found["Domains"].find(sd_id).change(lambda meta, role=role: msgspec.structs.replace(meta, role=role))
    start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
    ended = spm.ended(spm.call("StoragePool.spmStart", storagepoolID=spm.pool_id, **start))
    assert ended["code"] == WrongMaster.code, ended
    lock = found["Locks"].of(found["Domains"].find(spm.sd_id))
    assert not lock.holds(lock.sdm)
    assert metadata(spm, "second", second)["ROLE"] == "Master"
    # An engine connects it again, and asks again.
    assert code_of(spm.call, "StoragePool.getSpmStatus", storagepoolID=spm.pool_id) == PoolNotConnected.code
    again = {"hostID": 1, "scsiKey": spm.pool_id, "domainDict": {spm.sd_id: "active", second: "active"}}
    with_old = {**again, "masterSdUUID": spm.sd_id, "masterVersion": 1}
    assert code_of(spm.call, "StoragePool.connect", storagepoolID=spm.pool_id, **with_old) == WrongMaster.code
    spm.call("StoragePool.connect", storagepoolID=spm.pool_id, **again, masterSdUUID=second, masterVersion=2)
    assert spm.call("StoragePool.getSpmStatus", storagepoolID=spm.pool_id)["spmStatus"] == "Free"
    spm.finished(spm.call("StoragePool.spmStart", storagepoolID=spm.pool_id, **start))


def test_a_move_whose_last_answer_is_lost_leaves_one_master_and_can_be_asked_for_again(
    spm: StorageRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = add_active_domain(spm, "second")
    task_id = leave_unfinished(spm)
    change = FileDomain.change

    def unanswered(domain: FileDomain, edit: Callable[[DomainMetadata], DomainMetadata]) -> DomainMetadata:
        after = change(domain, edit)
        if domain.sd_id == second and after.role is Role.MASTER:
            raise IoChildDied(second, "replace")
        return after

    with monkeypatch.context() as patch:
        patch.setattr(FileDomain, "change", unanswered)
        moving = spm.start_switch(second)
        assert spm.ended(moving)["taskResult"] == "cleanSuccess"
    spm.call("Task.clear", taskID=moving)
    assert metadata(spm, "second", second)["ROLE"] == "Regular"
    assert os.listdir(spm.root / "second" / second / "master/tasks") == []
    assert task_id in os.listdir(spm.domain / "master/tasks")
    spm.finished(spm.start_switch(second))
    check_moved(spm, second, task_id)


def test_a_master_that_has_moved_stays_moved_though_its_link_cannot_be_made(spm: StorageRoom) -> None:
    second = add_active_domain(spm, "second")
    task_id = leave_unfinished(spm)
    link = spm.root / "data-center" / spm.pool_id / "mastersd"
    link.unlink()
    (link / "in the way").mkdir(parents=True)
    spm.finished(spm.start_switch(second))
    shutil.rmtree(link)
    spm.call("StoragePool.refresh", storagepoolID=spm.pool_id, masterSdUUID=second, masterVersion=2)
    check_moved(spm, second, task_id)


def test_who_looks_at_a_role_does_not_wait_for_a_move(spm: StorageRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_master, "_REPAIR_AFTER_S", 0.2)
    second = add_active_domain(spm, "second")
    found = {type(thing).__name__: thing for thing in spm.room.room.state}
    moves = found["MasterMoves"]
    with moves._moving:
        # Not before: a look of the new domain's may be under way.
        found["Domains"].find(second).change(lambda meta: msgspec.structs.replace(meta, role=Role.MASTER))
        looking = threading.Thread(target=moves.repair_roles, args=(found["Pools"].state,), daemon=True)
        looking.start()
        looking.join(10)
        assert not looking.is_alive()
        assert metadata(spm, "second", second)["ROLE"] == "Master"
    eventually(lambda: metadata(spm, "second", second)["ROLE"] == "Regular")


def test_deactivating_the_master_moves_the_role_first(spm: StorageRoom) -> None:
    second = add_active_domain(spm, "second")
    task_id = leave_unfinished(spm)
    ids = {"storagepoolID": spm.pool_id, "storagedomainID": spm.sd_id}
    spm.call("StorageDomain.deactivate", **ids, masterSdUUID=second, masterVersion=2)
    assert list(spm.call("internal.domain_vitals")) == [second]
    check_moved(spm, second, task_id)
    spm.call("StorageDomain.detach", **ids, masterSdUUID=second, masterVersion=2)


def test_a_master_is_chosen_among_active_data_domains(spm: StorageRoom) -> None:
    iso = add_active_domain(spm, "iso", domainClass=2)
    idle = add_domain(spm, "idle")
    ids = {"storagepoolID": spm.pool_id, "storagedomainID": spm.sd_id, "masterVersion": 2}
    before = metadata(spm, "export", spm.sd_id)
    assert code_of(spm.call, "StorageDomain.deactivate", **ids, masterSdUUID=iso) == 317
    assert code_of(spm.call, "StorageDomain.deactivate", **ids, masterSdUUID=idle) == 353
    spm.call("StorageDomain.attach", storagepoolID=spm.pool_id, storagedomainID=idle)
    assert code_of(spm.call, "StorageDomain.deactivate", **ids, masterSdUUID=idle) == 369
    assert metadata(spm, "export", spm.sd_id) == before
    assert spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)["info"]["master_uuid"] == spm.sd_id
