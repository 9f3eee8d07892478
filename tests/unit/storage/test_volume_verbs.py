# SPDX-License-Identifier: Apache-2.0
"""Volume.create, Volume.getInfo and tasks, through the room's verbs on a real local domain."""

import os
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from tests.support import domains
from tests.support.children import LocalChildren
from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.storage_room import COW, MIB, PREALLOCATED, RAW, SPARSE, StorageRoom, new_id, qemu_check, qemu_info
from vdsm_mp.api.errors import InvalidParameters
from vdsm_mp.api.errors_storage import DomainNotInPool, NotSpm, PoolNotConnected
from vdsm_mp.api.errors_task import TaskInProgress, UnknownTask
from vdsm_mp.api.errors_volume import IncorrectFormat, IncorrectType, InvalidVolumeParameter, VolumeDoesNotExist
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.storage.locks import LocalLock
from vdsm_mp.storage.volume_info import volume_info
from vdsm_mp.tasks import undoing

pytestmark = needs_program("qemu-img")


#: Of nothing that exists; always the same, so that every worker of a parallel run collects the same tests.
ANOTHER = "0e000000-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("fmt", "allocation"), [(COW, SPARSE), (COW, PREALLOCATED), (RAW, SPARSE), (RAW, PREALLOCATED)]
)
def test_a_volume_is_what_its_information_says(house: StorageRoom, fmt: int, allocation: int) -> None:
    image_id, volume_id = house.create(volFormat=fmt, preallocate=allocation, size=str(4 * MIB + 1))
    capacity = 4 * MIB + 4096
    path = house.image(image_id) / volume_id
    info = house.info(image_id, volume_id)
    found = path.stat()
    assert info == {
        "uuid": volume_id,
        "type": {PREALLOCATED: "PREALLOCATED", SPARSE: "SPARSE"}[allocation],
        "format": {COW: "COW", RAW: "RAW"}[fmt],
        "disktype": "DATA",
        "voltype": "LEAF",
        "capacity": str(capacity),
        "parent": BLANK,
        "description": '{"DiskAlias": "disk"}',
        "pool": "",
        "domain": house.sd_id,
        "image": image_id,
        "ctime": info["ctime"],
        "mtime": "0",
        "legality": "LEGAL",
        "generation": 0,
        "sequence": 1,
        "apparentsize": str(found.st_size),
        "truesize": str(found.st_blocks * 512),
        "status": "OK",
        "children": [],
    }
    assert abs(int(info["ctime"]) - found.st_ctime) < 60
    assert oct(found.st_mode & 0o777) == "0o660"
    assert qemu_info(path, "qcow2" if fmt == COW else "raw")["virtual-size"] == capacity
    if fmt == COW:
        qemu_check(path)
    if allocation == PREALLOCATED:
        assert found.st_size == capacity
        assert found.st_blocks * 512 >= capacity - 256 * 1024  # holes between the tables of a qcow2 header stay
    else:
        assert found.st_blocks * 512 < MIB


def test_a_snapshot_stands_on_its_parent_which_is_a_leaf_no_more(house: StorageRoom) -> None:
    image_id, base = house.create(volFormat=RAW)
    _, middle = house.create(image_id, srcImgUUID=image_id, srcVolUUID=base, sequence=2)
    _, leaf = house.create(image_id, srcImgUUID=image_id, srcVolUUID=middle, sequence=3)
    assert [house.info(image_id, one)["voltype"] for one in (base, middle, leaf)] == ["INTERNAL", "INTERNAL", "LEAF"]
    assert house.info(image_id, leaf)["parent"] == middle
    assert qemu_info(house.image(image_id) / middle)["backing-filename"] == base
    assert qemu_info(house.image(image_id) / middle)["backing-filename-format"] == "raw"
    assert qemu_info(house.image(image_id) / leaf)["backing-filename-format"] == "qcow2"


def make_template(house: StorageRoom) -> tuple[str, str]:
    image_id, volume_id = house.create()
    meta = house.image(image_id) / f"{volume_id}.meta"
    meta.write_text(meta.read_text().replace("VOLTYPE=LEAF", "VOLTYPE=SHARED"))
    return image_id, volume_id


def test_an_image_made_from_a_template_has_links_to_it(house: StorageRoom) -> None:
    template_image, template = make_template(house)
    image_id, leaf = house.create(srcImgUUID=template_image, srcVolUUID=template)
    for suffix in ("", ".meta"):
        shared = house.image(image_id) / f"{template}{suffix}"
        assert shared.samefile(house.image(template_image) / f"{template}{suffix}")
    assert qemu_info(house.image(image_id) / leaf)["backing-filename"] == template
    assert house.info(template_image, template)["voltype"] == "SHARED"
    again = house.create(srcImgUUID=template_image, srcVolUUID=template)
    assert (house.image(again[0]) / template).stat().st_nlink == 3


def ended(house: StorageRoom, **params: Any) -> tuple[Any, ...]:
    """(taskResult, code) of a creation that fails; nothing of it is left."""
    image_id, volume_id = params.pop("imageID", new_id()), params.pop("volumeID", new_id())
    there = sorted(os.listdir(house.image(image_id))) if house.image(image_id).exists() else None
    task_id = house.start_create(image_id, volume_id, **params)
    status = house.ended(task_id)
    house.call("Task.clear", taskID=task_id)
    assert (sorted(os.listdir(house.image(image_id))) if house.image(image_id).exists() else None) == there
    return status["taskResult"], status["code"]


def test_a_creation_that_fails_leaves_everything_as_it_was(house: StorageRoom) -> None:
    image_id, base = house.create()
    path = house.image(image_id) / base
    before = path.read_bytes(), house.info(image_id, base)
    assert ended(house, imageID=image_id, volumeID=base) == ("cleanSuccess", 212)
    assert ended(house, imageID=image_id, srcImgUUID=image_id, srcVolUUID=new_id()) == ("cleanSuccess", 201)
    assert ended(house, srcImgUUID=new_id(), srcVolUUID=new_id()) == ("cleanSuccess", 268)
    assert ended(house, srcImgUUID=image_id, srcVolUUID=base) == ("cleanSuccess", 214)
    small = {"imageID": image_id, "srcImgUUID": image_id, "srcVolUUID": base, "size": str(MIB)}
    assert ended(house, **small) == ("cleanSuccess", 1000)
    assert ended(house, size=str(2**62)) == ("cleanSuccess", 205)
    assert ended(house, size=str(2**62), volFormat=RAW)[0] == "cleanSuccess"
    assert (path.read_bytes(), house.info(image_id, base)) == before


def test_nothing_is_based_on_an_illegal_volume(house: StorageRoom) -> None:
    image_id, base = house.create(legal=False)
    assert (house.info(image_id, base)["legality"], house.info(image_id, base)["status"]) == ("ILLEGAL", "ILLEGAL")
    assert ended(house, imageID=image_id, srcImgUUID=image_id, srcVolUUID=base) == ("cleanSuccess", 226)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"volFormat": 3}, IncorrectFormat),
        ({"preallocate": 0}, IncorrectType),
        ({"diskType": "FLOPPY"}, InvalidVolumeParameter),
        ({"size": "-1"}, InvalidVolumeParameter),
        ({"size": "0"}, InvalidVolumeParameter),
        ({"size": "1 GiB"}, InvalidVolumeParameter),
        ({"size": "9" * 30}, InvalidVolumeParameter),
        ({"desc": "two\nlines"}, InvalidVolumeParameter),
        ({"sequence": 2**32}, InvalidVolumeParameter),
        ({"volFormat": RAW, "srcVolUUID": ANOTHER}, IncorrectFormat),
        ({"volFormat": RAW, "initialSize": "1048576"}, InvalidVolumeParameter),
        ({"initialSize": str(100 * MIB)}, InvalidVolumeParameter),
        ({"addBitmaps": True}, InvalidVolumeParameter),
        ({"storagedomainID": ANOTHER}, DomainNotInPool),
        ({"storagepoolID": ANOTHER}, PoolNotConnected),
        ({"volumeID": "../../etc/passwd"}, InvalidParameters),
        ({"imageID": ANOTHER + "\n"}, InvalidParameters),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_at_once(house: StorageRoom, change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        house.start_create(**({"image_id": new_id(), "volume_id": new_id()} | _python_names(change)))


def _python_names(change: dict[str, Any]) -> dict[str, Any]:
    return {{"imageID": "image_id", "volumeID": "volume_id"}.get(name, name): value for name, value in change.items()}


def test_two_creations_of_one_volume_make_it_once(house: StorageRoom) -> None:
    image_id, volume_id = new_id(), new_id()
    tasks = [house.start_create(image_id, volume_id) for _ in range(3)]
    assert sorted(str(house.ended(one)["taskResult"]) for one in tasks) == ["cleanSuccess", "cleanSuccess", "success"]
    qemu_check(house.image(image_id) / volume_id)
    for one in tasks:
        house.call("Task.clear", taskID=one)


def test_many_creations_at_once_all_succeed(house: StorageRoom) -> None:
    tasks = [house.start_create(new_id(), new_id()) for _ in range(20)]
    for one in tasks:
        house.finished(one)


def test_a_volume_that_is_not_there_has_no_information(house: StorageRoom) -> None:
    image_id, volume_id = house.create()
    for names in ((image_id, new_id()), (new_id(), volume_id)):
        with pytest.raises(VolumeDoesNotExist):
            house.info(*names)


def test_the_role_is_not_given_up_while_a_task_is_not_cleared(house: StorageRoom) -> None:
    task_id = house.start_create(new_id(), new_id())
    house.ended(task_id)
    assert house.call("Host.getAllTasksInfo") == {task_id: {"id": task_id, "verb": "createVolume"}}
    assert house.call("Host.getAllTasksStatuses")[task_id] == {
        "taskID": task_id,
        "taskState": "finished",
        "taskResult": "success",
        "code": 0,
        "message": "1 jobs completed successfully",
    }
    with pytest.raises(TaskInProgress):
        house.call("StoragePool.spmStop", storagepoolID=house.pool_id)
    house.call("Task.clear", taskID=task_id)
    with pytest.raises(UnknownTask):
        house.call("Task.getStatus", taskID=task_id)
    house.call("StoragePool.spmStop", storagepoolID=house.pool_id)
    for verb in ("Host.getAllTasksInfo", "Host.getAllTasksStatuses"):
        with pytest.raises(NotSpm):
            house.call(verb)
    with pytest.raises(NotSpm):
        house.start_create(new_id(), new_id())
    house.take_role()


def test_a_finished_creation_can_be_reverted(house: StorageRoom) -> None:
    image_id, base = house.create()
    task_id = house.start_create(image_id, new_id(), srcImgUUID=image_id, srcVolUUID=base)
    house.ended(task_id)
    assert house.info(image_id, base)["voltype"] == "INTERNAL"
    house.call("Task.revert", taskID=task_id)
    status = house.ended(task_id)
    while status["taskResult"] == "success":
        status = house.ended(task_id)
    assert status["taskResult"] == "cleanSuccess"
    house.call("Task.clear", taskID=task_id)
    assert house.info(image_id, base)["voltype"] == "LEAF"
    assert sorted(os.listdir(house.image(image_id))) == [base, f"{base}.meta"]


def test_what_a_snapshot_stands_on_is_not_taken_back(house: StorageRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undoing, "UNDO_PAUSE_S", 0.01)
    image_id, volume_id = new_id(), new_id()
    task_id = house.start_create(image_id, volume_id)
    house.ended(task_id)
    _, leaf = house.create(image_id, srcImgUUID=image_id, srcVolUUID=volume_id)
    house.call("Task.revert", taskID=task_id)
    status = eventually(lambda: (one := house.ended(task_id))["taskResult"] != "success" and one)
    assert (status["taskResult"], status["code"]) == ("cleanFailure", 204)
    assert {house.info(image_id, one)["status"] for one in (volume_id, leaf)} == {"OK"}


def test_bitmaps_are_continued_in_a_snapshot(house: StorageRoom) -> None:
    image_id, base = house.create(bitmap=new_id())
    names = [one["name"] for one in qemu_info(house.image(image_id) / base)["format-specific"]["data"]["bitmaps"]]
    assert len(names) == 1
    _, leaf = house.create(image_id, srcImgUUID=image_id, srcVolUUID=base, addBitmaps=True)
    found = qemu_info(house.image(image_id) / leaf)["format-specific"]["data"]["bitmaps"]
    assert [one["name"] for one in found] == names


@pytest.mark.parametrize("name", ["export", "shared"])
def test_domains_of_vdsm_are_read_volume_by_volume(tmp_path: Path, children: LocalChildren, name: str) -> None:
    written = domains.unpack(tmp_path)[name]
    domain = FileDomain(written.sd_id, DomainIO(children, written.sd_id, str(written.root)))
    for volume_id, facts in written.facts["volumes"].items():
        # Its lease cannot be looked at without sanlock; that does not hide the rest.
        info = volume_info(domain, LocalLock(domain), facts["image"], volume_id)
        assert (info.capacity, info.parent, info.format, info.type, info.voltype) == (
            str(facts["capacity"]),
            facts["parent"],
            facts["format"],
            facts["type"],
            facts["voltype"],
        )
        assert info.status == ("OK" if facts["legal"] else "ILLEGAL")
        assert info.apparentsize == str(facts["apparent"])
        assert (info.lease is UNSET) == (name == "export")
    domain.io.close()
