# SPDX-License-Identifier: Apache-2.0
"""What `leases` tries: leases by name, volumes that have one, jobs that hold one, and the role, which is one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sanlock

from tests.faults.lease_hosts import FIRST, POOL, SECOND, LeaseHost
from tests.support.eventually import eventually
from vdsm_mp.api.errors_lease import NoSuchLease
from vdsm_mp.api.types import BLANK

LEASE, OTHER = ({"sd_id": FIRST, "lease_id": f"{n}0000000-bbbb-4bbb-8ccc-{n}00000000000"} for n in (1, 2))
IMAGE, BASE, LEAF, JOB = (f"{n}0000000-aaaa-4bbb-8ccc-{n}00000000000" for n in (1, 2, 3, 4))
_IDS = {"storagepoolID": POOL, "storagedomainID": FIRST, "imageID": IMAGE}
_ABOUT = {"type": "JOB", "generation": 0, "job_id": JOB, "job_status": "PENDING"}


class Reported(Exception):
    """A task, or a job, told of its failure."""


@dataclass(frozen=True)
class Scenario:
    """before: makes what act needs. done: True or False; AssertionError when it is neither. after: takes all back."""

    act: Callable[[LeaseHost], object]
    done: Callable[[LeaseHost], bool]
    before: Callable[[LeaseHost], object] = lambda host: None
    after: Callable[[LeaseHost], object] = lambda host: None


def finish(host: LeaseHost, verb: str, **params: Any) -> None:
    status = host.result(host.call(verb, **params))
    if status["code"]:
        raise Reported(status["message"])


# --- leases by name


def add(host: LeaseHost, lease: dict[str, str] = LEASE) -> None:
    finish(host, "Lease.create", lease=lease, metadata=_ABOUT)


def is_there(host: LeaseHost, lease: dict[str, str] = LEASE) -> bool:
    """By the index, and then with all that it was to hold."""
    if host.code_of("Lease.info", lease=lease) == NoSuchLease.code:
        return False
    place = host.call("Lease.info", lease=lease)
    written = sanlock.read_resource(place["path"], place["offset"])
    assert (written["resource"].decode(), written["lockspace"].decode()) == (lease["lease_id"], FIRST), written
    status = host.call("Lease.status", lease=lease)
    assert status["owners"] == [], status
    assert _ABOUT.items() <= status["metadata"].items(), status
    return True


def remove(host: LeaseHost, lease: dict[str, str] = LEASE) -> None:
    if is_there(host, lease):
        finish(host, "Lease.delete", lease=lease)


def is_gone(host: LeaseHost) -> bool:
    assert is_there(host, OTHER)
    return not is_there(host)


def both_leases(host: LeaseHost) -> None:
    for one in (LEASE, OTHER):
        if not is_there(host, one):
            add(host, one)


def no_leases(host: LeaseHost) -> None:
    for one in (LEASE, OTHER):
        remove(host, one)
    assert host.call("StorageDomain.dump", sd_id=FIRST, full=True)["xleases"] == {}


def damaged(host: LeaseHost) -> None:
    """A lease without its place, a place without its record, an index that was being changed."""
    both_leases(host)
    place = host.call("Lease.info", lease=LEASE)
    sanlock.write_resource(b"", b"", [(place["path"], place["offset"])])
    with (host.domain(FIRST) / "dom_md/xleases").open("r+b") as file:
        file.seek(2**20 + 70)
        file.write(b"u")


def rebuild(host: LeaseHost) -> None:
    finish(host, "Lease.rebuild_leases", sd_id=FIRST)


def is_in_order(host: LeaseHost) -> bool:
    dump = host.call("StorageDomain.dump", sd_id=FIRST, full=True)
    if "xleases" in dump.get("errors", {}):
        return False
    assert set(dump["xleases"]) == {LEASE["lease_id"], OTHER["lease_id"]}, dump
    place = host.call("Lease.info", lease=LEASE)
    assert sanlock.read_resource(place["path"], place["offset"])["resource"].decode() == LEASE["lease_id"]
    return is_there(host, OTHER)


def put_in_order_and_removed(host: LeaseHost) -> None:
    for one in (LEASE, OTHER):
        if host.code_of("Lease.info", lease=one) != NoSuchLease.code:
            finish(host, "Lease.delete", lease=one)


# --- volumes with leases


def create(host: LeaseHost, volume_id: str, **parent: str) -> None:
    params = {"size": str(2**20), "volFormat": 4, "preallocate": 2, "diskType": "DATA", "desc": "x"}
    params |= {"srcImgUUID": BLANK, "srcVolUUID": BLANK, **parent}
    finish(host, "Volume.create", **_IDS, volumeID=volume_id, **params)


def base(host: LeaseHost) -> None:
    if not files(host):
        create(host, BASE)


def snapshot(host: LeaseHost) -> None:
    create(host, LEAF, srcImgUUID=IMAGE, srcVolUUID=BASE)


def is_snapshot(host: LeaseHost) -> bool:
    names = files(host)
    if not any(name.startswith(LEAF) for name in names):
        assert names == whole(BASE), names
        assert info(host, BASE)["voltype"] == "LEAF"
        return False
    assert names == sorted(whole(BASE) + whole(LEAF)), names
    assert (info(host, BASE)["voltype"], info(host, LEAF)["voltype"]) == ("INTERNAL", "LEAF")
    return True


def chain(host: LeaseHost) -> None:
    base(host)
    if f"{LEAF}.meta" not in files(host):
        snapshot(host)


def delete_leaf(host: LeaseHost) -> None:
    finish(host, "Image.deleteVolumes", **_IDS, volumeList=[LEAF])


def is_leaf_deleted(host: LeaseHost) -> bool:
    """Until all of it is gone it can be asked for again."""
    names = files(host)
    if f"{LEAF}.meta" in names:
        return False
    assert names == whole(BASE), names
    assert info(host, BASE)["voltype"] == "LEAF"
    return True


def add_bitmap(host: LeaseHost) -> None:
    if (now := int(info(host, BASE)["generation"])) > 0:
        raise Reported(f"its generation is {now}")
    ref = {"sd_id": FIRST, "img_id": IMAGE, "vol_id": BASE, "generation": 0}
    job_id = JOB
    host.call("SDM.add_bitmap", job_id=job_id, vol_info=ref, bitmap=LEAF)
    eventually(lambda: host.call("internal.storage_jobs")[job_id]["status"] in ("done", "failed"), within_s=30)
    found = host.call("internal.storage_jobs")[job_id]
    if found["status"] == "failed":
        raise Reported(str(found))


def has_bitmap(host: LeaseHost) -> bool:
    if int(info(host, BASE)["generation"]) == 0:
        return False
    found = host.call("Volume.getQemuImageInfo", **_IDS, volumeID=BASE)
    assert [one["name"] for one in found["bitmaps"]] == [LEAF], found
    return True


def files(host: LeaseHost) -> list[str]:
    image = host.domain(FIRST) / "images" / IMAGE
    return sorted(path.name for path in image.iterdir()) if image.exists() else []


def whole(volume_id: str) -> list[str]:
    return [volume_id, f"{volume_id}.lease", f"{volume_id}.meta"]


def info(host: LeaseHost, volume_id: str) -> dict[str, Any]:
    """Of a volume whose lease is there, by its name, and free."""
    found: dict[str, Any] = host.call("Volume.getInfo", **_IDS, volumeID=volume_id)
    written = sanlock.read_resource(found["lease"]["path"], 0)
    assert written["resource"].decode() == volume_id, written
    assert found["lease"]["owners"] == [], found
    return found


def no_image(host: LeaseHost) -> None:
    if files(host):
        finish(host, "Image.delete", **_IDS, postZero=False, force=False)
    eventually(lambda: list((host.domain(FIRST) / "images").iterdir()) == [])


# --- the role


def role(host: LeaseHost) -> None:
    """Given up and taken."""
    host.call("StoragePool.spmStop", storagepoolID=POOL)
    host.take_role()


def has_role(host: LeaseHost) -> bool:
    """With its lease; the other domain's is free, one is master, and the disk says the same."""
    master = host.master
    other = {FIRST: SECOND, SECOND: FIRST}[master]
    status = host.call("StoragePool.getSpmStatus", storagepoolID=POOL)
    assert (status["spmStatus"], status["spmId"]) == ("SPM", 1), status
    pairs = host.metadata(master)
    assert (pairs["POOL_SPM_ID"], int(pairs["POOL_SPM_LVER"])) == ("1", status["spmLver"]), pairs
    assert owners(host, master) == [1]
    eventually(lambda: owners(host, other) == [], within_s=15)
    eventually(lambda: host.metadata(other)["ROLE"] == "Regular", within_s=15)
    assert "MASTER_VERSION" not in host.metadata(other)
    return True


def owners(host: LeaseHost, sd_id: str) -> list[int]:
    leases = f"{host.domain(sd_id)}/dom_md/leases"
    return [int(one["host_id"]) for one in sanlock.read_resource_owners(sd_id.encode(), b"SDM", [(leases, 2**20)])]


def switch(host: LeaseHost, to: str = SECOND) -> None:
    version = int(host.metadata(host.master)["MASTER_VERSION"])
    names = {"oldMasterUUID": host.master, "newMasterUUID": to, "masterVersion": version + 1}
    finish(host, "StoragePool.switchMaster", storagepoolID=POOL, **names)


def is_switched(host: LeaseHost) -> bool:
    assert has_role(host)
    return host.master == SECOND


def switch_back(host: LeaseHost) -> None:
    if host.master != FIRST:
        switch(host, FIRST)
    assert has_role(host)


SCENARIOS = {
    "add lease": Scenario(add, is_there, after=remove),
    "remove lease": Scenario(remove, is_gone, both_leases, no_leases),
    "rebuild leases": Scenario(rebuild, is_in_order, damaged, put_in_order_and_removed),
    "snapshot": Scenario(snapshot, is_snapshot, base, no_image),
    "delete volume": Scenario(delete_leaf, is_leaf_deleted, chain, no_image),
    "bitmap": Scenario(add_bitmap, has_bitmap, base, no_image),
    "role": Scenario(role, has_role),
    "switch": Scenario(switch, is_switched, after=switch_back),
}
