# SPDX-License-Identifier: Apache-2.0
"""What is done to OVFs, exported images and chains of volumes, and how one sees that it is done. See `domains`."""

import os
from pathlib import Path

from tests.faults.domain_changes import (
    BASE,
    IMAGE,
    LEAF,
    SECOND,
    TEMPLATE_IMAGE,
    FaultReported,
    activated,
    create_second,
    in_pool,
    second_dir,
)
from tests.support.eventually import eventually
from tests.support.ledger import run as run_program
from tests.support.storage_room import StorageRoom, qemu_check, write_pattern
from vdsm_mp.api.ovf_store import MAX_PIECE
from vdsm_mp.common.errors import Error

VM_1, VM_2 = (f"{n}0000000-bbbb-4bbb-8ccc-{n}00000000000" for n in (1, 2))


OLD, NEW = "<ovf>old</ovf>", "<ovf>new" + "x" * 100_000 + "</ovf>"


def update_ovfs(house: StorageRoom, **ovfs: str) -> None:
    rows = [{"vm": vm_id, "ovf": text, "imglist": ""} for vm_id, text in ovfs.items()]
    house.call("StoragePool.updateVMs", storagepoolID=house.pool_id, vmList=rows)


def ovfs(house: StorageRoom) -> dict[str, str]:
    """As an engine reads them; each whole."""
    found: dict[str, str] = house.call(
        "StoragePool.getBackedUpVmsInfo", storagepoolID=house.pool_id, storagedomainID=house.sd_id, vmList=[]
    )
    assert found.get(VM_1) in (None, OLD, NEW), found[VM_1][:100]
    assert found.get(VM_2) in (None, OLD, NEW), found[VM_2][:100]
    return found


def ovf_files(house: StorageRoom) -> list[str]:
    vms = house.domain / "master/vms"
    return sorted(str(path.relative_to(vms)) for path in vms.rglob("*"))


def ovfs_updated(house: StorageRoom) -> bool:
    found = ovfs(house)
    assert VM_1 in found, "what was there is gone"
    if found != {VM_1: NEW, VM_2: NEW}:
        return False
    assert ovf_files(house) == [VM_1, f"{VM_1}/{VM_1}.ovf", VM_2, f"{VM_2}/{VM_2}.ovf"]
    return True


def remove_ovf(house: StorageRoom) -> None:
    house.call("StoragePool.removeVM", storagepoolID=house.pool_id, vmUUID=VM_1)


def ovf_removed(house: StorageRoom) -> bool:
    assert ovfs(house).get(VM_2) == OLD, "the other's is touched"
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
