# SPDX-License-Identifier: Apache-2.0
"""Volumes and images through the public port of a whole house, and a storage worker killed in the middle of a copy."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.needs import needs_program, needs_root
from tests.support.storage_room import qemu_check, same_content, slow_copies, write_pattern
from tests.system.test_storage_house import (
    IMAGE,
    POOL,
    SD,
    VOLUME,
    become_spm,
    connect,
    connect_pool,
    data,
    finish,
    house,
    make,
)
from tests.system.test_storage_house import create_volume as start_create
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.types import BLANK

_ = (data, house)  # fixtures
pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("sudo", "qemu-img", "qemu-io"),
    pytest.mark.timeout(120),
]

MIB = 2**20
SNAPSHOT, TEMPLATE_IMAGE, TEMPLATE, CLONE_IMAGE, CLONE = (
    f"{n}0000000-aaaa-4bbb-8ccc-{n}00000000000" for n in (3, 4, 5, 6, 7)
)


def names(image_id: str = IMAGE, volume_id: str = VOLUME) -> dict[str, Any]:
    return {"storagepoolID": POOL, "storagedomainID": SD, "imageID": image_id, "volumeID": volume_id}


def create(house: RunningHouse, image_id: str, volume_id: str, **changes: Any) -> None:
    params = {
        **names(image_id, volume_id),
        "size": str(64 * MIB),
        "volFormat": 4,
        "preallocate": 2,
        "diskType": "DATA",
        "desc": "",
        "srcImgUUID": BLANK,
        "srcVolUUID": BLANK,
        **changes,
    }
    finish(house, house.call("Volume.create", params))


@pytest.fixture
def images(data: Path) -> Iterator[Path]:
    return data / SD / "images"


def test_a_disk_lives_from_creation_over_template_clone_and_merge_to_its_end(
    house: RunningHouse, data: Path, images: Path
) -> None:
    make(house, data)
    finish(house, start_create(house, IMAGE, VOLUME))
    write_pattern(images / IMAGE / VOLUME, "qcow2", 1, 0, 4 * MIB)
    create(house, IMAGE, SNAPSHOT, srcImgUUID=IMAGE, srcVolUUID=VOLUME)
    write_pattern(images / IMAGE / SNAPSHOT, "qcow2", 2, 2 * MIB, 4 * MIB)
    prepared = house.call("Image.prepare", names(volume_id=SNAPSHOT))
    assert [one["volumeID"] for one in prepared["imgVolumesInfo"]] == [VOLUME, SNAPSHOT]
    assert Path(prepared["path"]).samefile(images / IMAGE / SNAPSHOT)

    copied = {
        **names(volume_id=SNAPSHOT),
        "dstSdUUID": SD,
        "dstImgUUID": TEMPLATE_IMAGE,
        "dstVolUUID": TEMPLATE,
        "desc": "template",
        "volType": "6",  # engines send digits
        "volFormat": 4,
        "preallocate": 2,
        "postZero": "false",
        "force": False,
    }
    finish(house, house.call("Volume.copy", copied))
    create(house, CLONE_IMAGE, CLONE, srcImgUUID=TEMPLATE_IMAGE, srcVolUUID=TEMPLATE)
    assert same_content(images / IMAGE / SNAPSHOT, "qcow2", images / CLONE_IMAGE / CLONE, "qcow2")

    subchain = {"sd_id": SD, "img_id": IMAGE, "base_id": VOLUME, "top_id": SNAPSHOT, "base_generation": 0}
    finish(house, house.call("StoragePool.prepareMerge", {"storagepoolID": POOL, "subchainInfo": subchain}))
    job_id = "80000000-aaaa-4bbb-8ccc-800000000000"
    house.call("SDM.merge", {"job_id": job_id, "subchain_info": subchain})
    # As an engine learns it when the host that ran the job cannot tell any more.
    eventually(lambda: house.call("Volume.getInfo", names())["generation"] == 1, within_s=30)
    finish(house, house.call("StoragePool.finalizeMerge", {"storagepoolID": POOL, "subchainInfo": subchain}))
    finish(house, house.call("Image.deleteVolumes", {**names(), "volumeList": [SNAPSHOT]}))
    assert same_content(images / IMAGE / VOLUME, "qcow2", images / CLONE_IMAGE / CLONE, "qcow2")
    qemu_check(images / IMAGE / VOLUME)

    house.call("Image.teardown", names())
    with pytest.raises(RemoteError) as e:
        house.call("Image.delete", {**names(TEMPLATE_IMAGE), "postZero": False, "force": False})
    assert e.value.code == 223
    for image_id in (CLONE_IMAGE, TEMPLATE_IMAGE, IMAGE):
        finish(house, house.call("Image.delete", {**names(image_id), "postZero": True, "force": False}))
    assert os.listdir(images) == []
    assert house.call("Host.getAllTasksStatuses") == {}


def writers_of(path: Path) -> list[int]:
    """Processes that have a file below `path` open."""
    found = []
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if Path(os.readlink(fd)).is_relative_to(path):
                found.append(int(fd.parts[2]))
        except OSError:
            continue
    return found


@pytest.fixture
def slow_house(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningHouse]:
    """Its copies take a minute, so that they are still under way when something happens to them."""
    place = Path(tempfile.mkdtemp(prefix="vdsm-mp-slow-", dir="/tmp"))
    place.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow_copies(place / 'bin', MIB)}:{os.environ['PATH']}")
    with RunningHouse.start(table="tests.support.storage_table") as made:
        yield made
    shutil.rmtree(place)


@pytest.mark.parametrize("ends", ["worker", "house"])
def test_a_copy_cut_short_by_the_death_of_its_worker_is_undone(
    slow_house: RunningHouse, data: Path, images: Path, ends: str
) -> None:
    house = slow_house
    make(house, data)
    create(house, IMAGE, VOLUME, volFormat=5)
    write_pattern(images / IMAGE / VOLUME, "raw", 5, 0, 64 * MIB)
    copied = {
        **names(),
        "dstSdUUID": SD,
        "dstImgUUID": CLONE_IMAGE,
        "dstVolUUID": CLONE,
        "desc": "",
        "volType": 8,
        "volFormat": 5,
        "preallocate": 2,
        "postZero": False,
        "force": False,
    }
    task_id = house.call("Volume.copy", copied)
    target = images / CLONE_IMAGE / CLONE
    eventually(lambda: writers_of(images / CLONE_IMAGE), within_s=30)
    if ends == "worker":
        pid = house.pid_of("storage")
        os.kill(pid, signal.SIGKILL)
        assert house.call("Host.ping2") is True
        # Nobody writes any more once the next worker is there.
        house.wait_other_pid("storage", pid)
        eventually(lambda: writers_of(images / CLONE_IMAGE) == [], within_s=20)
    else:
        assert house.terminate(within_s=20) == 0  # by SIGTERM, and nobody writes for it any more
        assert writers_of(images / CLONE_IMAGE) == []
        house.begin()
        house.wait_ready()
    connect(house, data)
    if ends == "house":
        connect_pool(house)
    become_spm(house)
    status = eventually(lambda: _over(house, task_id), within_s=20)
    assert (status["taskState"], status["taskResult"]) == ("finished", "cleanSuccess")
    house.call("Task.clear", {"taskID": task_id})
    assert not target.parent.exists()
    assert house.call("Volume.getInfo", names())["status"] == "OK"


def _over(house: RunningHouse, task_id: str) -> dict[str, Any] | None:
    status: dict[str, Any] = house.call("Host.getAllTasksStatuses")[task_id]
    return status if status["taskState"] == "finished" else None
