# SPDX-License-Identifier: Apache-2.0
"""Storage as an engine meets it: through the public port of a house under user vdsm, its workers killed meanwhile."""

import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.loopdevice import MIB, ext4_on_loop
from tests.support.needs import needs_program, needs_root
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.types import BLANK

pytestmark = [pytest.mark.system, needs_root(), needs_program("sudo", "qemu-img"), pytest.mark.timeout(120)]

SD = "5d000000-0000-4000-8000-000000000001"
POOL = "90000000-0000-4000-8000-000000000001"
VM = "30000000-aaaa-4bbb-8ccc-300000000000"
IMAGE, VOLUME = "10000000-aaaa-4bbb-8ccc-100000000000", "20000000-aaaa-4bbb-8ccc-200000000000"


@pytest.fixture
def house() -> Iterator[RunningHouse]:
    with RunningHouse.start(table="tests.support.storage_table") as made:
        yield made


@pytest.fixture
def data() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="vdsm-mp-data-", dir="/tmp"))
    shutil.chown(made, "vdsm", "kvm")
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def become_spm(house: RunningHouse) -> None:
    task_id = house.call(
        "StoragePool.spmStart",
        {
            "storagepoolID": POOL,
            "prevID": -1,
            "prevLver": "-1",
            "enableScsiFencing": "false",
            "maxHostID": 250,
            "domVersion": "5",
        },
    )
    finish(house, task_id)


def finish(house: RunningHouse, task_id: str) -> None:
    status = eventually(lambda: over(house, task_id), within_s=30)
    assert (status["taskResult"], status["code"]) == ("success", 0), status
    house.call("Task.clear", {"taskID": task_id})


def over(house: RunningHouse, task_id: str) -> dict[str, Any] | None:
    status: dict[str, Any] = house.call("Task.getStatus", {"taskID": task_id})
    return status if status["taskState"] == "finished" else None


def connect(house: RunningHouse, data: Path) -> None:
    rows = [{"id": "c1", "connection": str(data), "port": "", "iqn": "", "user": "", "password": ""}]
    params = {"storagepoolID": BLANK, "domainType": 4, "connectionParams": rows}
    assert house.call("StoragePool.connectStorageServer", params) == [{"id": "c1", "status": 0}]


def connect_pool(house: RunningHouse) -> None:
    house.call(
        "StoragePool.connect",
        {
            "storagepoolID": POOL,
            "hostID": 1,
            "scsiKey": POOL,
            "masterSdUUID": SD,
            "masterVersion": 1,
            "domainDict": {SD: "active"},
        },
    )


def make(house: RunningHouse, data: Path) -> None:
    """From nothing to an active data centre, in an engine's order and words."""
    connect(house, data)
    house.call(
        "StorageDomain.create",
        {
            "storagedomainID": SD,
            "domainType": 4,
            "typeArgs": str(data),
            "name": "local",
            "domainClass": 1,
            "version": "5",
            "blockSize": 512,
            "maxHosts": 250,
        },
    )
    house.call(
        "StoragePool.create",
        {
            "storagepoolID": POOL,
            "name": "dc",
            "masterSdUUID": SD,
            "masterVersion": 1,
            "domainList": [SD],
            "lockRenewalIntervalSec": 5,
            "leaseTimeSec": 60,
            "ioOpTimeoutSec": 10,
            "leaseRetries": 3,
        },
    )
    connect_pool(house)
    become_spm(house)
    house.call("StorageDomain.activate", {"storagepoolID": POOL, "storagedomainID": SD})


def create_volume(house: RunningHouse, image_id: str, volume_id: str) -> str:
    task_id: str = house.call(
        "Volume.create",
        {
            "volumeID": volume_id,
            "storagepoolID": POOL,
            "storagedomainID": SD,
            "imageID": image_id,
            "size": str(64 * 2**20),
            "volFormat": 4,
            "preallocate": 2,
            "diskType": "DATA",
            "desc": '{"DiskAlias":"disk"}',
            "srcImgUUID": BLANK,
            "srcVolUUID": BLANK,
            "sequence": 1,
        },
    )
    return task_id


def spm_status(house: RunningHouse) -> str:
    return str(house.call("StoragePool.getSpmStatus", {"storagepoolID": POOL})["spmStatus"])


def test_a_data_centre_is_made_used_and_left_through_the_public_port(house: RunningHouse, data: Path) -> None:
    make(house, data)
    finish(house, create_volume(house, IMAGE, VOLUME))
    ids = {"storagepoolID": POOL, "storagedomainID": SD, "imageID": IMAGE, "volumeID": VOLUME}
    assert house.call("Volume.getInfo", ids)["status"] == "OK"
    owners = {path.owner() for path in data.rglob("*")}
    assert owners == {"vdsm"}
    children = {child["name"] for child in house.status()["children"]}
    assert SD in children
    house.call("StoragePool.spmStop", {"storagepoolID": POOL})
    house.call("StoragePool.disconnect", {"storagepoolID": POOL, "hostID": 1, "scsiKey": POOL})
    rows = [{"id": "c1", "connection": str(data)}]
    gone = {"storagepoolID": BLANK, "domainType": 4, "connectionParams": rows}
    assert house.call("StoragePool.disconnectStorageServer", gone) == [{"id": "c1", "status": 0}]
    eventually(lambda: house.status()["children"] == [])
    with pytest.raises(RemoteError) as e:
        house.call("StoragePool.getSpmStatus", {"storagepoolID": POOL})
    assert e.value.code == 309


def test_a_killed_worker_comes_back_with_its_pool_but_without_the_role(house: RunningHouse, data: Path) -> None:
    make(house, data)
    kept = create_volume(house, IMAGE, VOLUME)
    eventually(lambda: over(house, kept))
    house.kill_worker("storage")
    assert spm_status(house) == "Free"
    become_spm(house)
    assert house.call("Host.getAllTasksStatuses")[kept]["taskResult"] == "success"
    finish(house, kept)


def test_ovfs_outlive_the_worker_that_stored_them(house: RunningHouse, data: Path) -> None:
    make(house, data)
    where = {"storagepoolID": POOL, "storagedomainID": SD}
    rows = [{"vm": VM, "ovf": "<ovf>ü</ovf>", "imglist": IMAGE}]
    assert house.call("StoragePool.updateVMs", {**where, "vmList": rows}) is True
    house.kill_worker("storage")
    assert house.call("StoragePool.getBackedUpVmsList", where) == [VM]
    assert house.call("StoragePool.getBackedUpVmsInfo", {**where, "vmList": [VM]}) == {VM: "<ovf>ü</ovf>"}
    with pytest.raises(RemoteError) as e:
        house.call("StoragePool.removeVM", {**where, "vmUUID": VM})
    assert e.value.code == 654
    become_spm(house)
    assert house.call("StoragePool.removeVM", {**where, "vmUUID": VM}) is True
    assert house.call("StoragePool.getBackedUpVmsList", where) == []
    assert (data / SD / "master/vms").owner() == "vdsm"


def test_a_killed_io_child_is_replaced(house: RunningHouse, data: Path) -> None:
    make(house, data)

    def child() -> int:
        return int(next(c["pid"] for c in house.status()["children"] if c["name"] == SD))

    pid = child()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert house.call("StorageDomain.getInfo", {"storagedomainID": SD})["uuid"] == SD
    assert child() != pid
    assert spm_status(house) == "SPM"


def test_the_role_is_given_up_on_sigusr1(house: RunningHouse, data: Path) -> None:
    make(house, data)
    assert house.process is not None
    house.process.send_signal(signal.SIGUSR1)
    eventually(lambda: spm_status(house) == "Free")
    become_spm(house)


def test_a_restarted_agent_watches_its_domains_at_once(house: RunningHouse, data: Path) -> None:
    make(house, data)
    assert house.terminate() == 0
    house.begin()
    house.wait_ready()
    assert spm_status(house) == "Free"
    connect(house, data)
    connect_pool(house)
    become_spm(house)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    user = pwd.getpwnam("vdsm")
    with ext4_on_loop(tmp_path / "disk", 64 * MIB, f"{user.pw_uid}:{user.pw_gid}") as made:
        yield made


def test_root_mounts_and_unmounts_for_the_agent(house: RunningHouse, device: str) -> None:
    def server(verb: str, **changes: str) -> int:
        rows = [{"id": "p", "connection": device, "vfs_type": "ext4", "mnt_options": "noatime"} | changes]
        params = {"storagepoolID": BLANK, "domainType": 6, "connectionParams": rows}
        return int(house.call(f"StoragePool.{verb}", params)[0]["status"])

    assert server("connectStorageServer", mnt_options="exec=/bin/sh") == 477
    assert server("connectStorageServer", vfs_type="fuse.sshfs") == 477
    assert server("connectStorageServer") == 0
    target = house.root / "repo/mnt" / device.replace("/", "_")
    assert os.path.ismount(target)
    options = Path("/proc/mounts").read_text().split(f"{target} ")[1].split()[1]
    assert {"nosuid", "nodev", "noatime"} <= set(options.split(","))
    # What the agent holds open on the mount goes before the mount does.
    with pytest.raises(RemoteError) as e:
        house.call("StorageDomain.getInfo", {"storagedomainID": SD})
    assert e.value.code == 358
    assert server("disconnectStorageServer") == 0
    assert not target.exists()
