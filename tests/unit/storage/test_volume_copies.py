# SPDX-License-Identifier: Apache-2.0
"""Volume.copy, Image.move, cloneStructure, syncData, between two real local domains."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.storage_room import (
    COW,
    MIB,
    PREALLOCATED,
    RAW,
    SPARSE,
    StorageRoom,
    new_id,
    qemu_check,
    same_content,
    slow_copies,
    write_pattern,
)
from vdsm_mp.api.errors_volume import (
    ImageDoesNotExist,
    IncorrectFormat,
    InvalidVolumeParameter,
    TemplateInUse,
    VolumeAlreadyExists,
)

pytestmark = needs_program("qemu-img", "qemu-io")


@pytest.fixture(scope="module")
def other(house: StorageRoom) -> str:
    return house.add_domain()


@pytest.fixture
def chain(house: StorageRoom) -> tuple[str, str, str]:
    """(image, base, leaf), with data in both"""
    image_id, base = house.create(volFormat=RAW)
    write_pattern(house.image(image_id) / base, "raw", 1, 0, 3 * MIB)
    _, leaf = house.create(image_id, srcImgUUID=image_id, srcVolUUID=base, sequence=2)
    write_pattern(house.image(image_id) / leaf, "qcow2", 2, 2 * MIB, 2 * MIB)
    return image_id, base, leaf


def copy_params(house: StorageRoom, image_id: str, volume_id: str, **changes: object) -> dict[str, object]:
    return {
        **house.names(image_id, volume_id),
        "dstSdUUID": house.sd_id,
        "dstImgUUID": new_id(),
        "dstVolUUID": new_id(),
        "desc": "copy",
        "volType": 8,
        "volFormat": COW,
        "preallocate": SPARSE,
        "postZero": False,
        "force": False,
        **changes,
    }


@pytest.mark.parametrize(
    ("fmt", "allocation"), [(COW, SPARSE), (COW, PREALLOCATED), (RAW, SPARSE), (RAW, PREALLOCATED), (3, 0)]
)
def test_a_copy_holds_what_the_whole_chain_shows(
    house: StorageRoom, other: str, chain: tuple[str, str, str], fmt: int, allocation: int
) -> None:
    image_id, _, leaf = chain
    params = copy_params(house, image_id, leaf, dstSdUUID=other, volFormat=fmt, preallocate=allocation)
    assert house.outcome("Volume.copy", **params) == ("success", 0)
    new_image, new_volume = str(params["dstImgUUID"]), str(params["dstVolUUID"])
    info = house.info(new_image, new_volume, other)
    assert (info["status"], info["voltype"], info["parent"][:8]) == ("OK", "LEAF", "00000000")
    assert (info["capacity"], info["description"], info["sequence"]) == (str(16 * MIB), "copy", 2)
    copy_fmt = "raw" if fmt == RAW else "qcow2"
    path = house.domain_of(other) / "images" / new_image / new_volume
    assert same_content(house.image(image_id) / leaf, "qcow2", path, copy_fmt)
    assert oct(path.stat().st_mode & 0o777) == "0o660"
    if copy_fmt == "qcow2":
        qemu_check(path)
    if allocation == PREALLOCATED:
        assert path.stat().st_blocks * 512 > 15 * MIB


def test_a_template_is_a_copy_that_others_may_stand_on(house: StorageRoom, chain: tuple[str, str, str]) -> None:
    params = copy_params(house, chain[0], chain[2], volType=6)
    assert house.outcome("Volume.copy", **params) == ("success", 0)
    template_image, template = str(params["dstImgUUID"]), str(params["dstVolUUID"])
    assert house.info(template_image, template)["voltype"] == "SHARED"
    image_id, leaf = house.create(srcImgUUID=template_image, srcVolUUID=template)
    assert same_content(house.image(chain[0]) / chain[2], "qcow2", house.image(image_id) / leaf, "qcow2")


def test_a_copy_over_something_that_is_there_needs_force(house: StorageRoom, chain: tuple[str, str, str]) -> None:
    there_image, there = house.create()
    params = copy_params(house, chain[0], chain[2], dstImgUUID=there_image, dstVolUUID=there)
    with pytest.raises(VolumeAlreadyExists):
        house.call("Volume.copy", **params)
    qemu_check(house.image(there_image) / there)
    assert house.outcome("Volume.copy", **params | {"force": True}) == ("success", 0)
    assert same_content(house.image(chain[0]) / chain[2], "qcow2", house.image(there_image) / there, "qcow2")


def test_a_copy_over_what_failed_before_takes_nothing_else_without_force(
    house: StorageRoom, chain: tuple[str, str, str]
) -> None:
    there_image, base = house.create()
    _, failed = house.create(there_image, srcImgUUID=there_image, srcVolUUID=base, legal=False)
    before = sorted(path.name for path in house.image(there_image).iterdir())
    params = copy_params(house, chain[0], chain[2], dstImgUUID=there_image, dstVolUUID=failed)
    with pytest.raises(VolumeAlreadyExists, match=base):
        house.call("Volume.copy", **params)
    assert sorted(path.name for path in house.image(there_image).iterdir()) == before
    house.call("Volume.setLegality", **house.names(there_image, base), legality="ILLEGAL")
    assert house.outcome("Volume.copy", **params) == ("success", 0)
    assert {path.name for path in house.image(there_image).iterdir()} == {failed, f"{failed}.meta"}


def test_nothing_is_copied_from_an_illegal_or_dangerous_chain(house: StorageRoom, chain: tuple[str, str, str]) -> None:
    image_id, leaf = house.create(legal=False)
    params = copy_params(house, image_id, leaf)
    assert house.outcome("Volume.copy", **params) == ("cleanSuccess", 227)
    image_id, leaf = house.create()
    path = house.image(image_id) / leaf
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", path, "1M"], check=True
    )
    params = copy_params(house, image_id, leaf)
    assert house.outcome("Volume.copy", **params) == ("cleanSuccess", 262)
    assert not house.image(str(params["dstImgUUID"])).exists()
    with pytest.raises(InvalidVolumeParameter):
        house.call("Volume.copy", **copy_params(house, chain[0], chain[2], dstImgUUID=chain[0]))


def test_a_volume_of_a_format_that_nobody_knows_is_told_as_such(house: StorageRoom) -> None:
    """It was told as a mistake of the agent's own, with a traceback."""
    image_id, volume_id = house.create()
    meta = house.image(image_id) / f"{volume_id}.meta"
    meta.write_text(meta.read_text().replace("FORMAT=COW", "FORMAT=QED"))
    params = copy_params(house, image_id, volume_id)
    assert house.outcome("Volume.copy", **params) == ("cleanSuccess", IncorrectFormat.code)
    assert not house.image(str(params["dstImgUUID"])).exists()


def test_a_copy_that_is_stopped_leaves_nothing(
    house: StorageRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id, volume_id = house.create(volFormat=RAW, size=str(64 * MIB))
    write_pattern(house.image(image_id) / volume_id, "raw", 5, 0, 64 * MIB)
    monkeypatch.setenv("PATH", f"{slow_copies(tmp_path / 'bin', MIB)}:{os.environ['PATH']}")
    params = copy_params(house, image_id, volume_id, volFormat=RAW)
    target = house.image(str(params["dstImgUUID"])) / str(params["dstVolUUID"])
    task_id = house.call("Volume.copy", **params)
    eventually(lambda: target.exists() and target.stat().st_blocks > 16, within_s=30)
    assert house.info(str(params["dstImgUUID"]), str(params["dstVolUUID"]))["status"] == "ILLEGAL"
    house.call("Task.stop", taskID=task_id)
    status = house.ended(task_id)
    assert (status["taskResult"], status["code"]) == ("cleanSuccess", 411)
    house.call("Task.clear", taskID=task_id)
    assert not target.parent.exists()
    assert house.info(image_id, volume_id)["status"] == "OK"


def move_params(house: StorageRoom, image_id: str, other: str, operation: int, **changes: object) -> dict[str, object]:
    return {
        "imageID": image_id,
        "storagepoolID": house.pool_id,
        "storagedomainID": house.sd_id,
        "dstSdUUID": other,
        "operation": operation,
        "postZero": False,
        "force": False,
        **changes,
    }


def test_what_has_its_room_has_it_where_it_is_moved_to(house: StorageRoom, other: str) -> None:
    """QEMU made holes where the source has zeros: a guest could run out of room."""
    image_id, volume_id = house.create(volFormat=RAW, preallocate=PREALLOCATED, size=str(8 * MIB))
    write_pattern(house.image(image_id) / volume_id, "raw", 1, 0, MIB)
    assert house.outcome("Image.move", **move_params(house, image_id, other, 2)) == ("success", 0)
    moved = house.domain_of(other) / "images" / image_id / volume_id
    assert moved.stat().st_blocks * 512 >= 8 * MIB
    assert moved.read_bytes()[: MIB + 1] == b"\1" * MIB + b"\0"


@pytest.mark.parametrize("operation", [1, 2], ids=["copy", "move"])
def test_an_image_goes_to_another_domain_layer_by_layer(
    house: StorageRoom, other: str, chain: tuple[str, str, str], operation: int
) -> None:
    image_id, base, leaf = chain
    before = {one: house.info(image_id, one) for one in (base, leaf)}
    house.outcome("Volume.copy", **(spy := copy_params(house, image_id, leaf, volFormat=RAW)))
    assert house.outcome("Image.move", **move_params(house, image_id, other, operation)) == ("success", 0)
    for one in (base, leaf):
        info = house.info(image_id, one, other)
        for key in ("parent", "format", "type", "voltype", "capacity", "description", "sequence", "status", "ctime"):
            assert info[key] == before[one][key], key
    moved = house.domain_of(other) / "images" / image_id
    copy = house.image(str(spy["dstImgUUID"])) / str(spy["dstVolUUID"])
    assert same_content(copy, "raw", moved / leaf, "qcow2")
    qemu_check(moved / leaf)
    # Only what the layer itself holds was copied into it.
    assert (moved / leaf).stat().st_blocks * 512 < 3 * MIB
    if operation == 2:
        eventually(lambda: not house.image(image_id).exists())
        assert not [name for name in os.listdir(house.domain / "images") if name.startswith("_remove_me_")]
    else:
        assert house.info(image_id, leaf)["status"] == "OK"
        with pytest.raises(VolumeAlreadyExists):
            house.call("Image.move", **move_params(house, image_id, other, operation))
        assert house.outcome("Image.move", **move_params(house, image_id, other, operation, force=True))[0] == "success"


def test_an_image_on_a_template_moves_to_where_the_template_is(house: StorageRoom, other: str) -> None:
    template_image, template = house.make_template()
    image_id, leaf = house.create(srcImgUUID=template_image, srcVolUUID=template)
    params = move_params(house, image_id, other, 2)
    assert house.outcome("Image.move", **params) == ("cleanSuccess", 261)
    assert not (house.domain_of(other) / "images" / image_id).exists()
    with pytest.raises(TemplateInUse):
        house.call("Image.move", **move_params(house, template_image, other, 2))
    assert house.outcome("Image.move", **move_params(house, template_image, other, 1)) == ("success", 0)
    moved = house.domain_of(other) / "images"
    (moved / image_id).mkdir()
    for name in (template, f"{template}.meta"):  # all that a copy may leave that is cut short, and so is its undoing
        os.link(moved / template_image / name, moved / image_id / name)
    assert house.outcome("Image.move", **params) == ("success", 0)
    assert (moved / image_id / template).samefile(moved / template_image / template)
    qemu_check(moved / image_id / leaf)


def test_the_structure_is_cloned_first_and_its_data_follows(
    house: StorageRoom, other: str, chain: tuple[str, str, str]
) -> None:
    image_id, base, leaf = chain
    params = {
        "imageID": image_id,
        "storagepoolID": house.pool_id,
        "storagedomainID": house.sd_id,
        "dstSdUUID": other,
    }
    assert house.outcome("Image.cloneStructure", **params) == ("success", 0)
    clone = house.domain_of(other) / "images" / image_id
    assert house.info(image_id, leaf, other)["status"] == "OK"
    assert house.info(image_id, base, other)["voltype"] == "INTERNAL"
    assert not same_content(house.image(image_id) / leaf, "qcow2", clone / leaf, "qcow2")
    assert house.outcome("Image.syncData", **params, syncType="INTERNAL") == ("success", 0)
    assert same_content(house.image(image_id) / base, "raw", clone / base, "raw")
    assert house.outcome("Image.syncData", **params, syncType="LEAF") == ("success", 0)
    assert same_content(house.image(image_id) / leaf, "qcow2", clone / leaf, "qcow2")
    with pytest.raises(InvalidVolumeParameter):
        house.call("Image.syncData", **params, syncType="SOME")
    with pytest.raises(VolumeAlreadyExists):
        house.call("Image.cloneStructure", **params)
    with pytest.raises(ImageDoesNotExist):
        house.call("Image.cloneStructure", **params | {"imageID": new_id()})
