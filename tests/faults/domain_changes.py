# SPDX-License-Identifier: Apache-2.0
"""What is done to a second domain and to the pool, step by step, and how one sees that it is done. See `domains`."""

import os
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.storage_room import StorageRoom
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.domain_metadata import decode, parse

SECOND = "5d000000-0000-4000-8000-000000000002"
POOL_2 = "90000000-0000-4000-8000-000000000002"
IMAGE, BASE, LEAF, TEMPLATE_IMAGE = (f"{n}0000000-aaaa-4bbb-8ccc-{n}00000000000" for n in (1, 2, 3, 4))


def second_dir(house: StorageRoom) -> Path:
    return house.root / "second"


def connect_second(house: StorageRoom) -> None:
    second_dir(house).mkdir(exist_ok=True)
    rows = [{"id": "second", "connection": str(second_dir(house))}]
    house.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=rows)


def create_second(house: StorageRoom, version: str = "5", cls: int = 1) -> None:
    params = {"domainType": 4, "typeArgs": str(second_dir(house)), "name": "second", "domainClass": cls}
    house.call("StorageDomain.create", storagedomainID=SECOND, version=version, **params)


def metadata(path: Path) -> dict[str, str]:
    """Of a domain's directory; it must be what a reader accepts."""
    pairs = parse(path.name, (path / "dom_md/metadata").read_bytes())
    decode(path.name, pairs)
    return pairs


def second(house: StorageRoom) -> dict[str, str]:
    return metadata(second_dir(house) / SECOND)


def master(house: StorageRoom) -> dict[str, str]:
    return metadata(house.domain)


def in_pool(house: StorageRoom, verb: str, **more: Any) -> None:
    house.call(f"StorageDomain.{verb}", storagepoolID=house.pool_id, storagedomainID=SECOND, **more)


def status_of_second(house: StorageRoom) -> str | None:
    found = house.call("StoragePool.getInfo", storagepoolID=house.pool_id)["dominfo"].get(SECOND)
    return None if found is None else str(found["status"])


def attached(house: StorageRoom) -> None:
    create_second(house)
    in_pool(house, "attach")


def activated(house: StorageRoom) -> None:
    attached(house)
    in_pool(house, "activate")


NO_MASTER = {"masterSdUUID": BLANK, "masterVersion": 1}


def created(house: StorageRoom) -> bool:
    names = set(os.listdir(second_dir(house))) - probes(house)
    if not any(name.startswith(SECOND) for name in names):
        return False
    files = {str(p.relative_to(second_dir(house) / SECOND)) for p in (second_dir(house) / SECOND).rglob("*")}
    dom_md = {f"dom_md/{name}" for name in ("metadata", "ids", "leases", "inbox", "outbox")}
    assert files == {"dom_md", "images", *dom_md}, files
    assert second(house)["ROLE"] == "Regular"
    assert names == {SECOND}, names
    return True


def probes(house: StorageRoom) -> set[str]:
    """Probe files: they cannot be told from those of another host, so they are swept when they are a day old."""
    return {name for name in os.listdir(second_dir(house)) if name.startswith(".prob-")}


def formatted(house: StorageRoom) -> bool:
    if SECOND in os.listdir(second_dir(house)):
        second(house)
        return False
    # What is left is swept by whoever makes a domain there next.
    create_second(house)
    assert set(os.listdir(second_dir(house))) - probes(house) == {SECOND}
    return True


def pool_2(house: StorageRoom) -> None:
    numbers = {"lockRenewalIntervalSec": 5, "leaseTimeSec": 60, "ioOpTimeoutSec": 10, "leaseRetries": 3}
    names = {"name": "two", "masterSdUUID": SECOND, "masterVersion": 1, "domainList": [SECOND]}
    house.call("StoragePool.create", storagepoolID=POOL_2, **names, **numbers)


def pool_2_made(house: StorageRoom) -> bool:
    pairs = second(house)
    assert (pairs["ROLE"] == "Master") == (pairs["POOL_UUID"] == POOL_2) == ("MASTER_VERSION" in pairs), pairs
    return pairs["ROLE"] == "Master"


def destroy(house: StorageRoom) -> None:
    house.call("StoragePool.destroy", storagepoolID=house.pool_id, hostID=1, scsiKey="")


def destroyed(house: StorageRoom) -> bool:
    """The master goes last: as long as it is one, the rest can be asked for again."""
    if master(house)["POOL_UUID"]:
        assert master(house)["ROLE"] == "Master"
        return False
    for pairs in (master(house), second(house)):
        assert (pairs["ROLE"], pairs["POOL_UUID"]) == ("Regular", ""), pairs
        assert "MASTER_VERSION" not in pairs
    return True


def rebuild(house: StorageRoom) -> None:
    """The engine takes the master for lost."""
    if house.call("StoragePool.getSpmStatus", storagepoolID=house.pool_id)["spmStatus"] == "SPM":
        house.call("StoragePool.spmStop", storagepoolID=house.pool_id)
    numbers = {"lockRenewalIntervalSec": 5, "leaseTimeSec": 60, "ioOpTimeoutSec": 10, "leaseRetries": 3}
    names = {"name": "again", "masterSdUUID": SECOND, "masterVersion": 2, "hostId": 1}
    words = {house.sd_id: "attached", SECOND: "active"}
    house.call("StoragePool.reconstructMaster", storagepoolID=house.pool_id, **names, **numbers, domainDict=words)


def rebuilt(house: StorageRoom) -> bool:
    """Whoever comes with the old master, which was not lost, makes the new one regular."""
    pairs = second(house)
    assert (pairs["ROLE"] == "Master") == (pairs.get("MASTER_VERSION") == "2"), pairs
    return pairs["ROLE"] == "Master"


def switch(house: StorageRoom) -> None:
    status = house.ended(house.start_switch(SECOND))
    if status["code"]:
        raise FaultReported(status["message"])


class FaultReported(Exception):
    """A task told of its failure."""


def switched(house: StorageRoom) -> bool:
    """Whoever the engine connects with next is master, has its tree, and the other says Regular in the end."""
    assert "Master" in (master(house)["ROLE"], second(house)["ROLE"])
    if house.call("StoragePool.getInfo", storagepoolID=house.pool_id)["info"]["master_uuid"] != SECOND:
        return False
    assert second(house)["ROLE"] == "Master"
    assert len(list((second_dir(house) / SECOND / "master/vms").rglob("*.ovf"))) == 1
    eventually(lambda: master(house)["ROLE"] == "Regular")
    return True


def with_ovf(house: StorageRoom) -> None:
    activated(house)
    (house.domain / "master/vms" / IMAGE).mkdir()
    (house.domain / "master/vms" / IMAGE / f"{IMAGE}.ovf").write_text("<ovf/>")


def old_volumes(house: StorageRoom) -> None:
    house.create(IMAGE, BASE)
    house.create(IMAGE, LEAF, srcImgUUID=IMAGE, srcVolUUID=BASE)


def upgrade(house: StorageRoom) -> None:
    house.call("StoragePool.upgrade", storagepoolID=house.pool_id, targetDomVersion=5)


def upgraded(house: StorageRoom) -> bool:
    capacities = {house.info(IMAGE, volume)["capacity"] for volume in (BASE, LEAF)}
    assert capacities == {str(16 * 2**20)}
    if master(house)["VERSION"] != "5":
        return False
    assert (master(house)["BLOCK_SIZE"], master(house)["ALIGNMENT"]) == ("512", "1048576")
    return True
