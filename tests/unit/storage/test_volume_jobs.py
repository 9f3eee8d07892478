# SPDX-License-Identifier: Apache-2.0
"""Cold merge, SDM jobs and mending of chains, through the room's verbs on a real local domain."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.diskharms import filled
from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.support.storage_room import (
    COW,
    MIB,
    RAW,
    StorageRoom,
    new_id,
    qemu_check,
    qemu_info,
    same_content,
    write_pattern,
)
from vdsm_mp.api.errors_task import JobExists
from vdsm_mp.api.errors_volume import InvalidVolumeParameter, SharedVolumeNotWritable
from vdsm_mp.api.events import JobChanged
from vdsm_mp.api.types import BLANK

pytestmark = needs_program("qemu-img", "qemu-io")


class Layers:
    """An image of a base, a middle and a leaf, each with data of its own; `seen` is what a guest saw of it."""

    def __init__(self, house: StorageRoom, base_format: int) -> None:
        self.house = house
        self.image_id, self.base = house.create(volFormat=base_format)
        self.write(self.base, "raw" if base_format == RAW else "qcow2", 1, 0)
        _, self.middle = house.create(self.image_id, srcImgUUID=self.image_id, srcVolUUID=self.base)
        self.write(self.middle, "qcow2", 2, 2)
        _, self.leaf = house.create(self.image_id, srcImgUUID=self.image_id, srcVolUUID=self.middle, size=str(32 * MIB))
        self.write(self.leaf, "qcow2", 3, 4)
        self.seen = {one: self.copy(one) for one in (self.middle, self.leaf)}

    def path(self, volume_id: str) -> Path:
        return self.house.image(self.image_id) / volume_id

    def write(self, volume_id: str, fmt: str, pattern: int, at_mib: int) -> None:
        write_pattern(self.path(volume_id), fmt, pattern, at_mib * MIB, 3 * MIB)

    def copy(self, volume_id: str) -> Path:
        target = self.house.root / new_id()
        subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.path(volume_id), target], check=True)
        return target

    def subchain(self, base: str, top: str) -> dict[str, Any]:
        return {
            "sd_id": self.house.sd_id,
            "img_id": self.image_id,
            "base_id": base,
            "top_id": top,
            "base_generation": self.house.info(self.image_id, base)["generation"],
        }

    def ref(self, volume_id: str, generation: int = 0) -> dict[str, Any]:
        return {
            "endpoint_type": "div",
            "sd_id": self.house.sd_id,
            "img_id": self.image_id,
            "vol_id": volume_id,
            "generation": generation,
        }


@pytest.fixture(params=[COW, RAW], ids=["cow", "raw"])
def layers(house: StorageRoom, request: pytest.FixtureRequest) -> Layers:
    return Layers(house, request.param)


def run_job(house: StorageRoom, verb: str, **params: Any) -> dict[str, Any]:
    """The entry of Host.getJobs once it is over."""
    job_id = new_id()
    assert house.call(verb, job_id=job_id, **params) is True

    def over() -> dict[str, Any] | None:
        found: dict[str, Any] = house.call("internal.storage_jobs")[job_id]
        return found if found["status"] in ("done", "failed", "aborted") else None

    found = eventually(over, within_s=30, every_s=0.005)
    assert found is not None
    assert (found["id"], found["job_type"]) == (job_id, "storage")
    return found


def test_a_leaf_is_merged_into_its_parent(house: StorageRoom, layers: Layers) -> None:
    subchain = layers.subchain(layers.middle, layers.leaf)
    pool = {"storagepoolID": house.pool_id}
    assert house.outcome("StoragePool.prepareMerge", **pool, subchainInfo=subchain) == ("success", 0)
    assert house.info(layers.image_id, layers.middle)["capacity"] == str(32 * MIB)
    done = run_job(house, "SDM.merge", subchain_info=subchain)
    assert (done["status"], done["progress"]) == ("done", 100.0)
    assert isinstance(done["progress"], float)
    assert house.info(layers.image_id, layers.middle)["generation"] == 1
    assert house.outcome("StoragePool.finalizeMerge", **pool, subchainInfo=subchain) == ("success", 0)
    assert house.info(layers.image_id, layers.leaf)["status"] == "ILLEGAL"
    params = {"storagepoolID": house.pool_id, "storagedomainID": house.sd_id, "imageID": layers.image_id}
    assert house.outcome("Image.deleteVolumes", **params, volumeList=[layers.leaf])[0] == "success"
    assert house.info(layers.image_id, layers.middle)["voltype"] == "LEAF"
    assert same_content(layers.seen[layers.leaf], "raw", layers.path(layers.middle), "qcow2")
    qemu_check(layers.path(layers.middle))


def test_a_volume_in_the_middle_is_merged_and_its_child_stands_on_the_base(house: StorageRoom, layers: Layers) -> None:
    subchain = layers.subchain(layers.base, layers.middle)
    pool = {"storagepoolID": house.pool_id}
    assert house.outcome("StoragePool.prepareMerge", **pool, subchainInfo=subchain) == ("success", 0)
    assert run_job(house, "SDM.merge", subchain_info=subchain)["status"] == "done"
    for _ in range(2):
        assert house.outcome("StoragePool.finalizeMerge", **pool, subchainInfo=subchain) == ("success", 0)
    assert house.info(layers.image_id, layers.leaf)["parent"] == layers.base
    assert qemu_info(layers.path(layers.leaf))["backing-filename"] == layers.base
    params = {"storagepoolID": house.pool_id, "storagedomainID": house.sd_id, "imageID": layers.image_id}
    assert house.outcome("Image.deleteVolumes", **params, volumeList=[layers.middle])[0] == "success"
    assert house.info(layers.image_id, layers.base)["voltype"] == "INTERNAL"
    assert same_content(layers.seen[layers.leaf], "raw", layers.path(layers.leaf), "qcow2")
    qemu_check(layers.path(layers.leaf))


def test_only_a_volume_and_its_parent_are_merged(house: StorageRoom, layers: Layers) -> None:
    pool = {"storagepoolID": house.pool_id}
    wrong = layers.subchain(layers.base, layers.leaf)
    assert house.outcome("StoragePool.prepareMerge", **pool, subchainInfo=wrong) == ("cleanSuccess", 921)
    failed = run_job(house, "SDM.merge", subchain_info=wrong)
    assert (failed["status"], failed["error"]["code"]) == ("failed", 921)
    stale = layers.subchain(layers.middle, layers.leaf) | {"base_generation": 7}
    failed = run_job(house, "SDM.merge", subchain_info=stale)
    assert (failed["status"], failed["error"]["code"]) == ("failed", 911)
    assert same_content(layers.seen[layers.leaf], "raw", layers.path(layers.leaf), "qcow2")


def test_bitmaps_follow_the_data(house: StorageRoom) -> None:
    kept, stale = new_id(), new_id()
    image_id, base = house.create(bitmap=kept)
    ref = {"sd_id": house.sd_id, "img_id": image_id, "vol_id": base, "generation": 0}
    _, leaf = house.create(image_id, srcImgUUID=image_id, srcVolUUID=base, addBitmaps=True)
    assert run_job(house, "SDM.add_bitmap", vol_info=ref, bitmap=stale)["status"] == "done"
    subchain = {"sd_id": house.sd_id, "img_id": image_id, "base_id": base, "top_id": leaf, "base_generation": 1}
    assert house.outcome("StoragePool.prepareMerge", storagepoolID=house.pool_id, subchainInfo=subchain)[1] == 0
    assert run_job(house, "SDM.merge", subchain_info=subchain, merge_bitmaps=True)["status"] == "done"
    found = qemu_info(house.image(image_id) / base)["format-specific"]["data"]["bitmaps"]
    assert [one["name"] for one in found] == [kept]


def killed_while_open(path: Path) -> None:
    """A program writes to the volume and dies: bitmaps of it stay marked as in use."""
    argv = ["qemu-io", "-f", "qcow2", path]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write(b"write 0 512\n")
        holder.stdin.flush()
        while b"wrote" not in holder.stdout.readline():
            assert holder.poll() is None
        holder.kill()


def without_mark(path: Path) -> None:
    """As a program leaves it that dies while it writes bitmaps: QEMU believes none of them any more."""
    with path.open("r+b") as file:
        file.seek(88)
        file.write(bytes(8))


@pytest.mark.parametrize("harm", [killed_while_open, without_mark])
@pytest.mark.parametrize("early", [True, False], ids=["before prepareMerge", "after it"])
def test_half_of_a_bitmap_never_seems_whole(house: StorageRoom, harm: Callable[[Path], None], early: bool) -> None:
    name = new_id()
    image_id, base = house.create(bitmap=name)
    _, leaf = house.create(image_id, srcImgUUID=image_id, srcVolUUID=base, addBitmaps=True, size=str(32 * MIB))
    subchain = {"sd_id": house.sd_id, "img_id": image_id, "base_id": base, "top_id": leaf, "base_generation": 0}
    pool = {"storagepoolID": house.pool_id}
    if not early:
        assert house.outcome("StoragePool.prepareMerge", **pool, subchainInfo=subchain) == ("success", 0)
    harm(house.image(image_id) / base)
    if early:
        assert house.outcome("StoragePool.prepareMerge", **pool, subchainInfo=subchain) == ("success", 0)
    assert run_job(house, "SDM.merge", subchain_info=subchain, merge_bitmaps=True)["status"] == "done"
    assert names_of_bitmaps(house.image(image_id) / base) == []
    assert names_of_bitmaps(house.image(image_id) / leaf) == []


def names_of_bitmaps(path: Path) -> list[str]:
    return sorted(one["name"] for one in qemu_info(path)["format-specific"]["data"].get("bitmaps", []))


def test_bitmaps_are_added_removed_and_cleared_by_jobs(house: StorageRoom) -> None:
    image_id, leaf = house.create()
    path = house.image(image_id) / leaf

    def ref(generation: int) -> dict[str, Any]:
        return {"sd_id": house.sd_id, "img_id": image_id, "vol_id": leaf, "generation": generation}

    for n, name in enumerate(("a", "b", "c")):
        assert run_job(house, "SDM.add_bitmap", vol_info=ref(n), bitmap=name)["status"] == "done"
    assert names_of_bitmaps(path) == ["a", "b", "c"]
    assert run_job(house, "SDM.remove_bitmap", vol_info=ref(3), bitmap="b")["status"] == "done"
    assert names_of_bitmaps(path) == ["a", "c"]
    assert run_job(house, "SDM.clear_bitmaps", vol_info=ref(4))["status"] == "done"
    assert names_of_bitmaps(path) == []
    assert house.info(image_id, leaf)["generation"] == 5


def test_jobs_on_a_bitmap_that_were_cut_short_before_they_counted_are_asked_for_again(house: StorageRoom) -> None:
    image_id, leaf = house.create()
    path = house.image(image_id) / leaf
    ref = {"sd_id": house.sd_id, "img_id": image_id, "vol_id": leaf}
    subprocess.run(["qemu-img", "bitmap", "--add", "--enable", "-f", "qcow2", path, "a"], check=True)
    write_pattern(path, "qcow2", 1, 0, MIB)  # a VM meanwhile, of which it has seen all
    unfenced = run_job(house, "SDM.add_bitmap", vol_info=ref, bitmap="a")
    assert (unfenced["status"], house.info(image_id, leaf)["generation"]) == ("failed", 0)
    assert run_job(house, "SDM.add_bitmap", vol_info=ref | {"generation": 0}, bitmap="a")["status"] == "done"
    assert (names_of_bitmaps(path), house.info(image_id, leaf)["generation"]) == (["a"], 1)
    subprocess.run(["qemu-img", "bitmap", "--remove", "-f", "qcow2", path, "a"], check=True)
    assert run_job(house, "SDM.remove_bitmap", vol_info=ref | {"generation": 1}, bitmap="a")["status"] == "done"
    assert (names_of_bitmaps(path), house.info(image_id, leaf)["generation"]) == ([], 2)


def test_a_bitmap_that_has_missed_something_is_not_taken_for_one_that_was_just_added(house: StorageRoom) -> None:
    name = new_id()
    image_id, leaf = house.create(bitmap=name)
    path = house.image(image_id) / leaf
    ref = {"sd_id": house.sd_id, "img_id": image_id, "vol_id": leaf, "generation": 0}
    killed_while_open(path)
    assert run_job(house, "SDM.add_bitmap", vol_info=ref, bitmap=name)["status"] == "failed"
    flags = [one["flags"] for one in qemu_info(path)["format-specific"]["data"]["bitmaps"]]
    assert (flags, house.info(image_id, leaf)["generation"]) == ([["in-use", "auto"]], 0)


def test_the_compat_level_is_amended(house: StorageRoom, layers: Layers) -> None:
    done = run_job(house, "SDM.amend_volume", vol_info=layers.ref(layers.middle), qcow2_attr={"compat": "0.10"})
    assert done["status"] == "done"
    assert qemu_info(layers.path(layers.middle))["format-specific"]["data"]["compat"] == "0.10"
    with pytest.raises(InvalidVolumeParameter):
        house.call("SDM.amend_volume", job_id=new_id(), vol_info=layers.ref(layers.leaf), qcow2_attr={"compat": "2"})


def test_attributes_are_updated_when_the_generation_is_right(house: StorageRoom) -> None:
    image_id, leaf = house.create()
    ref = {"sd_id": house.sd_id, "img_id": image_id, "vol_id": leaf, "generation": 0}
    wanted = {"generation": 44, "description": "new", "legality": "ILLEGAL"}
    assert run_job(house, "SDM.update_volume", vol_info=ref, vol_attr=wanted)["status"] == "done"
    info = house.info(image_id, leaf)
    assert (info["generation"], info["description"], info["legality"]) == (44, "new", "ILLEGAL")
    failed = run_job(house, "SDM.update_volume", vol_info=ref, vol_attr={"legality": "LEGAL"})
    assert failed["error"]["code"] == 911
    assert house.info(image_id, leaf) == info


@pytest.mark.parametrize("source_format", [COW, RAW])
@pytest.mark.parametrize(("fmt", "allocation"), [(COW, 2), (RAW, 2), (RAW, 1), (COW, 1)])
def test_data_is_copied_into_a_volume_that_is_legal_when_it_is_done(
    house: StorageRoom, source_format: int, fmt: int, allocation: int
) -> None:
    source_image, source = house.create(volFormat=source_format)
    names = {COW: "qcow2", RAW: "raw"}
    write_pattern(house.image(source_image) / source, names[source_format], 9, 5 * MIB, 3 * MIB)
    image_id, leaf = house.create(volFormat=fmt, preallocate=allocation, legal=False)
    write_pattern(house.image(image_id) / leaf, names[fmt], 7, 0, MIB)  # of an attempt that failed
    done = run_job(
        house,
        "SDM.copy_data",
        source={"endpoint_type": "div", "sd_id": house.sd_id, "img_id": source_image, "vol_id": source},
        destination={
            "endpoint_type": "div",
            "sd_id": house.sd_id,
            "img_id": image_id,
            "vol_id": leaf,
            "generation": 0,
        },
        legal="unknown parameters are ignored",
    )
    assert done["status"] == "done", done
    info = house.info(image_id, leaf)
    assert (info["status"], info["generation"]) == ("OK", 1)
    path = house.image(image_id) / leaf
    assert same_content(house.image(source_image) / source, names[source_format], path, names[fmt])
    assert path.stat().st_mode & 0o777 == 0o660
    if allocation == 1:
        assert path.stat().st_blocks * 512 > 15 * MIB


def test_nothing_is_copied_over_a_template(house: StorageRoom) -> None:
    """All that stand on it would have had other data."""
    source_image, source = house.create()
    image_id, volume_id = house.make_template()
    before = (house.image(image_id) / volume_id).read_bytes()
    ends = [
        {"endpoint_type": "div", "sd_id": house.sd_id, "img_id": image, "vol_id": volume, "generation": 0}
        for image, volume in ((source_image, source), (image_id, volume_id))
    ]
    refused = run_job(house, "SDM.copy_data", source=ends[0], destination=ends[1])
    assert (refused["status"], refused["error"]["code"]) == ("failed", SharedVolumeNotWritable.code)
    assert (house.image(image_id) / volume_id).read_bytes() == before
    assert house.info(image_id, volume_id)["status"] == "OK"


def test_a_copy_that_fails_leaves_its_target_illegal_with_the_old_generation(house: StorageRoom) -> None:
    source_image, source = house.create(volFormat=RAW, size=str(32 * MIB))
    image_id, leaf = house.create(volFormat=RAW, preallocate=1)
    done = run_job(
        house,
        "SDM.copy_data",
        source={"sd_id": house.sd_id, "img_id": source_image, "vol_id": source},
        destination={"sd_id": house.sd_id, "img_id": image_id, "vol_id": leaf},
    )
    assert (done["status"], done["error"]["code"]) == ("failed", 225), done
    info = house.info(image_id, leaf)
    assert (info["status"], info["generation"]) == ("ILLEGAL", 0)


@needs_root()
@needs_program("mkfs.ext4")
@pytest.mark.parametrize("fmt", [COW, RAW])
def test_a_copy_that_finds_no_room_leaves_a_target_that_can_be_asked_for_again(small: StorageRoom, fmt: int) -> None:
    source_image, source = small.create(volFormat=RAW)
    write_pattern(small.image(source_image) / source, "raw", 9, 5 * MIB, 3 * MIB)
    image_id, leaf = small.create(volFormat=fmt)
    inode = (small.image(image_id) / leaf).stat().st_ino
    ends = (("source", source_image, source), ("destination", image_id, leaf))
    refs = {
        end: {"endpoint_type": "div", "sd_id": small.sd_id, "img_id": image, "vol_id": volume, "generation": 0}
        for end, image, volume in ends
    }
    os.truncate(small.image(image_id) / leaf, 0)  # what it gives back while it is emptied is somebody else's at once
    with filled(small.root / "export"):
        assert run_job(small, "SDM.copy_data", **refs)["status"] == "failed"
        assert small.info(image_id, leaf)["status"] == "ILLEGAL"
    done = run_job(small, "SDM.copy_data", **refs)
    assert done["status"] == "done", done
    assert small.info(image_id, leaf)["status"] == "OK"
    path = small.image(image_id) / leaf
    assert same_content(small.image(source_image) / source, "raw", path, "qcow2" if fmt == COW else "raw")
    assert path.stat().st_ino == inode


def test_what_a_copy_that_was_killed_left_of_its_target_is_written_over(house: StorageRoom) -> None:
    source_image, source = house.create()
    image_id, leaf = house.create()
    os.truncate(house.image(image_id) / leaf, 0)
    ends = (("source", source_image, source), ("destination", image_id, leaf))
    refs = {end: {"sd_id": house.sd_id, "img_id": image, "vol_id": volume} for end, image, volume in ends}
    done = run_job(house, "SDM.copy_data", **refs)
    assert done["status"] == "done", done
    assert qemu_info(house.image(image_id) / leaf)["virtual-size"] == 16 * MIB


def test_a_copy_into_a_snapshot_brings_only_the_difference(house: StorageRoom, layers: Layers) -> None:
    _, over = house.create(
        layers.image_id, srcImgUUID=layers.image_id, srcVolUUID=layers.leaf, size=str(32 * MIB), legal=False
    )
    source_image, source = house.create(volFormat=RAW, size=str(32 * MIB))
    write_pattern(house.image(source_image) / source, "raw", 8, 20 * MIB, MIB)
    done = run_job(
        house,
        "SDM.copy_data",
        source={"sd_id": house.sd_id, "img_id": source_image, "vol_id": source},
        destination={"sd_id": house.sd_id, "img_id": layers.image_id, "vol_id": over},
    )
    assert done["status"] == "done", done
    assert same_content(house.image(source_image) / source, "raw", layers.path(over), "qcow2")
    assert qemu_info(layers.path(over))["backing-filename"] == layers.leaf


def test_a_copy_that_was_cut_short_behind_its_bitmaps_can_be_asked_for_again(house: StorageRoom) -> None:
    name = new_id()
    image_id, base = house.create()
    _, leaf = house.create(image_id, srcImgUUID=image_id, srcVolUUID=base, bitmap=name)
    target_image, target_base = house.create()
    _, target = house.create(target_image, srcImgUUID=target_image, srcVolUUID=target_base, bitmap=name)
    ends = (("source", image_id, leaf), ("destination", target_image, target))
    refs = {
        end: {"endpoint_type": "div", "sd_id": house.sd_id, "img_id": image, "vol_id": volume, "generation": 0}
        for end, image, volume in ends
    }
    done = run_job(house, "SDM.copy_data", **refs, copy_bitmaps=True)
    assert done["status"] == "done", done
    assert names_of_bitmaps(house.image(target_image) / target) == [name]


def test_a_job_id_is_used_once_and_an_event_tells_its_end(house: StorageRoom, layers: Layers) -> None:
    job_id = new_id()
    params = {"job_id": job_id, "vol_info": layers.ref(layers.leaf), "bitmap": "once"}
    house.call("SDM.add_bitmap", **params)
    with pytest.raises(JobExists):
        house.call("SDM.add_bitmap", **params)

    def told() -> list[dict[str, Any]]:
        return [e.info for e in house.room.events.events if isinstance(e, JobChanged) and e.job_id == job_id]

    assert eventually(told)[0]["status"] == "done"


def test_endpoints_that_are_no_volumes_are_refused(house: StorageRoom, layers: Layers) -> None:
    for source in ({"endpoint_type": "external", "url": "/dev/sda"}, {"sd_id": house.sd_id}, layers.ref(layers.leaf)):
        with pytest.raises(InvalidVolumeParameter):
            house.call("SDM.copy_data", job_id=new_id(), source=source, destination=layers.ref(layers.leaf))


def reconcile(house: StorageRoom, layers: Layers) -> list[str]:
    found: list[str] = house.call(
        "Image.reconcileVolumeChain",
        storagepoolID=house.pool_id,
        storagedomainID=house.sd_id,
        imageID=layers.image_id,
        leafVolID=layers.leaf,
    )
    return found


def test_a_chain_in_order_is_left_alone(house: StorageRoom, layers: Layers) -> None:
    before = {path: path.read_bytes() for path in house.image(layers.image_id).glob("*.meta")}
    assert reconcile(house, layers) == [layers.base, layers.middle, layers.leaf]
    assert {path: path.read_bytes() for path in before} == before


def test_metadata_follows_the_headers_after_a_live_merge_was_cut_short(house: StorageRoom, layers: Layers) -> None:
    """QEMU has moved the leaf onto the base; the agent died before it wrote that down."""
    base_fmt = "qcow2" if house.info(layers.image_id, layers.base)["format"] == "COW" else "raw"
    argv = ["qemu-img", "commit", "-q", "-f", "qcow2", "-b", layers.base, layers.path(layers.middle)]
    subprocess.run(argv, check=True)
    rebase = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", layers.base, "-F", base_fmt, layers.path(layers.leaf)]
    subprocess.run(rebase, check=True)
    ids = {"pool_id": house.pool_id, "sd_id": house.sd_id, "image_id": layers.image_id}
    assert house.call("internal.prepare_drive", **ids, volume_id=layers.leaf)["capacity_bytes"] == 32 * MIB
    assert reconcile(house, layers) == [layers.base, layers.leaf]
    assert house.info(layers.image_id, layers.leaf)["parent"] == layers.base
    assert house.info(layers.image_id, layers.middle)["status"] == "ILLEGAL"
    assert house.info(layers.image_id, layers.base)["parent"] == BLANK


def test_a_leaf_that_was_being_left_when_the_vm_ended_is_no_leaf_any_more(house: StorageRoom, layers: Layers) -> None:
    """What the guest wrote after QEMU had left it is in the volume below; the old leaf must not cover that again."""
    ids = {"sd_id": house.sd_id, "image_id": layers.image_id}
    house.call("internal.set_running_legality", **ids, volume_id=layers.leaf, legal=False)
    for _ in range(2):
        assert reconcile(house, layers) == [layers.base, layers.middle]
        assert house.info(layers.image_id, layers.leaf)["status"] == "ILLEGAL"
        ends = house.info(layers.image_id, layers.middle)
        assert (ends["voltype"], ends["status"], ends["parent"]) == ("LEAF", "OK", layers.base)
    house.call("internal.prepare_drive", pool_id=house.pool_id, **ids, volume_id=layers.middle)


def test_jobs_are_listed_with_what_the_engine_can_decode(house: StorageRoom) -> None:
    listed = house.call("internal.storage_jobs")
    assert json.loads(json.dumps(listed)) == listed
    for job in listed.values():
        assert set(job) <= {"id", "status", "description", "job_type", "progress", "error"}
        assert job["status"] in {"pending", "running", "done", "aborted", "failed"}
        assert isinstance(job.get("progress", 0.0), float)
