# SPDX-License-Identifier: Apache-2.0
"""What deletions that ended anyhow leave of images is removed by the SPM, without a new role."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.loopdevice import frozen
from tests.support.needs import needs_program, needs_root
from tests.support.storage_room import MIB, PREALLOCATED, RAW, StorageRoom
from vdsm_mp.api.errors_task import TaskNotSaved
from vdsm_mp.storage.volume_access import Volumes

pytestmark = needs_program("qemu-img")


def names(house: StorageRoom, sd_id: str) -> list[str]:
    return os.listdir(house.domain_of(sd_id) / "images")


def delete(house: StorageRoom, image_id: str, *, zero: bool = False) -> str:
    params = {"imageID": image_id, "storagepoolID": house.pool_id, "storagedomainID": house.sd_id}
    task_id: str = house.call("Image.delete", **params, postZero=zero, force=False)
    return task_id


def hangs(pid: int) -> bool:
    """Does any thread of it wait for the kernel?"""
    states = [one.read_text().rpartition(")")[2].split()[0] for one in Path(f"/proc/{pid}/task").glob("*/stat")]
    return "D" in states


@needs_root()
@needs_program("mkfs.ext4", "fsfreeze")
def test_an_image_is_deleted_though_the_process_that_renamed_it_died_before_it_could_say_so(small: StorageRoom) -> None:
    image_id, _ = small.create()
    name = next(name for _, name in small.room.children.pids if name == small.sd_id)
    child = small.room.children.pids["storage-io", name]
    with ThreadPoolExecutor(1) as pool:
        with frozen(small.root / "export"):
            asked = pool.submit(delete, small, image_id)
            eventually(lambda: hangs(child))
            small.room.children.kill("storage-io", name)
        small.finished(asked.result(timeout=30))
    eventually(lambda: names(small, small.sd_id) == [])


def test_what_is_left_on_a_domain_goes_when_it_is_activated(house: StorageRoom) -> None:
    sd_id = house.add_domain()
    image_id, _ = house.create(storagedomainID=sd_id)
    ids = {"storagedomainID": sd_id, "storagepoolID": house.pool_id}
    house.call("StorageDomain.deactivate", **ids, masterSdUUID=house.sd_id, masterVersion=1)
    images = house.domain_of(sd_id) / "images"
    (images / image_id).rename(images / f"_remove_me_ZERO_{image_id}")
    house.call("StorageDomain.activate", **ids)
    eventually(lambda: names(house, sd_id) == [])


def test_a_wipe_that_was_stopped_is_begun_again(house: StorageRoom) -> None:
    image_id, _ = house.create(volFormat=RAW, preallocate=PREALLOCATED, size=str(192 * MIB))
    task_id = delete(house, image_id, zero=True)
    house.call("Task.stop", taskID=task_id)
    house.ended(task_id)
    house.call("Task.clear", taskID=task_id)
    eventually(lambda: image_id not in " ".join(names(house, house.sd_id)), within_s=30)


def test_a_deletion_that_is_refused_leaves_the_image_whoever_sweeps(
    house: StorageRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task cannot be stored: what was taken away is put back, and is no remnant meanwhile."""
    image_id, leaf = house.create()
    volumes = next(one for one in house.room.room.state if isinstance(one, Volumes))
    with ThreadPoolExecutor(1) as pool:
        sweeps = []

        def cannot(*_args: object, **_how: object) -> str:
            sweeps.append(pool.submit(volumes.remnants.sweep))
            with pytest.raises(TimeoutError):
                sweeps[0].result(timeout=0.3)
            raise TaskNotSaved("it", "the test has no room for it")

        monkeypatch.setattr(volumes.tasks, "start", cannot)
        with pytest.raises(TaskNotSaved):
            delete(house, image_id)
        monkeypatch.undo()
        sweeps[0].result(timeout=10)
    assert house.info(image_id, leaf)["status"] == "OK"
