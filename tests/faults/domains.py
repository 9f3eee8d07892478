# SPDX-License-Identifier: Apache-2.0
"""Runs one operation on domains, the pool or OVFs again and again with a fault at its step 1, 2, 3 …, until none is
left:

    python -m tests.faults.domains SCENARIO FAULT DIRECTORY [STRIDE]

FAULT: see `lives`. Then a new worker looks: every piece of metadata is
readable and sealed, the operation is done or can be asked for again and is done then, and nothing is left over. Prints
one JSON line as `deaths` does.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.deaths import note_hit
from tests.faults.lives import Fault, Lives, in_session, run_all
from tests.faults.powercut import Stage, stage
from tests.support.eventually import eventually
from tests.support.ledger import run as run_program
from tests.support.storage_room import StorageRoom, qemu_check, write_pattern
from vdsm_mp.api.ovf_store import MAX_PIECE
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_metadata import decode, parse
from vdsm_mp.tasks import undoing

SECOND = "5d000000-0000-4000-8000-000000000002"
POOL_2 = "90000000-0000-4000-8000-000000000002"
IMAGE, BASE, LEAF, TEMPLATE_IMAGE = (f"{n}0000000-aaaa-4bbb-8ccc-{n}00000000000" for n in (1, 2, 3, 4))


@dataclass(frozen=True)
class Scenario:
    """prepare: makes what act needs. act: the operation. done: True or False; AssertionError when it is neither.

    ends_pool: there may be no pool to connect to afterwards.
    """

    prepare: Callable[[StorageRoom], object]
    act: Callable[[StorageRoom], object]
    done: Callable[[StorageRoom], bool]
    version: str = "5"
    ends_pool: bool = False


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


_NO_MASTER = {"masterSdUUID": BLANK, "masterVersion": 1}


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


# --- OVFs: files of VMs, and stores in volumes by HTTP

VM_1, VM_2 = (f"{n}0000000-bbbb-4bbb-8ccc-{n}00000000000" for n in (1, 2))
_OLD, _NEW = "<ovf>old</ovf>", "<ovf>new" + "x" * 100_000 + "</ovf>"


def update_ovfs(house: StorageRoom, **ovfs: str) -> None:
    rows = [{"vm": vm_id, "ovf": text, "imglist": ""} for vm_id, text in ovfs.items()]
    house.call("StoragePool.updateVMs", storagepoolID=house.pool_id, vmList=rows)


def ovfs(house: StorageRoom) -> dict[str, str]:
    """As an engine reads them; each whole."""
    found: dict[str, str] = house.call(
        "StoragePool.getBackedUpVmsInfo", storagepoolID=house.pool_id, storagedomainID=house.sd_id, vmList=[]
    )
    assert found.get(VM_1) in (None, _OLD, _NEW), found[VM_1][:100]
    assert found.get(VM_2) in (None, _OLD, _NEW), found[VM_2][:100]
    return found


def ovf_files(house: StorageRoom) -> list[str]:
    vms = house.domain / "master/vms"
    return sorted(str(path.relative_to(vms)) for path in vms.rglob("*"))


def ovfs_updated(house: StorageRoom) -> bool:
    found = ovfs(house)
    assert VM_1 in found, "what was there is gone"
    if found != {VM_1: _NEW, VM_2: _NEW}:
        return False
    assert ovf_files(house) == [VM_1, f"{VM_1}/{VM_1}.ovf", VM_2, f"{VM_2}/{VM_2}.ovf"]
    return True


def remove_ovf(house: StorageRoom) -> None:
    house.call("StoragePool.removeVM", storagepoolID=house.pool_id, vmUUID=VM_1)


def ovf_removed(house: StorageRoom) -> bool:
    assert ovfs(house).get(VM_2) == _OLD, "the other's is touched"
    return ovf_files(house) == [VM_2, f"{VM_2}/{VM_2}.ovf"]


_STORE = b"tar" * 200_000


def make_store(house: StorageRoom) -> None:
    house.create(IMAGE, BASE, volFormat=5, preallocate=1, diskType="OVFS", size=str(2**20))


def put_store(house: StorageRoom) -> None:
    """What the door does for an HTTP PUT."""
    names = {"pool_id": house.pool_id, "sd_id": house.sd_id, "image_id": IMAGE, "volume_id": BASE}
    task_id = house.call("internal.open_transfer", direction="to_volume", length_bytes=len(_STORE), **names)
    problem = ""
    for start in range(0, len(_STORE), MAX_PIECE):
        try:
            house.dispatch_write(task_id, start, _STORE[start : start + MAX_PIECE])
        except Error as e:
            problem = str(e)
            break
    house.call("internal.close_transfer", task_id=task_id, problem=problem)
    status = house.ended(task_id)
    if status["code"]:
        raise FaultReported(status["message"])


def store_is_put(house: StorageRoom) -> bool:
    """It is written in place, as by VDSM: an engine keeps two, and puts one again whose task failed."""
    info = house.info(IMAGE, BASE)
    assert (info["legality"], info["apparentsize"]) == ("LEGAL", str(2**20)), info
    assert sorted(os.listdir(house.image(IMAGE))) == [BASE, f"{BASE}.meta"]
    return (house.image(IMAGE) / BASE).read_bytes()[: len(_STORE)] == _STORE


# --- an image on a template that is not there, to an export domain


def with_export(house: StorageRoom) -> None:
    create_second(house, "0", 3)
    in_pool(house, "attach")
    in_pool(house, "activate")
    house.create(TEMPLATE_IMAGE, BASE)
    meta = house.image(TEMPLATE_IMAGE) / f"{BASE}.meta"
    meta.write_text(meta.read_text().replace("VOLTYPE=LEAF", "VOLTYPE=SHARED"))
    house.create(IMAGE, LEAF, srcImgUUID=TEMPLATE_IMAGE, srcVolUUID=BASE)


def export(house: StorageRoom) -> None:
    ids = {"imageID": IMAGE, "storagepoolID": house.pool_id, "storagedomainID": house.sd_id, "dstSdUUID": SECOND}
    status = house.ended(house.call("Image.move", **ids, operation=1, postZero=False, force=False))
    if status["code"]:
        raise FaultReported(status["message"])


def exported(house: StorageRoom) -> bool:
    assert house.info(IMAGE, LEAF)["legality"] == "LEGAL", "the source is touched"
    images = second_dir(house) / SECOND / "images"
    found = {str(path.relative_to(images)) for path in images.rglob("*") if path.is_file()}
    fake = {f"{TEMPLATE_IMAGE}/{BASE}", f"{TEMPLATE_IMAGE}/{BASE}.meta"}
    whole = {f"{IMAGE}/{one}{suffix}" for one in (BASE, LEAF) for suffix in ("", ".meta")}
    if not whole <= found:
        return False
    assert found == fake | whole, found
    assert house.info(TEMPLATE_IMAGE, BASE, SECOND)["legality"] == "FAKE"
    assert (images / IMAGE / BASE).samefile(images / TEMPLATE_IMAGE / BASE)
    return bool(house.info(IMAGE, LEAF, SECOND)["legality"] == "LEGAL")


# --- a chain from one domain to another


def with_second(house: StorageRoom) -> None:
    activated(house)
    house.create(IMAGE, BASE)
    house.create(IMAGE, LEAF, srcImgUUID=IMAGE, srcVolUUID=BASE)
    write_pattern(house.image(IMAGE) / LEAF, "qcow2", 0x5A, 0, 65536)


def move(house: StorageRoom) -> None:
    ids = {"imageID": IMAGE, "storagepoolID": house.pool_id, "storagedomainID": house.sd_id, "dstSdUUID": SECOND}
    status = house.ended(house.call("Image.move", **ids, operation=2, postZero=True, force=False))
    if status["code"]:
        raise FaultReported(status["message"])


def moved(house: StorageRoom) -> bool:
    """In one place or the other. A source that is still there while the move is told of as done goes by itself."""
    there = second_dir(house) / SECOND / "images"
    if not any(there.iterdir()):
        whole_chain(house, house.sd_id, house.domain / "images")
        return False
    eventually(lambda: not any((house.domain / "images").iterdir()))
    whole_chain(house, SECOND, there)
    return True


def whole_chain(house: StorageRoom, sd_id: str, images: Path) -> None:
    assert os.listdir(images) == [IMAGE]
    files = {f"{one}{suffix}" for one in (BASE, LEAF) for suffix in ("", ".meta")}
    assert set(os.listdir(images / IMAGE)) == files
    assert {house.info(IMAGE, one, sd_id)["legality"] for one in (BASE, LEAF)} == {"LEGAL"}
    qemu_check(images / IMAGE / LEAF)
    read = run_program("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0x5a 0 65536", str(images / IMAGE / LEAF))
    assert "verification failed" not in read, read


SCENARIOS = {
    "move": Scenario(with_second, move, moved),
    "export": Scenario(with_export, export, exported),
    "update OVFs": Scenario(
        lambda house: update_ovfs(house, **{VM_1: _OLD}),
        lambda house: update_ovfs(house, **{VM_1: _NEW, VM_2: _NEW}),
        ovfs_updated,
    ),
    "remove OVF": Scenario(lambda house: update_ovfs(house, **{VM_1: _OLD, VM_2: _OLD}), remove_ovf, ovf_removed),
    "put OVF store": Scenario(make_store, put_store, store_is_put),
    "create": Scenario(connect_second, create_second, created),
    "format": Scenario(
        create_second,
        lambda house: house.call("StorageDomain.format", storagedomainID=SECOND, autoDetach=False),
        formatted,
    ),
    "pool": Scenario(create_second, pool_2, pool_2_made),
    "attach": Scenario(
        create_second,
        lambda house: in_pool(house, "attach"),
        lambda house: status_of_second(house) == "Attached" and second(house)["POOL_UUID"] == house.pool_id,
    ),
    "activate": Scenario(
        attached, lambda house: in_pool(house, "activate"), lambda house: status_of_second(house) == "Active"
    ),
    "detach": Scenario(
        attached,
        lambda house: in_pool(house, "detach", **_NO_MASTER),
        lambda house: status_of_second(house) is None and second(house)["POOL_UUID"] == "",
    ),
    "destroy": Scenario(activated, destroy, destroyed, ends_pool=True),
    "rebuild": Scenario(activated, rebuild, rebuilt),
    "switch": Scenario(with_ovf, switch, switched),
    "upgrade": Scenario(old_volumes, upgrade, upgraded, version="3"),
}


def connected(root: Path, *, moved: bool = False, if_there: bool = False) -> StorageRoom:
    """As an engine comes back to a host: servers, pool, role. The pool's list is on disk, so nothing is only told.

    moved: the operation was said to be done; an engine believes that. if_there: the pool may be gone.
    """
    house = StorageRoom(root)
    connect_second(house)
    house.connect_server()
    pool = {"storagepoolID": house.pool_id, "hostID": 1, "scsiKey": ""}
    masters = [(house.sd_id, 1), (SECOND, 2)]
    if moved:
        masters.reverse()
    for sd_id, version in masters:
        try:
            house.call("StoragePool.connect", masterSdUUID=sd_id, masterVersion=version, **pool)
            break
        except Error:
            continue
    else:
        assert if_there, "nobody is master"
        return house
    start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
    house.finished(house.call("StoragePool.spmStart", storagepoolID=house.pool_id, **start))
    return house


def make_template(root: Path, scenario: Scenario) -> None:
    StorageRoom(root).make(version=scenario.version).stop()
    forget_host(root)
    house = connected(root)
    scenario.prepare(house)
    house.stop()
    forget_host(root)


def forget_host(root: Path) -> None:
    """Only what is on storage is handed on."""
    for name in ("data-center", "run"):
        shutil.rmtree(root / name)


def live(stage: Stage, scenario: Scenario, fault: Fault, at: int, later: int) -> None:
    undoing.UNDO_PAUSE_S = 0.01
    steps = fault.steps(stage)
    house = connected(stage.root)
    fault.arm(steps, at, later)
    said = ""
    try:
        scenario.act(house)
    except (Error, FaultReported) as e:
        said = f"{type(e).__name__}: {e}"
    (stage.notes / "said" if said else stage.notes / "said-done").write_text(said)
    note_hit(stage, steps, at)
    house.stop()


def recover(stage: Stage, scenario: Scenario, fault: Fault, at: int) -> None:
    """A worker that comes back to what is there, with a fault at a step of that."""
    undoing.UNDO_PAUSE_S = 0.01
    steps = fault.steps(stage)
    fault.arm_next(steps, at)
    try:
        house = connected(stage.root, if_there=scenario.ends_pool)
        eventually(lambda: tasks_are_over(house), within_s=30)
    except (Error, AssertionError) as e:  # the role, or what it needs, was refused; an engine asks for it again
        print(f"refused: {e}", file=sys.stderr)
    note_hit(stage, steps, at)


def tasks_are_over(house: StorageRoom) -> bool:
    """What the dead worker left is undone: an engine asks for nothing new about an image before."""
    found = house.call("Host.getAllTasks")
    return all(status["taskState"] == "finished" for status in found.values())


def look(stage: Stage, scenario: Scenario) -> str:
    said_done = (stage.notes / "said-done").exists()
    house = connected(stage.root, moved=said_done, if_there=scenario.ends_pool)
    eventually(lambda: tasks_are_over(house), within_s=30)
    outcome = "done"
    if not scenario.done(house):
        assert not said_done, "it was said to be done, and is not"
        outcome = "done at the second try"
        scenario.act(house)
        assert scenario.done(house), "not even at the second try"
    house.stop()
    return outcome


def main() -> None:
    scenario, fault, directory = SCENARIOS[sys.argv[1]], Fault.of(sys.argv[2]), Path(sys.argv[3])
    stride = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    where = stage(directory, cuts=fault.cuts, image=fault.takes_image)
    lives = Lives(
        lambda at, later: live(where, scenario, fault, at, later),
        lambda at: recover(where, scenario, fault, at),
        lambda: look(where, scenario),
    )
    try:
        assert in_session(lambda: make_template(where.template, scenario)) == 0
        where.keep()
        print(json.dumps(run_all(where, fault, stride, lives, directory / "outcome")))
    finally:
        where.close()


if __name__ == "__main__":
    main()
