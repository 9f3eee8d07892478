# SPDX-License-Identifier: Apache-2.0
"""A mounted domain with real sanlock: host id, SPM lease, and what happens to them. ext4 on a loop file, 1 s I/O
timeout (joining a lockspace takes 3 s then, instead of 21)."""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sanlock

from tests.support.eventually import eventually
from tests.support.loopdevice import MIB, ext4_on_loop
from tests.support.needs import lacks, needs_program, needs_root
from tests.support.neighbour import Neighbour
from tests.support.room import Called
from tests.support.root import DirectRoot
from tests.support.sanlock_daemon import SanlockDaemon
from tests.support.storage_room import StorageRoom, code_of
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.options import Config, House, Irs, Sanlock
from vdsm_mp.storage.domain_metadata import parse, serialize
from vdsm_mp.storage.mailbox_format import Extend, failed
from vdsm_mp.storage.mount import escape

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("sanlock", "mkfs.ext4", "losetup"),
    pytest.mark.timeout(120),
]

SD = "5d000000-0000-4000-8000-000000000001"
POOL = "90000000-0000-4000-8000-000000000001"


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="slk-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def device(place: Path) -> Iterator[str]:
    with ext4_on_loop(place / "disk", 256 * MIB, f"{os.getuid()}:108") as made:
        yield made


class Host:
    """An agent's storage room with its own repository."""

    def __init__(self, place: Path, device: str) -> None:
        (place / "run").mkdir(exist_ok=True)
        self.device = device
        self.repository = place / "dc"
        self.config = Config(
            irs=Irs(repository=str(self.repository)),
            sanlock=Sanlock(io_timeout=1),
            vdsm_mp=House(run_dir=f"{place}/run", vdsm_run_dir=f"{place}/run"),
        )
        self.root = DirectRoot(f"{self.repository}/mnt")
        self.room = Called("vdsm_mp.workers.storage", self.config, root=self.root)
        self.call = self.room.call

    @property
    def mount(self) -> Path:
        return self.repository / "mnt" / escape(self.device)

    @property
    def domain(self) -> Path:
        return self.mount / SD

    @property
    def leases(self) -> str:
        return f"{self.domain}/dom_md/leases"

    def server(self, verb: str, **changes: Any) -> int:
        row = {"id": "c", "connection": self.device, "vfs_type": "ext4"} | changes
        [found] = self.call(f"StoragePool.{verb}", storagepoolID=BLANK, domainType=6, connectionParams=[row])
        return int(found["status"])

    def create_domain(self) -> None:
        self.call(
            "StorageDomain.create",
            storagedomainID=SD,
            domainType=6,
            typeArgs=self.device,
            name="shared",
            domainClass=1,
            version="5",
            blockSize=512,
            maxHosts=250,
        )

    def create_pool(self) -> None:
        self.call(
            "StoragePool.create",
            storagepoolID=POOL,
            name="pool",
            masterSdUUID=SD,
            masterVersion=1,
            domainList=[SD],
            lockRenewalIntervalSec=5,
            leaseTimeSec=60,
            ioOpTimeoutSec=10,
            leaseRetries=3,
        )

    def make(self) -> None:
        """From nothing to a pool."""
        assert self.server("connectStorageServer") == 0
        self.create_domain()
        self.create_pool()

    def connect_pool(self) -> None:
        self.call(
            "StoragePool.connect",
            storagepoolID=POOL,
            hostID=1,
            scsiKey=POOL,
            masterSdUUID=SD,
            masterVersion=1,
            domainDict={SD: "active"},
        )

    def become_spm(self) -> dict[str, Any]:
        task_id = self.call(
            "StoragePool.spmStart", storagepoolID=POOL, prevID=-1, prevLver="-1", enableScsiFencing="false"
        )

        def over() -> dict[str, Any] | None:
            status: dict[str, Any] = self.call("Task.getStatus", taskID=task_id)
            return status if status["taskState"] == "finished" else None

        status = eventually(over, within_s=60)
        assert status is not None
        self.call("Task.clear", taskID=task_id)
        return status


@pytest.fixture
def host(place: Path, device: str, daemon: SanlockDaemon) -> Iterator[Host]:
    made = Host(place, device)
    yield made
    made.room.stop()
    for left in sanlock.get_lockspaces():
        sanlock.rem_lockspace(left["lockspace"], left["host_id"], left["path"])
    if os.path.ismount(made.mount):
        subprocess.run(["umount", made.mount], check=True)


def owners(leases: str) -> list[int]:
    found = sanlock.read_resource_owners(SD.encode(), b"SDM", [(leases, 2**20)])
    return [int(owner["host_id"]) for owner in found]


def test_the_way_from_a_mount_to_a_role_and_back(host: Host) -> None:
    # A server that cannot be mounted is told, and leaves nothing.
    assert host.server("connectStorageServer", vfs_type="no such type") == 470
    assert host.server("connectStorageServer", vfs_type="xfs") == 477
    assert host.server("connectStorageServer", mnt_options="rw,exec $(x)") == 453
    assert not host.mount.exists()

    assert host.server("connectStorageServer") == 0
    assert host.server("connectStorageServer", id="another") == 0
    assert host.root.asked.count("mount-posix") == 2

    host.create_domain()
    files = {p.name: (p.stat().st_size, oct(p.stat().st_mode & 0o777)) for p in (host.domain / "dom_md").iterdir()}
    assert files.pop("metadata")[1] == "0o644"
    assert files == {
        "ids": (2**20, "0o660"),
        "leases": (2 * 2**20, "0o660"),
        "xleases": (1302528, "0o660"),
        "inbox": (16 * 2**20, "0o660"),
        "outbox": (16 * 2**20, "0o660"),
    }
    space = sanlock.read_lockspace(f"{host.domain}/dom_md/ids")
    assert space["lockspace"] == SD.encode()
    assert sanlock.read_resource(f"{host.domain}/dom_md/leases", 2**20)["resource"] == b"SDM"

    host.create_pool()
    assert sanlock.get_lockspaces() == []
    host.connect_pool()
    assert host.call("internal.domain_vitals")[SD]["actual"] in (False, True)
    assert host.call("StoragePool.getSpmStatus", storagepoolID=POOL) == {
        "spmStatus": "Free",
        "spmLver": -1,
        "spmId": -1,
    }
    assert (host.become_spm()["taskResult"], owners(host.leases)) == ("success", [1])
    status = host.call("StoragePool.getSpmStatus", storagepoolID=POOL)
    assert (status["spmStatus"], status["spmId"]) == ("SPM", 1)
    assert (host.domain / "master/tasks").is_dir()
    # Hosts of VDSM's are answered for as long as the role lasts.
    request = Extend(SD, POOL, 1024)
    assert Neighbour(host.domain / "dom_md", 2).ask(0, request) == failed(request.encode())
    host.call("StorageDomain.activate", storagepoolID=POOL, storagedomainID=SD)
    eventually(lambda: host.room.call("internal.check_storage") and _acquired(host), within_s=30)

    # Leaving is refused as SPM; then everything is given back.
    leave = {"storagepoolID": POOL, "hostID": 1, "scsiKey": POOL}
    assert code_of(host.call, "StoragePool.disconnect", **leave) == 656
    host.call("StoragePool.spmStop", storagepoolID=POOL)
    assert host.call("StoragePool.getSpmStatus", storagepoolID=POOL)["spmStatus"] == "Free"
    version = sanlock.read_resource(f"{host.domain}/dom_md/leases", 2**20)["version"]
    assert version == 2  # the pool's creation and one role
    host.call("StoragePool.disconnect", **leave)
    assert sanlock.get_lockspaces() == []
    assert host.server("disconnectStorageServer", id="another") == 0
    assert os.path.ismount(host.mount)
    assert host.server("disconnectStorageServer") == 0
    assert not host.mount.exists()


def test_hosts_are_answered_where_the_master_is_whatever_it_was_before(host: Host, place: Path) -> None:
    host.make()
    host.connect_pool()
    host.become_spm()
    local = SD[:-1] + "9"
    (place / "export").mkdir()
    row = {"id": "l", "connection": f"{place}/export"}
    host.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=[row])
    host.call(
        "StorageDomain.create",
        storagedomainID=local,
        domainType=4,
        typeArgs=f"{place}/export",
        name="local",
        domainClass=1,
        version="5",
    )
    for verb in ("attach", "activate"):
        host.call(f"StorageDomain.{verb}", storagepoolID=POOL, storagedomainID=local)

    def move(old: str, new: str, version: int) -> None:
        names = {"oldMasterUUID": old, "newMasterUUID": new, "masterVersion": version}
        task_id = host.call("StoragePool.switchMaster", storagepoolID=POOL, **names)
        assert eventually(lambda: _ended(host, task_id), within_s=30) == "success"
        host.call("Task.clear", taskID=task_id)

    request = Extend(SD, POOL, 1024)
    shared = Neighbour(host.domain / "dom_md", 2)
    assert shared.ask(0, request) == failed(request.encode())
    move(SD, local, 2)
    eventually(lambda: not _reads_mail())
    assert owners(host.leases) == []
    shared.put(0, request.encode())
    move(local, SD, 3)
    # What was asked while nobody listened is answered, too.
    eventually(lambda: shared.heard(0) == failed(request.encode()), within_s=30, every_s=0.05)
    assert owners(host.leases) == [1]
    host.call("StoragePool.spmStop", storagepoolID=POOL)
    eventually(lambda: not _reads_mail())
    host.call("StoragePool.disconnect", storagepoolID=POOL, hostID=1, scsiKey=POOL)


def _reads_mail() -> bool:
    return "mailbox" in {thread.name for thread in threading.enumerate()}


def _ended(host: Host, task_id: str) -> str:
    status = host.call("Task.getStatus", taskID=task_id)
    return str(status["taskResult"]) if status["taskState"] == "finished" else ""


def _acquired(host: Host) -> bool:
    monitors = next(thing for thing in host.room.room.state if type(thing).__name__ == "Monitors")
    monitors.check_soon(SD)
    return bool(host.call("internal.domain_vitals")[SD]["acquired"])


def test_another_host_with_the_role_is_seen_and_respected(host: Host) -> None:
    host.make()
    ids, leases = f"{host.domain}/dom_md/ids", host.leases
    # Host 2 is a second daemon's client, so that one daemon does not see both.
    (host.repository.parent / "t").mkdir()
    other = _OtherHost(host.repository.parent / "t", ids, leases)
    try:
        host.connect_pool()
        status = eventually(lambda: _spm_id(host, 2), within_s=30)
        assert status["spmStatus"] == "Free"
        failed = host.become_spm()
        assert (failed["code"], failed["taskResult"]) == (651, "cleanSuccess")
        assert host.call("StoragePool.getSpmStatus", storagepoolID=POOL)["spmId"] == 2
        other.release()
        eventually(lambda: _spm_id(host, -1), within_s=30)
        assert host.become_spm()["taskResult"] == "success"
    finally:
        other.stop()


def _spm_id(host: Host, wanted: int) -> dict[str, Any] | None:
    status: dict[str, Any] = host.call("StoragePool.getSpmStatus", storagepoolID=POOL)
    return status if status["spmId"] == wanted else None


class _OtherHost:
    """Host id 2 with the SDM lease, under a daemon of its own, driven by sanlock's own command line."""

    def __init__(self, run_dir: Path, ids: str, leases: str) -> None:
        self._env = {**os.environ, "SANLOCK_RUN_DIR": str(run_dir), "SANLOCK_PRIVILEGED": "0"}
        self._daemon = subprocess.Popen(
            ["/usr/sbin/sanlock", "daemon", "-D", "-w", "0", "-e", "other-host"],
            env=self._env,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        eventually((run_dir / "sanlock.sock").exists)
        self._run("add_lockspace", "-s", f"{SD}:2:{ids}:0", "-o", "1")
        self._holder = subprocess.Popen(
            ["/usr/sbin/sanlock", "client", "command", "-r", f"{SD}:SDM:{leases}:{2**20}", "-c", "/bin/sleep", "600"],
            env=self._env,
        )
        eventually(lambda: owners(leases) == [2], within_s=20)

    def _run(self, *args: str) -> None:
        subprocess.run(["/usr/sbin/sanlock", "client", *args], env=self._env, check=True, capture_output=True)

    def release(self) -> None:
        self._holder.kill()
        self._holder.wait(10)

    def stop(self) -> None:
        if self._holder.poll() is None:
            self.release()
        self._daemon.kill()
        self._daemon.wait(10)


def test_the_role_ends_with_the_worker_and_starts_again_with_the_next(host: Host, place: Path) -> None:
    """The host id outlives the worker, so that taking the role again does not wait for sanlock."""
    host.make()
    host.connect_pool()
    host.become_spm()
    host.room.background.draining = True
    for step in host.room.room.on_drain:
        step()
    assert owners(host.leases) == []
    assert [ls["host_id"] for ls in sanlock.get_lockspaces()] == [1]
    again = Host(place, host.device)
    try:
        assert SD in again.call("internal.domain_vitals")
        assert again.become_spm()["taskResult"] == "success"
        again.call("StoragePool.spmStop", storagepoolID=POOL)
        again.call("StoragePool.disconnect", storagepoolID=POOL, hostID=1, scsiKey=POOL)
        assert sanlock.get_lockspaces() == []
        assert again.server("disconnectStorageServer") == 0
    finally:
        again.room.stop()


def test_an_export_domain_of_version_0_is_guarded_by_its_time_stamp(place: Path, device: str) -> None:
    mnt = place / "data-center/mnt"
    room = StorageRoom(place, helper=DirectRoot(str(mnt)))
    try:
        room.make()
        _lead_export_domain(room, device, mnt / escape(device))
    finally:
        room.stop()


def _lead_export_domain(room: StorageRoom, device: str, mount: Path) -> None:
    row = {"id": "x", "connection": device, "vfs_type": "ext4"}
    params = {"storagepoolID": BLANK, "domainType": 6, "connectionParams": [row]}
    assert room.call("StoragePool.connectStorageServer", **params)[0]["status"] == 0
    export = SD[:-1] + "2"
    ids = {"storagepoolID": room.pool_id, "storagedomainID": export}
    room.call(
        "StorageDomain.create",
        storagedomainID=export,
        domainType=6,
        typeArgs=device,
        name="export",
        domainClass=3,
        version=0,
    )
    dom_md = mount / export / "dom_md"
    free = (dom_md / "leases").read_bytes()
    assert (free[:16], len(free), (dom_md / "ids").stat().st_size) == (b"------FREE------", 512, 0)
    # A second for each read and write, instead of ten: half a minute less to wait.
    pairs = parse(export, (dom_md / "metadata").read_bytes()) | {"IOOPTIMEOUTSEC": "1"}
    (dom_md / "metadata").write_bytes(serialize(export, pairs))

    held = [free]

    def taken() -> bool:
        held.append((dom_md / "leases").read_bytes())
        return held[-1] != free

    with ThreadPoolExecutor(1) as pool:
        attaching = pool.submit(room.call, "StorageDomain.attach", **ids)
        eventually(taken, within_s=30)
        attaching.result()
    assert held[-1][:16] == b"1".ljust(16)
    assert (dom_md / "leases").read_bytes() == free
    room.call("StorageDomain.activate", **ids)
    assert (dom_md.parent / "master/vms").is_dir()
    eventually(lambda: room.call("internal.domain_vitals")[export]["acquired"])
    for verb in ("deactivate", "detach"):
        room.call(f"StorageDomain.{verb}", **ids, masterSdUUID=BLANK, masterVersion=1)
    room.call("StorageDomain.format", storagedomainID=export, autoDetach=False)
    assert room.call("StoragePool.disconnectStorageServer", **params)[0]["status"] == 0
    assert not mount.exists()


@pytest.fixture
def device_4k(place: Path) -> Iterator[Path]:
    """A mounted ext4 whose device has 4096-byte sectors."""
    image, target = place / "disk4k", place / "mnt4k"
    with image.open("wb") as f:
        f.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", image], check=True)
    found = subprocess.run(
        ["losetup", "--show", "-f", "-b", "4096", image], capture_output=True, text=True, check=False
    )
    if found.returncode:
        lacks("loop devices with large sectors")
    loop = found.stdout.strip()
    target.mkdir()
    subprocess.run(["mount", loop, target], check=True)
    yield target
    subprocess.run(["umount", target], check=True)
    subprocess.run(["losetup", "-d", loop], check=True)


def test_a_domain_takes_the_block_size_of_its_storage(device_4k: Path, tmp_path: Path) -> None:
    room = StorageRoom(tmp_path)
    try:
        row = {"id": "4k", "connection": str(device_4k)}
        room.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=[row])
        params = {
            "storagedomainID": SD,
            "domainType": 4,
            "typeArgs": str(device_4k),
            "name": "4k",
            "domainClass": 1,
            "version": "5",
        }
        assert code_of(room.call, "StorageDomain.create", **params, blockSize=512) == 348
        room.call("StorageDomain.create", **params, blockSize=0, maxHosts=1000)
        info = room.call("StorageDomain.getInfo", storagedomainID=SD)
        assert (info["block_size"], info["alignment"]) == (4096, 4 * 2**20)
        room.call("StorageDomain.format", storagedomainID=SD, autoDetach=False)
        row = {"id": "4k", "connection": str(device_4k)}
        room.call("StoragePool.disconnectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=[row])
    finally:
        room.stop()
