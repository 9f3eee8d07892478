# SPDX-License-Identifier: Apache-2.0
"""Moving and rebuilding the master, upgrading formats, and the lesser verbs of pools and domains."""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support import domains as written
from tests.support.background import ThreadBackground
from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.support.storage_room import StorageRoom, code_of, new_id
from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_storage import IoChildDied, NotSpm
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage import pool_master
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import Role
from vdsm_mp.storage.domain_metadata import DomainMetadata, parse, serialize
from vdsm_mp.storage.locks import ClusterLock, Lease, LocalLock
from vdsm_mp.storage.monitors import Monitors
from vdsm_mp.tasks.registry import Tasks

pytestmark = needs_program("qemu-img")


@pytest.fixture
def spm(tmp_path: Path) -> Iterator[StorageRoom]:
    made = StorageRoom(tmp_path)
    made.make()
    yield made
    made.stop()


def add_domain(room: StorageRoom, name: str, *, active: bool = True, **changes: Any) -> str:
    (room.root / name).mkdir()
    row = {"id": name, "connection": f"{room.root}/{name}"}
    room.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=[row])
    sd_id = new_id()
    params = {"domainType": 4, "typeArgs": f"{room.root}/{name}", "name": name, "domainClass": 1, "version": "5"}
    room.call("StorageDomain.create", storagedomainID=sd_id, **(params | changes))
    ids = {"storagepoolID": room.pool_id, "storagedomainID": sd_id}
    if active:
        room.call("StorageDomain.attach", **ids)
        room.call("StorageDomain.activate", **ids)
    return sd_id


def metadata(room: StorageRoom, name: str, sd_id: str) -> dict[str, str]:
    return parse(sd_id, (room.root / name / sd_id / "dom_md/metadata").read_bytes())


def leave_unfinished(room: StorageRoom) -> str:
    """A finished task nobody has cleared, and an OVF."""
    task_id = room.start_create(new_id(), new_id())
    room.ended(task_id)
    vm = new_id()
    (room.domain / "master/vms" / vm).mkdir()
    (room.domain / "master/vms" / vm / f"{vm}.ovf").write_text("<ovf/>")
    return task_id


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
    second = add_domain(spm, "second")
    task_id = leave_unfinished(spm)
    spm.finished(spm.start_switch(second))
    check_moved(spm, second, task_id)
    assert spm.call("StoragePool.getSpmStatus", storagepoolID=spm.pool_id)["spmStatus"] == "SPM"
    spm.create()
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)


def test_a_host_that_lost_the_role_meanwhile_moves_no_master(spm: StorageRoom) -> None:
    second = add_domain(spm, "second")
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
    second = add_domain(spm, "second")
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


def test_a_move_whose_last_answer_is_lost_leaves_one_master_and_can_be_asked_for_again(
    spm: StorageRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = add_domain(spm, "second")
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
    second = add_domain(spm, "second")
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
    second = add_domain(spm, "second")
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
    second = add_domain(spm, "second")
    task_id = leave_unfinished(spm)
    ids = {"storagepoolID": spm.pool_id, "storagedomainID": spm.sd_id}
    spm.call("StorageDomain.deactivate", **ids, masterSdUUID=second, masterVersion=2)
    assert list(spm.call("internal.domain_vitals")) == [second]
    check_moved(spm, second, task_id)
    spm.call("StorageDomain.detach", **ids, masterSdUUID=second, masterVersion=2)


def test_a_master_is_chosen_among_active_data_domains(spm: StorageRoom) -> None:
    iso = add_domain(spm, "iso", domainClass=2)
    idle = add_domain(spm, "idle", active=False)
    ids = {"storagepoolID": spm.pool_id, "storagedomainID": spm.sd_id, "masterVersion": 2}
    before = metadata(spm, "export", spm.sd_id)
    assert code_of(spm.call, "StorageDomain.deactivate", **ids, masterSdUUID=iso) == 317
    assert code_of(spm.call, "StorageDomain.deactivate", **ids, masterSdUUID=idle) == 353
    spm.call("StorageDomain.attach", storagepoolID=spm.pool_id, storagedomainID=idle)
    assert code_of(spm.call, "StorageDomain.deactivate", **ids, masterSdUUID=idle) == 369
    assert metadata(spm, "export", spm.sd_id) == before
    assert spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)["info"]["master_uuid"] == spm.sd_id


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
    second = add_domain(spm, "second")
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
    second = add_domain(spm, "second")
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
    second = add_domain(spm, "second")
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


def lock_of(room: StorageRoom, sd_id: str) -> ClusterLock:
    found = {type(thing).__name__: thing for thing in room.room.room.state}
    lock: ClusterLock = found["Locks"].of(found["Domains"].find(sd_id))
    return lock


def test_the_role_ends_when_an_engine_comes_with_another_master(spm: StorageRoom) -> None:
    """Another host has rebuilt the pool; the lease that this host has is that of the old master."""
    second = add_domain(spm, "second")
    path = spm.root / "second" / second / "dom_md/metadata"
    path.write_bytes(serialize(second, parse(second, path.read_bytes()) | {"ROLE": "Master"}))
    names = {"storagepoolID": spm.pool_id, "hostID": 1, "scsiKey": "", "masterSdUUID": second, "masterVersion": 2}
    spm.call("StoragePool.connect", **names, domainDict={spm.sd_id: "active", second: "active"})
    assert spm.call("StoragePool.getSpmStatus", storagepoolID=spm.pool_id)["spmStatus"] == "Free"
    assert not spm_lock(spm).holds(spm_lock(spm).sdm)
    start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
    spm.finished(spm.call("StoragePool.spmStart", storagepoolID=spm.pool_id, **start))
    assert metadata(spm, "export", spm.sd_id)["ROLE"] == "Regular"


def test_a_domain_made_master_again_has_no_tasks_of_its_earlier_time(spm: StorageRoom) -> None:
    second = add_domain(spm, "second")
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
    second = add_domain(spm, "second")
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
    stranger = add_domain(spm, "stranger", active=False)
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    before = metadata(spm, "stranger", stranger)
    assert code_of(spm.call, "StoragePool.reconstructMaster", **reconstruct_params(spm, stranger)) == 324
    assert metadata(spm, "stranger", stranger) == before


def old_pool(root: Path, version: str) -> StorageRoom:
    return StorageRoom(root).make(version=version)


@pytest.mark.parametrize("version", ["3", "4"])
def test_a_pool_of_an_old_format_works_and_is_upgraded_with_its_volumes(tmp_path: Path, version: str) -> None:
    room = old_pool(tmp_path, version)
    try:
        second = add_domain(room, "second", version=version)
        base_image, base = room.create()
        room.create(base_image, srcImgUUID=base_image, srcVolUUID=base)
        meta = room.image(base_image) / f"{base}.meta"
        text = meta.read_text()
        assert "SIZE=32768\n" in text
        assert "MTIME=0\n" in text
        assert "CAP=" not in text
        before = room.info(base_image, base)
        assert room.call("StorageDomain.getInfo", storagedomainID=room.sd_id)["version"] == version
        assert "BLOCK_SIZE" not in metadata(room, "export", room.sd_id)

        assert room.call("StoragePool.upgrade", storagepoolID=room.pool_id, targetDomVersion=5) == "started"
        pairs = metadata(room, "export", room.sd_id)
        assert (pairs["VERSION"], pairs["BLOCK_SIZE"], pairs["ALIGNMENT"]) == ("5", "512", "1048576")
        eventually(lambda: metadata(room, "second", second)["VERSION"] == "5")
        text = meta.read_text()
        assert f"CAP={16 * 2**20}\n" in text
        assert "SIZE=" not in text
        assert "MTIME=" not in text
        after = room.info(base_image, base)
        assert after == before
        room.create(base_image, srcImgUUID=base_image, srcVolUUID=_leaf(room, base_image))
    finally:
        room.stop()


def test_a_volume_that_cannot_be_written_anew_is_left_as_it_is_by_an_upgrade(tmp_path: Path) -> None:
    room = old_pool(tmp_path, "4")
    try:
        odd_image, odd = room.create()
        good_image, good = room.create()
        meta = room.image(odd_image) / f"{odd}.meta"
        meta.write_text(meta.read_text().replace("GEN=0\n", "GEN=123456\n"))
        before = meta.read_text()
        assert room.call("StoragePool.upgrade", storagepoolID=room.pool_id, targetDomVersion=5) == "started"
        assert metadata(room, "export", room.sd_id)["VERSION"] == "5"
        assert "CAP=" in (room.image(good_image) / f"{good}.meta").read_text()
        assert meta.read_text() == before
        assert room.info(odd_image, odd)["capacity"] == str(16 * 2**20)
    finally:
        room.stop()


def _leaf(room: StorageRoom, image_id: str) -> str:
    volumes = room.call("StorageDomain.getVolumes", storagedomainID=room.sd_id, imageID=image_id)
    [leaf] = [v for v in volumes if room.info(image_id, v)["voltype"] == "LEAF"]
    return str(leaf)


def test_an_upgrade_does_not_wait_for_a_domain_that_was_deactivated_meanwhile(tmp_path: Path) -> None:
    """It is upgraded when it is activated again. Until then the pool could not be upgraded any further."""
    room = old_pool(tmp_path, "3")
    try:
        second = add_domain(room, "second", version="3")
        ids = {"storagepoolID": room.pool_id, "storagedomainID": second}
        (room.root / "second").rename(room.root / "away")
        assert room.call("StoragePool.upgrade", storagepoolID=room.pool_id, targetDomVersion=4) == "started"
        assert code_of(room.call, "StoragePool.upgrade", storagepoolID=room.pool_id, targetDomVersion=5) == 396
        room.call("StorageDomain.deactivate", **ids, masterSdUUID=BLANK, masterVersion=1)
        assert room.call("StoragePool.upgrade", storagepoolID=room.pool_id, targetDomVersion=5) == "started"
        (room.root / "away").rename(room.root / "second")
        assert metadata(room, "second", second)["VERSION"] == "3"
        room.call("StorageDomain.activate", **ids)
        assert metadata(room, "second", second)["VERSION"] == "5"
    finally:
        room.stop()


def test_becoming_spm_with_a_newer_format_upgrades_and_with_an_older_refuses(tmp_path: Path) -> None:
    room = old_pool(tmp_path, "4")
    try:
        room.call("StoragePool.spmStop", storagepoolID=room.pool_id)
        start = {"storagepoolID": room.pool_id, "prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
        assert room.ended(room.call("StoragePool.spmStart", **start, domVersion="3"))["code"] == 395
        assert room.call("StoragePool.getSpmStatus", storagepoolID=room.pool_id)["spmStatus"] == "Free"
        room.finished(room.call("StoragePool.spmStart", **start, domVersion="5"))
        assert metadata(room, "export", room.sd_id)["VERSION"] == "5"
    finally:
        room.stop()


def test_a_newer_domain_is_not_attached_to_an_older_pool_and_an_older_one_is_upgraded(tmp_path: Path) -> None:
    room = old_pool(tmp_path, "4")
    try:
        newer = add_domain(room, "newer", active=False, version="5")
        ids = {"storagepoolID": room.pool_id, "storagedomainID": newer}
        assert code_of(room.call, "StorageDomain.attach", **ids) == 398
        older = add_domain(room, "older", version="3")
        assert metadata(room, "older", older)["VERSION"] == "4"
    finally:
        room.stop()


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


def test_a_domain_is_valid_though_there_is_no_thread_to_look_at_its_role(
    spm: StorageRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ThreadBackground.start

    def full(background: ThreadBackground, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        if threading.current_thread().name.startswith("monitor"):
            refused.append(name)
            raise Busy("the background")
        start(background, name, job, key=key)

    refused: list[str] = []
    told: list[str] = []
    monkeypatch.setattr(ThreadBackground, "start", full)
    monitors = next(one for one in spm.room.room.state if isinstance(one, Monitors))
    monkeypatch.setattr(monitors, "on_verdict", [*monitors.on_verdict, lambda sd_id, valid: told.append(sd_id)])
    second = add_domain(spm, "second")
    found = eventually(lambda: (row := spm.call("Host.getStorageRepoStats")[second])["actual"] and row)
    assert (found["valid"], found["code"]) == (True, 0)
    eventually(lambda: second in told)  # the last of those who listen, which are told behind what vitals read
    assert refused == []


def test_names_are_changed_by_the_spm(spm: StorageRoom) -> None:
    spm.call("StorageDomain.setDescription", storagedomainID=spm.sd_id, description="neu é")
    assert spm.call("StorageDomain.getInfo", storagedomainID=spm.sd_id)["name"] == "neu é"
    bad = {"storagedomainID": spm.sd_id, "description": "two\nlines"}
    assert code_of(spm.call, "StorageDomain.setDescription", **bad) == 753
    spm.call("StoragePool.setDescription", storagepoolID=spm.pool_id, description="neu")
    long = {"storagepoolID": spm.pool_id, "description": "x" * 51}
    assert code_of(spm.call, "StoragePool.setDescription", **long) == 327
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    ok = {"storagedomainID": spm.sd_id, "description": "n"}
    assert code_of(spm.call, "StorageDomain.setDescription", **ok) == 654


def test_domains_are_found_by_what_is_asked(spm: StorageRoom) -> None:
    iso = add_domain(spm, "iso", domainClass=2, active=False)
    find = "Host.getStorageDomains"
    assert spm.call(find) == sorted([spm.sd_id, iso])
    assert spm.call(find, storagepoolID=spm.pool_id) == [spm.sd_id]
    assert spm.call(find, domainClass=2, storageType=4) == [iso]
    assert spm.call(find, storageType=1) == []
    assert spm.call(find, remotePath=f"{spm.root}//iso/") == [iso]
    assert spm.call("Host.getConnectedStoragePools") == [spm.pool_id]


def test_a_domain_is_watched_until_everybody_who_asked_stops(spm: StorageRoom) -> None:
    other = add_domain(spm, "other", active=False)
    stats = "Host.getStorageRepoStats"
    spm.call("Host.startMonitoringDomain", sdUUID=other, hostID=1)
    spm.call("Host.startMonitoringDomain", sdUUID=spm.sd_id, hostID=1)
    assert set(spm.call(stats)) == {spm.sd_id, other}
    eventually(lambda: spm.call(stats, domains=[other])[other]["actual"])
    assert list(spm.call(stats, domains=[other])) == [other]
    spm.call("Host.stopMonitoringDomain", sdUUID=other)
    spm.call("Host.stopMonitoringDomain", sdUUID=spm.sd_id)
    assert list(spm.call(stats)) == [spm.sd_id]
    spm.call("Host.stopMonitoringDomain", sdUUID=other)


def test_a_domain_that_nobody_watches_any_more_is_not_joined_by_a_check_that_was_under_way(
    spm: StorageRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id would be held for good, and its file system could not be unmounted."""
    other = add_domain(spm, "other", active=False)
    lock, request = lock_of(spm, other), LocalLock.request_host_id

    def stopped_just_before(one: LocalLock, host_id: int) -> None:
        if one is lock:
            spm.call("Host.stopMonitoringDomain", sdUUID=other)
            asked.set()
        request(one, host_id)

    asked = threading.Event()
    monkeypatch.setattr(LocalLock, "request_host_id", stopped_just_before)
    spm.call("Host.startMonitoringDomain", sdUUID=other, hostID=1)
    assert asked.wait(10)
    eventually(lambda: not lock.has_host_id(1))
    assert other not in spm.call("Host.getStorageRepoStats", domains=[])


def test_files_of_an_iso_domain_are_listed(spm: StorageRoom) -> None:
    iso = add_domain(spm, "iso", domainClass=2)
    files = spm.root / "iso" / iso / "images/11111111-1111-1111-1111-111111111111"
    (files / "sub").mkdir()
    for name in ("Debian.ISO", "sub/b.iso", "notes.txt"):
        (files / name).write_bytes(b"12345")
    (files / "private.iso").touch(mode=0o600)
    (files / "link.iso").symlink_to("/etc/passwd")
    stats = "StorageDomain.getFileStats"
    found = spm.call(stats, storagedomainID=iso, pattern="*.iso", caseSensitive=False)
    assert set(found) == {"Debian.ISO", "sub/b.iso", "private.iso"}
    assert (found["sub/b.iso"]["size"], found["sub/b.iso"]["status"]) == ("5", 0)
    assert found["private.iso"]["status"] == 469
    assert set(spm.call(stats, storagedomainID=iso, pattern="*.iso", caseSensitive=True)) == {
        "sub/b.iso",
        "private.iso",
    }
    assert code_of(spm.call, stats, storagedomainID=spm.sd_id, pattern="*", caseSensitive=True) == 386
    eventually(lambda: spm.call("internal.domain_vitals")[iso]["actual"])
    prefix = spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)["info"]["isoprefix"]
    assert Path(prefix).resolve() == files


def contents(root: Path) -> dict[Path, tuple[Any, ...]]:
    """What each file is; of the large ones, which are mostly holes, when they were written."""
    found: dict[Path, tuple[Any, ...]] = {}
    for path in root.rglob("*"):
        stats = path.lstat()
        small = path.is_file() and stats.st_size < 2**20
        found[path] = (stats.st_mode, stats.st_size, stats.st_mtime_ns, path.read_bytes() if small else None)
    return found


@pytest.mark.parametrize("which", ["export", "shared"])
def test_what_vdsm_wrote_is_listed_and_dumped_as_vdsm_does(tmp_path: Path, which: str) -> None:
    theirs = written.unpack(tmp_path)[which]
    room = StorageRoom(tmp_path)
    try:
        row = {"id": "x", "connection": str(theirs.root.parent)}
        room.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=[row])
        before = contents(theirs.root)
        info = room.call("StorageDomain.getInfo", storagedomainID=theirs.sd_id)
        assert theirs.facts["info"].items() <= info.items()
        assert info["remotePath"] == theirs.facts["domain"]["remote_path"]
        ids = {"storagedomainID": theirs.sd_id}
        assert room.call("StorageDomain.getImages", **ids) == sorted(theirs.facts["images"])
        assert room.call("StorageDomain.getVolumes", **ids) == sorted(theirs.facts["volumes"])
        image, chain = next((i, c) for i, c in theirs.facts["chains"].items() if len(c) == 3)
        assert room.call("StorageDomain.getVolumes", **ids, imageID=image) == sorted(chain)
        room.call("StorageDomain.validate", **ids)
        dump = room.call("StorageDomain.dump", sd_id=theirs.sd_id)
        assert {v: row["status"] for v, row in dump["volumes"].items()} == theirs.facts["dump_statuses"]
        assert set(dump) == {"metadata", "volumes"}
        full = room.call("StorageDomain.dump", sd_id=theirs.sd_id, full=True)
        assert dump.items() <= full.items()
        assert full.get("xleases", {}) == theirs.facts["xleases"]
        assert (full["lockspace"], "errors" in full) == ([], False)
        assert full["leases"] == theirs.facts.get("sdm", [])
        for volume_id, facts in theirs.facts["volumes"].items():
            row = dump["volumes"][volume_id]
            for key in ("capacity", "description", "format", "generation", "legality", "parent", "type", "voltype"):
                assert row[key] == facts[key], (volume_id, key)
        assert contents(theirs.root) == before
    finally:
        room.stop()


def test_the_pool_vdsm_made_is_joined_and_its_tasks_are_kept(tmp_path: Path) -> None:
    theirs = written.unpack(tmp_path)["export"]
    pool_id = theirs.facts["info"]["pool"][0]
    room = StorageRoom(tmp_path)
    try:
        row = {"id": "x", "connection": str(theirs.root.parent)}
        room.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=[row])
        ids = {"storagepoolID": pool_id, "hostID": 1, "scsiKey": "", "masterSdUUID": theirs.sd_id, "masterVersion": 1}
        room.call("StoragePool.connect", **ids)
        start = {"storagepoolID": pool_id, "prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
        task_id = room.call("StoragePool.spmStart", **start)
        room.finished(task_id)
        info = room.call("StoragePool.getInfo", storagepoolID=pool_id)
        assert info["info"]["name"] == "fixture pool"
        assert {sd: row["status"] for sd, row in info["dominfo"].items()} == theirs.facts["pool_decoded"][
            "POOL_DOMAINS"
        ]
        assert len(room.call("Host.getAllTasksStatuses")) == 3
    finally:
        room.stop()
