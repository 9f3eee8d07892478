# SPDX-License-Identifier: Apache-2.0
"""OVFs of VMs as files on the master and on an export domain, and the search for an image."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.storage_room import StorageRoom, code_of, new_id
from vdsm_mp.api.errors import InvalidParameters
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.errors import Error
from vdsm_mp.storage import ovf_verbs
from vdsm_mp.storage.resources import Resources


@pytest.fixture(scope="module")
def export(spm: StorageRoom) -> str:
    """An active export domain; its id."""
    return spm.add_domain(domain_class=3)


def vms(spm: StorageRoom, sd_id: str) -> Path:
    return spm.domain_of(sd_id) / "master/vms"


def update(spm: StorageRoom, sd_id: str | None, **ovfs: str) -> None:
    rows = [{"vm": vm_id, "ovf": ovf, "imglist": f"{new_id()},{new_id()}"} for vm_id, ovf in ovfs.items()]
    spm.call("StoragePool.updateVMs", storagepoolID=spm.pool_id, vmList=rows, storagedomainID=sd_id)


def listed(spm: StorageRoom, sd_id: str) -> list[str]:
    found: list[str] = spm.call("StoragePool.getBackedUpVmsList", storagepoolID=spm.pool_id, storagedomainID=sd_id)
    return found


def read(spm: StorageRoom, sd_id: str, *vm_ids: str) -> dict[str, str]:
    found: dict[str, str] = spm.call(
        "StoragePool.getBackedUpVmsInfo", storagepoolID=spm.pool_id, storagedomainID=sd_id, vmList=list(vm_ids)
    )
    return found


def remove(spm: StorageRoom, sd_id: str | None, vm_id: str) -> None:
    spm.call("StoragePool.removeVM", storagepoolID=spm.pool_id, vmUUID=vm_id, storagedomainID=sd_id)


def test_what_is_stored_on_an_export_domain_is_listed_read_replaced_and_removed(spm: StorageRoom, export: str) -> None:
    one, two = sorted((new_id(), new_id()))
    update(spm, export, **{two: "<ovf>zwei ü</ovf>", one: "x" * 200_000})
    assert listed(spm, export) == [one, two]
    assert read(spm, export, two) == {two: "<ovf>zwei ü</ovf>"}
    update(spm, export, **{one: "<ovf>shorter</ovf>"})
    assert read(spm, export) == {one: "<ovf>shorter</ovf>", two: "<ovf>zwei ü</ovf>"}
    assert [p.name for p in (vms(spm, export) / one).iterdir()] == [f"{one}.ovf"]
    assert (vms(spm, export) / one / f"{one}.ovf").stat().st_mode & 0o777 == 0o644
    remove(spm, export, one)
    remove(spm, export, one)
    assert listed(spm, export) == [two]
    assert code_of(read, spm, export, two, one) == 320
    remove(spm, export, two)
    assert list(vms(spm, export).iterdir()) == []


@pytest.mark.parametrize("asked", [None, BLANK])
def test_without_a_domain_the_master_is_meant(spm: StorageRoom, asked: str | None) -> None:
    vm_id = new_id()
    update(spm, asked, **{vm_id: "<ovf/>"})
    assert (vms(spm, spm.sd_id) / vm_id / f"{vm_id}.ovf").read_text() == "<ovf/>"
    assert read(spm, BLANK) == {vm_id: "<ovf/>"} == read(spm, spm.sd_id, vm_id)
    remove(spm, asked, vm_id)
    assert listed(spm, spm.sd_id) == []


def test_only_whole_files_of_vms_count(spm: StorageRoom, export: str) -> None:
    vm_id, half = new_id(), new_id()
    update(spm, export, **{vm_id: "<ovf/>"})
    for name in (half, "not-an-id"):
        (vms(spm, export) / name).mkdir()
    (vms(spm, export) / half / f"{half}.ovf.new").write_text("<ov")
    (vms(spm, export) / "not-an-id/not-an-id.ovf").write_text("<ovf/>")
    (vms(spm, export) / vm_id / "other.ovf").write_text("<ovf/>")
    assert listed(spm, export) == [vm_id]
    assert code_of(read, spm, export, half) == 320
    update(spm, export, **{half: "<whole/>"})
    assert read(spm, export, half) == {half: "<whole/>"}
    for name in (vm_id, half):
        remove(spm, export, name)
    assert listed(spm, export) == []


def test_a_file_that_is_no_text_or_too_long_is_refused_by_name(
    spm: StorageRoom, export: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm_id = new_id()
    update(spm, export, **{vm_id: "<ovf/>"})
    (vms(spm, export) / vm_id / f"{vm_id}.ovf").write_bytes(b"<ovf>\xff")
    with pytest.raises(Error, match=r"\.ovf is not UTF-8 at byte 5"):
        read(spm, export)
    monkeypatch.setattr(ovf_verbs, "MAX_OVF_BYTES", 5)
    with pytest.raises(Error, match="has 6 bytes"):
        read(spm, export)
    assert code_of(update, spm, export, **{vm_id: "<ovf/>"}) == 1000
    remove(spm, export, vm_id)


def test_a_domain_that_keeps_no_ovfs_says_so(spm: StorageRoom) -> None:
    second, vm_id = spm.add_domain(), new_id()
    assert code_of(update, spm, second, **{vm_id: "<ovf/>"}) == 322
    assert code_of(listed, spm, second) == 322
    assert code_of(remove, spm, second, vm_id) == 322
    assert code_of(listed, spm, new_id()) == code_of(update, spm, new_id(), **{vm_id: "<ovf/>"}) == 353


@pytest.mark.parametrize("row", [{"vm": new_id()}, {"ovf": "<ovf/>"}, {"vm": "../../x", "ovf": "<ovf/>"}, "x"])
def test_a_list_that_cannot_be_understood_stores_nothing(spm: StorageRoom, export: str, row: Any) -> None:
    rows = [{"vm": new_id(), "ovf": "<ovf/>", "imglist": ""}, row]
    with pytest.raises(InvalidParameters):
        spm.call("StoragePool.updateVMs", storagepoolID=spm.pool_id, vmList=rows, storagedomainID=export)
    assert listed(spm, export) == []


@needs_program("qemu-img")
def test_an_image_is_found_on_the_active_domains_that_hold_it(spm: StorageRoom, export: str) -> None:
    second = spm.add_domain()
    image_id, _ = spm.create()

    def found(image_id: str) -> list[str]:
        ids: list[str] = spm.call("StoragePool.getDomainsContainingImage", storagepoolID=spm.pool_id, imageID=image_id)
        return ids

    assert found(image_id) == [spm.sd_id]
    for sd_id in (second, export):
        (spm.domain_of(sd_id) / "images" / image_id).mkdir()
    assert sorted(found(image_id)) == sorted([spm.sd_id, second])
    assert found(new_id()) == []
    names = {"storagepoolID": spm.pool_id, "storagedomainID": second}
    spm.call("StorageDomain.deactivate", **names, masterSdUUID=BLANK, masterVersion=1)
    assert found(image_id) == [spm.sd_id]


def test_only_the_spm_changes_what_any_host_of_the_pool_reads(tmp_path: Path) -> None:
    room = StorageRoom(tmp_path).make()
    try:
        vm_id = new_id()
        update(room, None, **{vm_id: "<ovf/>"})
        room.call("StoragePool.spmStop", storagepoolID=room.pool_id)
        assert code_of(update, room, None, **{vm_id: "<other/>"}) == code_of(remove, room, None, vm_id) == 654
        assert read(room, BLANK) == {vm_id: "<ovf/>"}
        room.call("StoragePool.disconnect", storagepoolID=room.pool_id, hostID=1, scsiKey="")
        assert code_of(read, room, BLANK) == code_of(update, room, None, **{vm_id: ""}) == 309
    finally:
        room.stop()


def test_ovfs_move_with_the_master(tmp_path: Path) -> None:
    room = StorageRoom(tmp_path).make()
    try:
        vm_id, text = new_id(), "ü" * 2_000_000
        update(room, None, **{vm_id: text})
        second = room.add_domain()
        room.finished(room.start_switch(second))
        assert read(room, BLANK) == {vm_id: text} == read(room, second)
        assert listed(room, room.sd_id) == []
    finally:
        room.stop()


def test_ovfs_that_wait_while_the_master_moves_are_on_the_new_one(tmp_path: Path) -> None:
    room = StorageRoom(tmp_path).make()
    try:
        gone, kept, text = new_id(), new_id(), "<ovf/>"
        update(room, None, **{gone: text})
        second = room.add_domain()
        (resources,) = (state for state in room.room.room.state if isinstance(state, Resources))

        def waiting() -> int:
            return sum(len(queue.waiting) for queue in list(resources._queues.values()))

        with ThreadPoolExecutor(2) as clients:
            with resources.claim("a long operation", shared=(("pool", room.pool_id),)):
                task_id = room.start_switch(second)
                eventually(lambda: waiting() == 1)
                asked = [
                    clients.submit(update, room, None, **{kept: text}),
                    clients.submit(remove, room, None, gone),
                ]
                eventually(lambda: waiting() == 3)
            room.finished(task_id)
            for one in asked:
                one.result(20)
        assert read(room, BLANK) == {kept: text} == read(room, second)
        assert listed(room, room.sd_id) == []
    finally:
        room.stop()
