# SPDX-License-Identifier: Apache-2.0
"""Data to and from managed volumes: two hosts with sanlock, root's side behind sudo, a loop device as the volume.

os-brick is a stand-in; `qemu-img convert` is slow, so that something can happen meanwhile.
"""

import os
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.pool_engine import Engine, over
from tests.support.brick import give_brick
from tests.support.eventually import eventually
from tests.support.loopdevice import MIB, empty, loop
from tests.support.needs import needs_program, needs_root
from tests.support.storage_hosts import StorageHost, storage_hosts
from tests.support.storage_room import COW, PREALLOCATED, RAW, SPARSE, new_id, slow_copies
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.types import BLANK

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("sanlock", "sudo", "mkfs.ext4", "losetup", "qemu-img"),
    pytest.mark.timeout(240),
]

_BYTES_PER_S = 2 * MIB
_SHORT, _LONG = 2 * MIB, 24 * MIB
_OVER = ("done", "failed", "aborted")


@dataclass
class Site:
    engine: Engine
    attached: list[tuple[StorageHost, str]] = field(default_factory=list)

    @property
    def host(self) -> StorageHost:
        return self.engine.hosts[0]

    @property
    def sd_id(self) -> str:
        return self.engine.pool.master

    def attach(self, device: str, host: StorageHost | None = None) -> dict[str, Any]:
        host, vol_id = host or self.host, new_id()
        info = {"driver_volume_type": "local", "data": {"device_path": device}}
        found: dict[str, Any] = host.call(
            "ManagedVolume.attach_volume", vol_id=vol_id, sd_id=self.sd_id, connection_info=info
        )
        self.attached.append((host, vol_id))
        return found

    def detach(self, vol_id: str, host: StorageHost | None = None) -> None:
        (host or self.host).call("ManagedVolume.detach_volume", vol_id=vol_id, sd_id=self.sd_id)

    def volume(self, size: int, fmt: int = RAW, data: bytes = b"", allocation: int = SPARSE) -> dict[str, Any]:
        """An endpoint; the raw volume holds `data`."""
        names = {"sd_id": self.sd_id, "img_id": new_id(), "vol_id": new_id()}
        params = {"size": str(size), "volFormat": fmt, "preallocate": allocation, "diskType": "DATA", "desc": ""}
        ids = {"storagepoolID": self.engine.pool.pool_id, "storagedomainID": self.sd_id, "imageID": names["img_id"]}
        made = {"volumeID": names["vol_id"], "srcImgUUID": BLANK, "srcVolUUID": BLANK}
        self.task("Volume.create", **ids, **made, **params)
        end = {"endpoint_type": "div", **names, "generation": 0}
        if data:
            with self.path(end).open("r+b") as file:
                file.write(data)
        return end

    def path(self, end: dict[str, Any]) -> Path:
        return self.engine.directory(end["sd_id"]) / "images" / end["img_id"] / end["vol_id"]

    def task(self, verb: str, **params: Any) -> None:
        task_id = self.engine.spm.call(verb, **params)
        status = eventually(lambda: over(self.engine.spm, task_id), within_s=60)
        assert status["taskResult"] == "success", status
        self.engine.spm.call("Task.clear", taskID=task_id)

    def lease(self, job_id: str, /, **changes: Any) -> dict[str, str]:
        lease = {"sd_id": self.sd_id, "lease_id": job_id}
        about = {"type": "JOB", "generation": 0, "job_id": job_id, "job_status": "PENDING"} | changes
        self.task("Lease.create", lease=lease, metadata=about)
        return lease

    def start(self, source: dict[str, Any], target: dict[str, Any], *, host: StorageHost | None = None) -> str:
        """Under a lease of its own, when the target is a device. -> job id"""
        job_id = new_id()
        if target["endpoint_type"] == "external" and "lease" not in target:
            target = target | {"lease": self.lease(job_id), "generation": 0}
        (host or self.host).call("SDM.copy_data", job_id=job_id, source=source, destination=target)
        return job_id

    def job(self, job_id: str, host: StorageHost | None = None) -> dict[str, Any]:
        found: dict[str, Any] = (host or self.host).call("Host.getJobs", job_type="storage", job_ids=[job_id])[job_id]
        return found

    def over(self, job_id: str, host: StorageHost | None = None) -> dict[str, Any]:
        found: dict[str, Any] = eventually(
            lambda: (one := self.job(job_id, host))["status"] in _OVER and one, within_s=60
        )
        return found

    def outcome(self, job_id: str) -> tuple[list[int], str, int]:
        """(owners, status, generation) of a job's lease."""
        status = self.engine.spm.call("Lease.status", lease={"sd_id": self.sd_id, "lease_id": job_id})
        return status["owners"], status["metadata"]["job_status"], status["metadata"]["generation"]


def device_end(url: str, **more: Any) -> dict[str, Any]:
    return {"endpoint_type": "external", "url": url, "format": "raw", **more}


@pytest.fixture(scope="module")
def made() -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="cpm-", dir="/tmp") as place:
        Path(place).chmod(0o755)
        slow = slow_copies(Path(place) / "bin", _BYTES_PER_S)
        patch.setenv("PATH", f"{slow}:{os.environ['PATH']}")
        with storage_hosts(devices=1, table="tests.support.storage_jobs_table") as (hosts, devices):
            for host in hosts:
                give_brick(host.house)
                host.house.wait_ready()
            engine = Engine(hosts, devices, 1)
            engine.pool.version = "5"
            engine.make()
            yield Site(engine)


@pytest.fixture
def site(made: Site) -> Iterator[Site]:
    yield made
    for host, vol_id in made.attached:
        made.detach(vol_id, host)
    made.attached.clear()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    with loop(empty(tmp_path / "volume", _LONG)) as found:
        yield found


@pytest.fixture
def other(tmp_path: Path) -> Iterator[str]:
    with loop(empty(tmp_path / "other", _LONG)) as found:
        yield found


def head(device: str, size: int) -> bytes:
    """What is on it, past the page cache of other names."""
    with open(device, "rb") as file:
        return file.read(size)


def test_a_volume_goes_to_a_managed_volume_and_comes_back(site: Site, device: str) -> None:
    data = os.urandom(_SHORT)
    target = site.attach(device)
    job_id = site.start(site.volume(_SHORT, data=data), device_end(target["path"]))
    assert site.over(job_id)["status"] == "done", site.job(job_id)
    assert site.outcome(job_id) == ([], "SUCCEEDED", 1)
    assert head(device, _SHORT) == data
    back = site.volume(_LONG)
    job_id = site.start(device_end(target["managed_path"]), back)
    assert site.over(job_id)["status"] == "done", site.job(job_id)
    assert site.path(back).read_bytes()[:_SHORT] == data
    assert site.path(back).stat().st_size == _LONG
    info = site.host.call(
        "Volume.getInfo",
        storagepoolID=site.engine.pool.pool_id,
        storagedomainID=site.sd_id,
        imageID=back["img_id"],
        volumeID=back["vol_id"],
    )
    assert (info["legality"], info["generation"]) == ("LEGAL", 1)


def test_data_go_from_one_managed_volume_to_another_in_the_format_that_is_asked_for(
    site: Site, device: str, other: str
) -> None:
    data = os.urandom(_SHORT)
    with open(device, "r+b") as file:
        file.write(data)
        os.fsync(file.fileno())
    one, two = site.attach(device), site.attach(other)
    job_id = site.start(device_end(one["path"]), device_end(two["path"], format="cow"))
    assert site.over(job_id)["status"] == "done", site.job(job_id)
    assert head(other, 4) == b"QFI\xfb"
    volume = site.volume(_LONG, COW)
    job_id = site.start(device_end(two["path"], format="cow"), volume)
    assert site.over(job_id)["status"] == "done", site.job(job_id)
    subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", site.path(volume), device], check=True)


@pytest.mark.parametrize(
    "form", ["plain", "file", "up", "json", "empty", "shadow", "disk", "elsewhere", "restarted", "taken"]
)
def test_a_path_reaches_nothing_but_a_managed_volume_that_is_attached_here(
    site: Site, device: str, other: str, form: str
) -> None:
    target = site.attach(other if form == "disk" else device, site.engine.hosts[1 if form == "elsewhere" else 0])
    path = target["path"]
    if form == "restarted":
        Path(target["managed_path"]).unlink()
    if form == "taken":
        os.chown(device, 0, 0)
    url = {
        "file": f"file://{path}",
        "up": f"/dev/../{path}",
        "json": f'json:{{"driver":"raw","file":{{"driver":"host_device","filename":"{path}"}}}}',
        "empty": "",
        "shadow": "/etc/shadow",
        "disk": device,
        "plain": site.engine.devices[0],
    }.get(form, path)
    volume = site.volume(_SHORT)
    for source, destination in ((device_end(url), volume), (volume, device_end(url))):
        with pytest.raises(RemoteError) as told:
            site.start(source, destination)
        assert told.value.code == 1000, told.value


def test_what_makes_no_copy_is_refused_at_once(site: Site, device: str) -> None:
    path, volume = site.attach(device)["path"], site.volume(_SHORT)
    lease = {"sd_id": site.sd_id, "lease_id": new_id()}
    for source, destination in (
        (volume, device_end(path, lease=None)),
        (volume, device_end(path, format="vmdk")),
        (device_end(path), device_end(path, lease=lease)),
        (volume | {"endpoint_type": "nbd"}, device_end(path, lease=lease)),
    ):
        with pytest.raises(RemoteError) as told:
            site.start(source, destination)
        assert told.value.code == 1000, told.value


def test_a_header_that_leads_elsewhere_is_not_followed(site: Site, device: str) -> None:
    base = site.volume(_SHORT, data=b"secret" * 1000)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", site.path(base), "-F", "raw", device, str(_SHORT)],
        check=True,
    )
    volume = site.volume(_SHORT)
    job_id = site.start(device_end(site.attach(device)["path"], format="cow"), volume)
    told = site.over(job_id)
    assert (told["status"], told["error"]["code"]) == ("failed", 225), told
    assert b"secret" not in site.path(volume).read_bytes()


def test_a_device_is_written_by_the_job_of_its_lease_only(site: Site, device: str) -> None:
    path, volume = site.attach(device)["path"], site.volume(_SHORT, data=os.urandom(_SHORT))
    for changes, asked, code in (
        ({"generation": 3}, 0, 911),
        ({"job_status": "FENCED"}, 0, 912),
        ({"job_id": str(uuid.uuid4())}, 0, 912),
    ):
        job_id = new_id()
        target = device_end(path, lease=site.lease(job_id, **changes), generation=asked)
        site.host.call("SDM.copy_data", job_id=job_id, source=volume, destination=target)
        assert site.over(job_id)["error"]["code"] == code
        about = changes.get("job_status", "PENDING"), changes.get("generation", 0)
        assert site.outcome(job_id) == ([], *about)
    missing = device_end(path, lease={"sd_id": site.sd_id, "lease_id": new_id()})
    job_id = site.start(volume, missing)
    assert site.over(job_id)["error"]["code"] == 936
    assert head(device, _SHORT) == bytes(_SHORT)


def test_a_device_that_is_too_small_leaves_a_failed_job(site: Site, tmp_path: Path) -> None:
    with loop(empty(tmp_path / "small", MIB)) as small:
        volume, target = site.volume(_SHORT, data=os.urandom(_SHORT)), site.attach(small)
        job_id = site.start(volume, device_end(target["path"]))
        told = site.over(job_id)
        assert (told["status"], told["error"]["code"]) == ("failed", 225), told
        assert site.outcome(job_id) == ([], "FAILED", 0)
        site.detach(target["vol_id"])


def test_a_copy_tells_of_itself_keeps_its_device_and_ends_with_its_worker(site: Site, device: str) -> None:
    source, target = site.volume(_LONG, data=os.urandom(_LONG), allocation=PREALLOCATED), site.attach(device)
    job_id = site.start(source, device_end(target["path"]))
    eventually(lambda: site.job(job_id).get("progress", 0) > 5, within_s=30)
    assert site.outcome(job_id) == ([1], "PENDING", 0)
    with pytest.raises(RemoteError, match="in use") as told:
        site.detach(target["vol_id"])
    assert told.value.code == 926
    assert site.job(job_id)["status"] == "running"
    # Nobody aborts a job by a verb; a worker that is told to stop does.
    pid = site.host.house.pid_of("storage")
    os.kill(pid, signal.SIGTERM)
    site.host.house.wait_other_pid("storage", pid)
    site.engine.settle()
    assert site.outcome(job_id) == ([], "FAILED", 0)
    assert copies(device) == []


def test_the_lease_of_a_job_that_works_stays(site: Site, device: str) -> None:
    """sanlock stores the outcome where the lease is: it would be told of the next job that had the place."""
    source, target = site.volume(_LONG, data=os.urandom(_LONG), allocation=PREALLOCATED), site.attach(device)
    job_id = site.start(source, device_end(target["path"]))
    eventually(lambda: site.job(job_id).get("progress", 0) > 5, within_s=30)
    spm, lease = site.engine.spm, {"sd_id": site.sd_id, "lease_id": job_id}
    task_id = spm.call("Lease.delete", lease=lease)
    refused = eventually(lambda: over(spm, task_id), within_s=60)
    spm.call("Task.clear", taskID=task_id)
    site.lease(next_id := new_id())
    site.host.house.kill_worker("storage")
    site.engine.settle()
    assert site.outcome(next_id) == ([], "PENDING", 0)
    assert refused["code"] == 912, refused
    assert site.outcome(job_id) == ([], "FAILED", 0)
    site.task("Lease.delete", lease=lease)


def test_who_dies_over_a_copy_tells_it_by_the_lease(site: Site, device: str) -> None:
    """A worker: FAILED. A host: PENDING and nobody's, so another fences it; then the copy is made there."""
    source, target = site.volume(_LONG, data=os.urandom(_LONG), allocation=PREALLOCATED), site.attach(device)
    job_id = site.start(source, device_end(target["path"]))
    eventually(lambda: site.job(job_id).get("progress", 0) > 5, within_s=30)
    site.host.house.kill_worker("storage")
    site.engine.settle()
    assert eventually(lambda: (found := site.outcome(job_id))[0] == [] and found, within_s=30) == ([], "FAILED", 0)
    assert copies(device) == []

    job_id = site.start(source, device_end(target["path"]))
    eventually(lambda: site.job(job_id).get("progress", 0) > 5, within_s=30)
    site.host.crash()
    there = site.engine.hosts[1]
    site.host.begin_sanlock()
    site.engine.settle()
    assert eventually(lambda: (found := site.outcome(job_id))[0] == [] and found, within_s=60) == ([], "PENDING", 0)
    about = {"type": "JOB", "generation": 0, "job_id": job_id, "job_status": "PENDING"}
    there.call("Lease.fence", lease={"sd_id": site.sd_id, "lease_id": job_id}, metadata=about)
    assert site.outcome(job_id) == ([], "FENCED", 1)
    assert copies(device) == []
    elsewhere, short = site.attach(device, there), site.volume(_SHORT, data=os.urandom(_SHORT))
    job_id = site.start(short, device_end(elsewhere["path"]), host=there)
    assert site.over(job_id, there)["status"] == "done"
    assert head(device, _SHORT) == site.path(short).read_bytes()


def copies(device: str) -> list[str]:
    """Command lines of programs that write to it."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if b"convert" in words and device.encode() in words:
            found.append(b" ".join(words).decode())
    return found
