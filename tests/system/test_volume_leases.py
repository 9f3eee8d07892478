# SPDX-License-Identifier: Apache-2.0
"""Volumes on a domain with real sanlock: each has a lease, jobs hold it, deletions take it away."""

import os
import socket
import subprocess
from typing import Any

import pytest
import sanlock

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.support.storage_room import MIB
from tests.system.test_file_storage import POOL, SD, Host, device, host, place
from vdsm_mp.api.errors_lease import LeaseExists
from vdsm_mp.api.errors_storage import LockNotAcquired, PoolNotConnected
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.errors import Error
from vdsm_mp.storage import bitmaps
from vdsm_mp.storage.locks import Lease, Locks, Owner
from vdsm_mp.storage.sanlock import SanlockLock

_ = (device, host, place)  # fixtures of the domain
pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("sanlock", "mkfs.ext4", "losetup", "qemu-img"),
    pytest.mark.timeout(120),
]

IMAGE, BASE, LEAF = (f"{n}0000000-aaaa-4bbb-8ccc-{n}00000000000" for n in (1, 2, 3))
IDS = {"storagepoolID": POOL, "storagedomainID": SD, "imageID": IMAGE}


def finished(host: Host, task_id: str) -> None:
    status = eventually(lambda: _over(host, task_id), within_s=30)
    assert status["taskResult"] == "success", status
    host.call("Task.clear", taskID=task_id)


def _over(host: Host, task_id: str) -> dict[str, Any] | None:
    status: dict[str, Any] = host.call("Task.getStatus", taskID=task_id)
    return status if status["taskState"] == "finished" else None


def create(host: Host, volume_id: str, **changes: Any) -> None:
    params = {
        **IDS,
        "volumeID": volume_id,
        "size": str(16 * 2**20),
        "volFormat": 4,
        "preallocate": 2,
        "diskType": "DATA",
        "desc": "",
        "srcImgUUID": BLANK,
        "srcVolUUID": BLANK,
        **changes,
    }
    finished(host, host.call("Volume.create", **params))


def job(host: Host, verb: str, job_id: str, **params: Any) -> dict[str, Any]:
    host.call(verb, job_id=job_id, **params)

    def over() -> dict[str, Any] | None:
        found: dict[str, Any] = host.call("internal.storage_jobs")[job_id]
        return found if found["status"] in ("done", "failed") else None

    found = eventually(over, within_s=60)
    assert found is not None
    return found


def test_a_volume_has_a_lease_from_its_creation_to_its_end(host: Host) -> None:
    host.make()
    host.connect_pool()
    host.become_spm()
    create(host, BASE)
    create(host, LEAF, srcImgUUID=IMAGE, srcVolUUID=BASE)
    image = host.domain / "images" / IMAGE
    lease = image / f"{LEAF}.lease"
    assert (lease.stat().st_size, oct(lease.stat().st_mode & 0o777)) == (2**20, "0o660")
    found = sanlock.read_resource(str(lease), 0)
    assert (found["lockspace"], found["resource"]) == (SD.encode(), LEAF.encode())
    wanted = {"path": str(lease), "offset": 0, "owners": [], "version": None}
    assert host.call("Volume.getInfo", **IDS, volumeID=LEAF)["lease"] == wanted

    prepared = host.call("Image.prepare", **IDS, volumeID=LEAF)
    assert [(one["leasePath"], one["leaseOffset"]) for one in prepared["imgVolumesInfo"]] == [
        (f"{image}/{BASE}.lease", 0),
        (f"{image}/{LEAF}.lease", 0),
    ]
    host.call("Image.teardown", **IDS, volumeID=LEAF)

    # A job holds the lease while it runs, and gives it back.
    ref = {"sd_id": SD, "img_id": IMAGE, "vol_id": LEAF, "generation": 0}
    done = job(host, "SDM.add_bitmap", "40000000-aaaa-4bbb-8ccc-400000000000", vol_info=ref, bitmap="one")
    assert done["status"] == "done", done
    assert sanlock.read_resource_owners(SD.encode(), LEAF.encode(), [(str(lease), 0)]) == []
    assert sanlock.read_resource(str(lease), 0)["version"] == 1

    # Held by somebody else, the job does not touch the volume.
    holder = subprocess.Popen(
        ["/usr/sbin/sanlock", "client", "command", "-r", f"{SD}:{LEAF}:{lease}:0", "-c", "/bin/sleep", "600"]
    )
    try:
        eventually(lambda: sanlock.read_resource_owners(SD.encode(), LEAF.encode(), [(str(lease), 0)]))
        info = host.call("Volume.getInfo", **IDS, volumeID=LEAF)
        assert info["lease"] == {"path": str(lease), "offset": 0, "owners": [1], "version": 2}
        ref["generation"] = 1
        refused = job(host, "SDM.add_bitmap", "50000000-aaaa-4bbb-8ccc-500000000000", vol_info=ref, bitmap="two")
        assert (refused["status"], refused["error"]["code"]) == ("failed", 651)
        assert host.call("Volume.getInfo", **IDS, volumeID=LEAF)["generation"] == 1
    finally:
        holder.kill()
        holder.wait(10)

    params = {**IDS, "volumeList": [LEAF]}
    finished(host, host.call("Image.deleteVolumes", **params))
    assert sorted(os.listdir(image)) == [BASE, f"{BASE}.lease", f"{BASE}.meta"]
    finished(host, host.call("Image.delete", **IDS, postZero=False, force=False))
    assert os.listdir(host.domain / "images") == []


def test_a_host_of_no_pool_writes_to_no_volume(host: Host) -> None:
    """It has no host id, so no lease either, and wrote all the same."""
    host.make()
    host.connect_pool()
    host.become_spm()
    create(host, BASE)
    host.call("StoragePool.spmStop", storagepoolID=POOL)
    host.call("StoragePool.disconnect", storagepoolID=POOL, hostID=1, scsiKey="")
    ref = {"sd_id": SD, "img_id": IMAGE, "vol_id": BASE, "generation": 0}
    before = {path.name: path.read_bytes() for path in (host.domain / "images" / IMAGE).iterdir()}
    refused = job(host, "SDM.add_bitmap", "40000000-aaaa-4bbb-8ccc-400000000000", vol_info=ref, bitmap="one")
    assert (refused["status"], refused["error"]["code"]) == ("failed", PoolNotConnected.code)
    assert {path.name: path.read_bytes() for path in (host.domain / "images" / IMAGE).iterdir()} == before


def test_a_job_that_has_lost_its_lease_tells_of_no_success(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host may be at work on the volume by then."""
    host.make()
    host.connect_pool()
    host.become_spm()
    create(host, BASE)
    added = bitmaps.add

    def lost_meanwhile(*args: Any, **params: Any) -> None:
        added(*args, **params)
        lock = next(one for one in host.room.room.state if isinstance(one, Locks))._locks[SD]
        assert isinstance(lock, SanlockLock)
        [fd] = [fd for lease, fd in lock._held.items() if lease.name == BASE]
        with socket.socket(fileno=os.dup(fd)) as road:
            road.shutdown(socket.SHUT_RDWR)
        eventually(lambda: lock.inspect(Lease(BASE, f"{host.domain}/images/{IMAGE}/{BASE}.lease", 0)).host_id is None)

    monkeypatch.setattr(bitmaps, "add", lost_meanwhile)
    ref = {"sd_id": SD, "img_id": IMAGE, "vol_id": BASE, "generation": 0}
    failed = job(host, "SDM.add_bitmap", "40000000-aaaa-4bbb-8ccc-400000000000", vol_info=ref, bitmap="one")
    assert (failed["status"], failed["error"]["code"]) == ("failed", LockNotAcquired.code)
    assert host.call("Volume.getInfo", **IDS, volumeID=BASE)["generation"] == 0


def test_leases_by_name_are_made_held_fenced_and_removed(host: Host) -> None:
    host.make()
    host.connect_pool()
    host.become_spm()
    vm, one_job = ({"sd_id": SD, "lease_id": f"{n}0000000-bbbb-4bbb-8ccc-{n}00000000000"} for n in (1, 2))
    about = {"type": "JOB", "generation": 0, "job_id": one_job["lease_id"], "job_status": "PENDING"}
    finished(host, host.call("Lease.create", lease=vm))
    finished(host, host.call("Lease.create", lease=one_job, metadata=about))
    place = host.call("Lease.info", lease=vm)
    assert place == {**vm, "path": f"{host.domain}/dom_md/xleases", "offset": 3 * 2**20}
    assert sanlock.read_resource(place["path"], place["offset"])["resource"].decode() == vm["lease_id"]
    assert host.call("Lease.status", lease=vm) == {"owners": [], "version": None}

    held = f"{SD}:{vm['lease_id']}:{place['path']}:{place['offset']}"
    holder = subprocess.Popen(["/usr/sbin/sanlock", "client", "command", "-r", held, "-c", "/bin/sleep", "600"])
    try:
        status = eventually(lambda: _held(host, vm))
        assert status == {"owners": [1], "version": status["version"]}
    finally:
        holder.kill()
        holder.wait(10)

    found = host.call("Lease.status", lease=one_job)["metadata"]
    assert about.items() <= found.items()
    for wrong, code in (({"generation": 5}, 911), ({"job_status": "FAILED"}, 912)):
        with pytest.raises(Error) as e:
            host.call("Lease.fence", lease=one_job, metadata={**about, **wrong})
        assert e.value.code == code
    host.call("Lease.fence", lease=one_job, metadata=about)
    found = host.call("Lease.status", lease=one_job)["metadata"]
    assert (found["job_status"], found["generation"]) == ("FENCED", 1)

    dump = host.call("StorageDomain.dump", sd_id=SD, full=True)
    assert dump["xleases"][vm["lease_id"]] == {"offset": place["offset"], "updating": False}
    for part, where in (("lockspace", f"{host.domain}/dom_md/ids:0"), ("leases", f"{host.domain}/dom_md/leases:{MIB}")):
        assert {tuple(str(row[key]) for key in KEYS) for row in dump[part]} == dumped(where), part
        # Host id 250, which made the pool, has left.
        assert {row["own"] for row in dump[part] if row["timestamp"]} == {1}
    assert [(row["own"], row["gen"], row["resource"]) for row in dump["leases"]] == [(1, 1, "SDM")]

    # Added again it is refused, and what undoes that leaves the other's alone.
    refused = host.call("Lease.create", lease=vm)
    assert eventually(lambda: _over(host, refused))["code"] == LeaseExists.code
    host.call("Task.clear", taskID=refused)
    assert host.call("Lease.info", lease=vm) == place

    finished(host, host.call("Lease.rebuild_leases", sd_id=SD))
    for lease in (vm, one_job):
        finished(host, host.call("Lease.delete", lease=lease))
        with pytest.raises(Error) as e:
            host.call("Lease.info", lease=lease)
        assert e.value.code == 936


def test_a_lease_that_a_job_takes_while_it_is_removed_stays(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its outcome would be stored in what has the place next."""
    host.make()
    host.connect_pool()
    host.become_spm()
    lease = {"sd_id": SD, "lease_id": "20000000-bbbb-4bbb-8ccc-200000000000"}
    about = {"type": "JOB", "generation": 0, "job_id": lease["lease_id"], "job_status": "PENDING"}
    finished(host, host.call("Lease.create", lease=lease, metadata=about))
    place = host.call("Lease.info", lease=lease)
    held = f"{SD}:{lease['lease_id']}:{place['path']}:{place['offset']}"
    command = ["/usr/sbin/sanlock", "client", "command", "-r", held, "-c", "/bin/sleep", "600"]
    holders: list[subprocess.Popen[bytes]] = []
    looked = SanlockLock.inspect

    def taken_just_behind(lock: SanlockLock, one: Lease) -> Owner:
        owner = looked(lock, one)
        holders.append(subprocess.Popen(command))
        eventually(lambda: looked(lock, one).host_id)
        return owner

    with monkeypatch.context() as patched:
        patched.setattr(SanlockLock, "inspect", taken_just_behind)
        task_id = host.call("Lease.delete", lease=lease)
        try:
            assert eventually(lambda: _over(host, task_id), within_s=30)["code"] == LockNotAcquired.code
        finally:
            for one in holders:
                one.kill()
                one.wait(10)
    host.call("Task.clear", taskID=task_id)
    assert host.call("Lease.info", lease=lease) == place
    finished(host, host.call("Lease.delete", lease=lease))


#: Without the timestamp, which a living host renews.
KEYS = ("offset", "lockspace", "own", "gen")


def dumped(where: str) -> set[tuple[str, ...]]:
    """What sanlock's own program reads there, as `KEYS`; a row has offset, lockspace, name, timestamp, own, gen, …"""
    done = subprocess.run(
        ["/usr/sbin/sanlock", "direct", "dump", where], check=True, capture_output=True, text=True, timeout=20
    )
    rows = [line.split() for line in done.stdout.splitlines()[1:] if line[:1].isdigit()]
    return {(str(int(r[0])), r[1], str(int(r[4])), str(int(r[5]))) for r in rows}


def _held(host: Host, lease: dict[str, str]) -> dict[str, Any] | None:
    status: dict[str, Any] = host.call("Lease.status", lease=lease)
    return status if status["owners"] else None
