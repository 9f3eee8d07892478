# SPDX-License-Identifier: Apache-2.0
"""Changing, measuring and deleting single volumes, through the room's verbs on a real local domain."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.needs import needs_program
from tests.support.storage_room import COW, MIB, PREALLOCATED, RAW, StorageRoom, new_id, qemu_info
from vdsm_mp.api.errors_storage import NotSpm
from vdsm_mp.api.errors_volume import (
    ImageVerificationFailed,
    InvalidVolumeParameter,
    VolumeDoesNotExist,
    VolumeNotInChain,
)
from vdsm_mp.api.types import BLANK

pytestmark = needs_program("qemu-img")


@pytest.fixture
def chain(house: StorageRoom) -> tuple[str, str, str, str]:
    """(image, base, middle, leaf)"""
    image_id, base = house.create(volFormat=RAW)
    _, middle = house.create(image_id, srcImgUUID=image_id, srcVolUUID=base)
    _, leaf = house.create(image_id, srcImgUUID=image_id, srcVolUUID=middle)
    return image_id, base, middle, leaf


def outcome(house: StorageRoom, verb: str, **params: Any) -> tuple[str, int]:
    task_id = house.call(verb, **params)
    status = house.ended(task_id)
    house.call("Task.clear", taskID=task_id)
    return status["taskResult"], status["code"]


def test_a_description_and_a_legality_are_changed_and_nothing_else(house: StorageRoom) -> None:
    image_id, volume_id = house.create()
    before = house.info(image_id, volume_id)
    assert house.call("Volume.setDescription", **house.names(image_id, volume_id), description="größer") is True
    assert house.info(image_id, volume_id) == before | {"description": "größer"}
    assert house.call("Volume.setLegality", **house.names(image_id, volume_id), legality="ILLEGAL") is True
    assert house.info(image_id, volume_id) == before | {
        "description": "größer",
        "legality": "ILLEGAL",
        "status": "ILLEGAL",
    }
    for verb, change in (("setDescription", {"description": "a\nb"}), ("setLegality", {"legality": "FAKE"})):
        with pytest.raises(InvalidVolumeParameter):
            house.call(f"Volume.{verb}", **house.names(image_id, volume_id), **change)


@pytest.mark.parametrize("allocation", [1, 2])
@pytest.mark.parametrize("fmt", [COW, RAW])
def test_a_leaf_grows_and_never_shrinks(house: StorageRoom, fmt: int, allocation: int) -> None:
    image_id, leaf = house.create(volFormat=fmt, preallocate=allocation)
    names = house.names(image_id, leaf)
    assert outcome(house, "Volume.extendSize", **names, newSize=str(32 * MIB)) == ("success", 0)
    path = house.image(image_id) / leaf
    assert house.info(image_id, leaf)["capacity"] == str(32 * MIB)
    assert qemu_info(path, "qcow2" if fmt == COW else "raw")["virtual-size"] == 32 * MIB
    if (fmt, allocation) == (RAW, PREALLOCATED):
        assert path.stat().st_blocks * 512 >= 32 * MIB
    assert outcome(house, "Volume.extendSize", **names, newSize=str(32 * MIB)) == ("success", 0)
    assert outcome(house, "Volume.extendSize", **names, newSize=str(16 * MIB)) == ("cleanSuccess", 232)


def test_an_extension_that_finds_no_room_leaves_the_disk_as_large_as_it_was(
    house: StorageRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id, leaf = house.create(volFormat=RAW, preallocate=PREALLOCATED)
    program = tmp_path / "fallocate"  # as on a file system that gets full: a part, then the error
    program.write_text(
        f'#!/bin/sh\neval path=\\${{$#}}\ntruncate -s {20 * MIB} "$path"\necho "No space left" >&2\nexit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert (
        outcome(house, "Volume.extendSize", **house.names(image_id, leaf), newSize=str(32 * MIB))[0] == "cleanSuccess"
    )
    assert (house.image(image_id) / leaf).stat().st_size == 16 * MIB
    assert house.info(image_id, leaf)["capacity"] == str(16 * MIB)


def test_a_raw_base_may_grow_under_its_children_but_nothing_between(
    house: StorageRoom, chain: tuple[str, str, str, str]
) -> None:
    image_id, base, middle, _ = chain
    assert outcome(house, "Volume.extendSize", **house.names(image_id, base), newSize=str(64 * MIB))[1] == 0
    assert outcome(house, "Volume.extendSize", **house.names(image_id, middle), newSize=str(64 * MIB))[1] == 213


def test_a_disk_that_a_vm_has_open_is_left_to_the_vm(house: StorageRoom) -> None:
    image_id, leaf = house.create()
    path = house.image(image_id) / leaf
    argv = ["qemu-io", "-f", "qcow2", path]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write(b"write 0 512\n")
        holder.stdin.flush()
        while b"wrote" not in holder.stdout.readline():
            assert holder.poll() is None
        result = outcome(house, "Volume.extendSize", **house.names(image_id, leaf), newSize=str(32 * MIB))
        holder.communicate(b"quit\n")
    assert result == ("success", 0)
    assert house.info(image_id, leaf)["capacity"] == str(16 * MIB)


def test_sizes_are_told_as_digits(house: StorageRoom) -> None:
    image_id, leaf = house.create(volFormat=RAW)
    assert house.call("Volume.getSize", **house.names(image_id, leaf)) == {
        "truesize": "4096",
        "apparentsize": str(16 * MIB),
    }


def test_what_qemu_says_of_a_volume_is_passed_on(house: StorageRoom, chain: tuple[str, str, str, str]) -> None:
    image_id, base, middle, _ = chain
    assert house.call("Volume.getQemuImageInfo", **house.names(image_id, middle)) == {
        "format": "qcow2",
        "virtualsize": 16 * MIB,
        "clustersize": 65536,
        "backingfile": base,
        "compat": "1.1",
        "bitmaps": [],
    }
    assert house.call("Volume.getQemuImageInfo", **house.names(image_id, base)) == {
        "format": "raw",
        "virtualsize": 16 * MIB,
    }


def test_a_chain_is_measured_whole_or_in_part(house: StorageRoom, chain: tuple[str, str, str, str]) -> None:
    image_id, base, middle, leaf = chain
    for volume_id, start in ((base, 0), (middle, 2), (leaf, 4)):
        fmt = "raw" if volume_id == base else "qcow2"
        write = f"write {start}M 1M"
        subprocess.run(
            ["qemu-io", "-f", fmt, "-c", write, house.image(image_id) / volume_id], check=True, capture_output=True
        )

    def required(**params: Any) -> int:
        found = house.call("Volume.measure", **house.names(image_id, leaf), dstVolFormat=COW, **params)
        assert found["fully-allocated"] > 16 * MIB
        return int(found["required"]) // MIB

    assert required() == 3
    assert required(backing_chain=False) == 1
    assert required(baseID=middle) == 2
    assert house.call("Volume.measure", **house.names(image_id, leaf), dstVolFormat=RAW)["required"] == 16 * MIB
    with pytest.raises(VolumeNotInChain):
        required(baseID=new_id())


def test_the_last_layer_is_deleted_and_its_parent_is_a_leaf_again(
    house: StorageRoom, chain: tuple[str, str, str, str]
) -> None:
    image_id, base, middle, leaf = chain
    params = house.names(image_id, leaf) | {"postZero": False, "force": False}
    assert outcome(house, "Volume.delete", **params | {"volumeID": middle}) == ("cleanSuccess", 204)
    assert house.info(image_id, middle)["status"] == "OK"
    assert outcome(house, "Volume.delete", **params) == ("success", 0)
    assert house.info(image_id, middle)["voltype"] == "LEAF"
    assert house.call("Image.getVolumes", **house.names(image_id, leaf)) == sorted([base, middle])
    assert outcome(house, "Volume.delete", **params) == ("cleanSuccess", 201)
    wanted = house.names(image_id, leaf) | {"volumeList": [middle, base], "postZero": True}
    assert outcome(house, "Image.deleteVolumes", **wanted) == ("success", 0)
    assert not house.image(image_id).exists()


def test_a_deletion_that_was_cut_short_is_finished_by_asking_again(
    house: StorageRoom, chain: tuple[str, str, str, str]
) -> None:
    image_id, _, middle, leaf = chain
    (house.image(image_id) / leaf).unlink()
    meta = house.image(image_id) / f"{leaf}.meta"
    meta.write_text(meta.read_text().replace(f"PUUID={middle}", f"PUUID={BLANK}").replace("LEGAL\n", "ILLEGAL\n"))
    params = house.names(image_id, leaf) | {"postZero": True, "force": False}
    assert outcome(house, "Volume.delete", **params) == ("success", 0)
    assert house.info(image_id, middle)["voltype"] == "LEAF"
    assert not meta.exists()


def test_a_template_is_deleted_only_by_force_and_never_in_use(house: StorageRoom) -> None:
    template_image, template = house.create()
    meta = house.image(template_image) / f"{template}.meta"
    meta.write_text(meta.read_text().replace("VOLTYPE=LEAF", "VOLTYPE=SHARED"))
    image_id, leaf = house.create(srcImgUUID=template_image, srcVolUUID=template)
    params = house.names(template_image, template) | {"postZero": False}
    for force in (False, True):
        assert outcome(house, "Volume.delete", **params, force=force) == ("cleanSuccess", 223)
    leaf_params = house.names(image_id, leaf) | {"postZero": False, "force": False}
    assert outcome(house, "Volume.delete", **leaf_params) == ("success", 0)
    assert not house.image(image_id).exists()
    assert outcome(house, "Volume.delete", **params, force=True) == ("success", 0)


def test_an_uploaded_disk_is_taken_when_it_is_what_it_should_be(
    house: StorageRoom, chain: tuple[str, str, str, str]
) -> None:
    image_id, base, middle, leaf = chain
    for volume_id in (base, middle, leaf):
        assert house.call("Volume.verify_untrusted", **house.names(image_id, volume_id)) is True


@pytest.mark.parametrize(
    "options",
    [
        ["-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "-u"],
        ["-f", "qcow2", "-o", "data_file=OUTSIDE"],
        ["-f", "qcow2", "-u", "-b", "json:{}", "-F", "raw"],
        ["-f", "raw"],
        ["-f", "qcow2", "BIGGER"],
    ],
    ids=["host file", "data file", "json", "wrong format", "larger than it may be"],
)
def test_an_uploaded_disk_that_lies_is_refused(house: StorageRoom, tmp_path: Path, options: list[str]) -> None:
    image_id, leaf = house.create()
    path = house.image(image_id) / leaf
    path.unlink()
    size = "1G" if "BIGGER" in options else "1M"
    options = [one.replace("OUTSIDE", f"{tmp_path}/outside") for one in options if one != "BIGGER"]
    subprocess.run(["qemu-img", "create", "-q", *options, path, size], check=True)
    with pytest.raises(ImageVerificationFailed):
        house.call("Volume.verify_untrusted", **house.names(image_id, leaf))


def test_files_are_always_fresh_and_never_active(house: StorageRoom) -> None:
    image_id, leaf = house.create()
    assert house.call("Volume.refresh", **house.names(image_id, leaf)) is True
    with pytest.raises(VolumeDoesNotExist):
        house.call("Volume.refresh", **house.names(image_id, new_id()))
    names = house.names(image_id, leaf)
    del names["storagepoolID"]
    assert house.call("Volume.teardown", **names) is True


def test_changes_need_the_role(tmp_path: Path) -> None:
    house = StorageRoom(tmp_path).make()
    try:
        image_id, leaf = house.create()
        house.call("StoragePool.spmStop", storagepoolID=house.pool_id)
        for verb, more in (
            ("Volume.setDescription", {"description": "x"}),
            ("Volume.setLegality", {"legality": "LEGAL"}),
            ("Volume.extendSize", {"newSize": "1"}),
            ("Volume.delete", {"postZero": False, "force": False}),
        ):
            with pytest.raises(NotSpm):
                house.call(verb, **house.names(image_id, leaf), **more)
        assert house.info(image_id, leaf)["status"] == "OK"
    finally:
        house.stop()
