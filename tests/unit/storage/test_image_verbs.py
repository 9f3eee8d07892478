# SPDX-License-Identifier: Apache-2.0
"""Image.prepare, Image.teardown, Image.delete and the virt worker's forms of them, on a real local domain."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.storage_room import COW, MIB, RAW, StorageRoom, code_of, new_id
from vdsm_mp.api.errors_storage import NotSpm, PoolNotConnected, UnsafePath
from vdsm_mp.api.errors_volume import (
    DiscardNotSupported,
    ImageDoesNotExist,
    ImageIsNotLegalChain,
    PrepareIllegalVolume,
    VolumeDoesNotExist,
    VolumeIsShared,
)
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.errors import Error

pytestmark = needs_program("qemu-img")


@pytest.fixture
def chain(house: StorageRoom) -> tuple[str, str, str]:
    """(image, base, leaf)"""
    image_id, base = house.create(volFormat=RAW)
    _, leaf = house.create(image_id, srcImgUUID=image_id, srcVolUUID=base)
    return image_id, base, leaf


def link_of(house: StorageRoom, image_id: str) -> Path:
    return house.root / "run/storage" / house.sd_id / image_id


def test_a_prepared_image_has_paths_that_outlive_the_pool(house: StorageRoom, chain: tuple[str, str, str]) -> None:
    image_id, base, leaf = chain
    done = house.call("Image.prepare", **house.names(image_id, leaf))
    assert Path(done["path"]).samefile(house.image(image_id) / leaf)
    assert done["path"].endswith(f"/{house.sd_id}/images/{image_id}/{leaf}")
    assert done["info"] == {"type": "file", "path": done["path"]}
    assert [one["volumeID"] for one in done["imgVolumesInfo"]] == [base, leaf]
    for one in done["imgVolumesInfo"]:
        assert set(one) == {"domainID", "imageID", "volumeID", "path"}
        assert Path(one["path"]).samefile(house.image(image_id) / one["volumeID"])
    link = link_of(house, image_id)
    assert link.is_symlink() and link.samefile(house.image(image_id))
    without_pool = house.call("Image.prepare", **house.names(image_id, leaf) | {"storagepoolID": BLANK})
    assert without_pool["path"] == f"{link}/{leaf}"
    for _ in range(2):
        assert house.call("Image.teardown", **house.names(image_id, leaf)) is True
        assert not link.is_symlink()


def test_virt_gets_the_chain_with_run_time_paths(house: StorageRoom, chain: tuple[str, str, str]) -> None:
    image_id, base, leaf = chain
    ids = {"pool_id": house.pool_id, "sd_id": house.sd_id, "image_id": image_id}
    drive = house.call("internal.prepare_drive", **ids, volume_id=leaf)
    link = link_of(house, image_id)
    assert (drive["path"], drive["format"], drive["block"]) == (f"{link}/{leaf}", "cow", False)
    assert drive["capacity_bytes"] == 16 * MIB
    assert [(one["volume_id"], one["path"]) for one in drive["chain"]] == [(v, f"{link}/{v}") for v in (base, leaf)]
    assert house.call("internal.prepare_drive", **ids, volume_id=base)["format"] == "raw"
    house.call("internal.teardown_drive", **ids)
    assert not link.is_symlink()
    house.call("internal.teardown_drive", **ids | {"image_id": new_id()})


def test_what_is_prepared_stays_prepared_when_the_worker_is_replaced(house: StorageRoom, tmp_path: Path) -> None:
    first = StorageRoom(tmp_path).make()
    image_id, leaf = first.create()
    first.call("Image.prepare", **first.names(image_id, leaf))
    first.stop()
    second = StorageRoom(tmp_path)
    try:
        assert link_of(second, image_id).samefile(second.image(image_id))
        second.connect_server()
        with pytest.raises(PoolNotConnected):
            second.call("Image.prepare", **second.names(image_id, leaf) | {"storagepoolID": new_id()})
        second.call("Image.prepare", **second.names(image_id, leaf) | {"storagepoolID": BLANK})
    finally:
        second.stop()


def test_an_illegal_chain_is_prepared_only_when_asked_for(house: StorageRoom) -> None:
    image_id, leaf = house.create(legal=False)
    with pytest.raises(PrepareIllegalVolume):
        house.call("Image.prepare", **house.names(image_id, leaf))
    assert not link_of(house, image_id).exists()
    house.call("Image.prepare", **house.names(image_id, leaf), allowIllegal=True)
    house.call("Image.teardown", **house.names(image_id, leaf))


def test_what_is_not_there_is_not_prepared(house: StorageRoom, chain: tuple[str, str, str]) -> None:
    with pytest.raises(ImageDoesNotExist):
        house.call("Image.prepare", **house.names(new_id(), chain[2]))
    with pytest.raises(VolumeDoesNotExist):
        house.call("Image.prepare", **house.names(chain[0], new_id()))


def test_a_capacity_that_is_too_small_is_corrected(house: StorageRoom) -> None:
    image_id, leaf = house.create()
    meta = house.image(image_id) / f"{leaf}.meta"
    meta.write_text(meta.read_text().replace(f"CAP={16 * MIB}", "CAP=0"))
    assert house.info(image_id, leaf)["capacity"] == str(16 * MIB)  # told from the header
    house.call("Image.prepare", **house.names(image_id, leaf))
    assert f"CAP={16 * MIB}\n" in meta.read_text()


def test_a_group_that_may_not_read_is_let_in(house: StorageRoom) -> None:
    image_id, leaf = house.create()
    path = house.image(image_id) / leaf
    path.chmod(0o600)
    house.call("Image.prepare", **house.names(image_id, leaf))
    assert path.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize(
    "options",
    [
        ["-b", "/etc/passwd", "-F", "raw", "-u"],
        ["-b", "../../../dom_md/metadata", "-F", "raw", "-u"],
        ["-b", 'json:{"file": {"driver": "file", "filename": "/etc/passwd"}}', "-F", "raw", "-u"],
        ["-b", "11111111-1111-1111-1111-111111111111", "-F", "raw", "-u"],
        ["-o", "data_file=OUTSIDE"],
    ],
    ids=["absolute", "upwards", "json", "stranger", "data-file"],
)
def test_a_disk_whose_header_names_another_file_is_never_given_to_qemu(
    house: StorageRoom, tmp_path: Path, options: list[str]
) -> None:
    image_id, leaf = house.create()
    path = house.image(image_id) / leaf
    options = [one.replace("OUTSIDE", f"{tmp_path}/outside") for one in options]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "1M"], check=True)
    with pytest.raises(ImageIsNotLegalChain):
        house.call("Image.prepare", **house.names(image_id, leaf))
    assert not link_of(house, image_id).exists()


def test_a_raw_disk_that_pretends_to_be_something_else_stays_raw(house: StorageRoom) -> None:
    image_id, leaf = house.create(volFormat=RAW)
    path = house.image(image_id) / leaf
    with path.open("r+b") as disk:
        disk.write(b"QFI\xfb\0\0\0\2")
    ids = {"pool_id": house.pool_id, "sd_id": house.sd_id, "image_id": image_id}
    assert house.call("internal.prepare_drive", **ids, volume_id=leaf)["format"] == "raw"


@pytest.mark.parametrize("what", ["image directory", "volume", "metadata", "fifo"])
def test_links_and_pipes_in_place_of_volumes_are_refused(house: StorageRoom, tmp_path: Path, what: str) -> None:
    image_id, leaf = house.create()
    image = house.image(image_id)
    if what == "image directory":
        image.rename(tmp_path / "elsewhere")
        image.symlink_to(tmp_path / "elsewhere")
    else:
        name = f"{leaf}.meta" if what == "metadata" else leaf
        (image / name).rename(tmp_path / "elsewhere")
        if what == "fifo":
            os.mkfifo(image / name)
        else:
            (image / name).symlink_to(tmp_path / "elsewhere")
    before = sorted((path, path.lstat().st_mode) for path in tmp_path.rglob("*"))
    with pytest.raises((UnsafePath, VolumeDoesNotExist)):
        house.call("Image.prepare", **house.names(image_id, leaf))
    with pytest.raises((UnsafePath, VolumeDoesNotExist)):
        house.info(image_id, leaf)
    assert sorted((path, path.lstat().st_mode) for path in tmp_path.rglob("*")) == before


def delete(house: StorageRoom, image_id: str, *, zero: bool = False) -> None:
    task_id = house.call(
        "Image.delete",
        imageID=image_id,
        storagepoolID=house.pool_id,
        storagedomainID=house.sd_id,
        postZero=zero,
        force=False,
    )
    assert not house.image(image_id).exists()
    assert house.call("Host.getAllTasksInfo")[task_id]["verb"] == "deleteImage"
    house.finished(task_id)


def remnants(house: StorageRoom) -> list[str]:
    return [name for name in os.listdir(house.domain / "images") if name.startswith("_remove_me_")]


def test_a_deleted_image_is_gone_when_the_verb_answers(house: StorageRoom, chain: tuple[str, str, str]) -> None:
    delete(house, chain[0])
    assert remnants(house) == []
    with pytest.raises(VolumeDoesNotExist):
        house.info(chain[0], chain[2])
    with pytest.raises(ImageDoesNotExist):
        delete(house, chain[0])
    house.create(chain[0], chain[1])


def test_a_wiped_image_is_zeroed_before_its_blocks_are_given_back(house: StorageRoom) -> None:
    image_id, leaf = house.create(volFormat=RAW, size=str(8 * MIB))
    path = house.image(image_id) / leaf
    with path.open("r+b") as disk:
        disk.write(b"secret" * 1000)
        disk.seek(5 * MIB)
        disk.write(b"secret")
    spy = house.root / new_id()
    os.link(path, spy)
    # Another link means another image has it: only what this image alone has is zeroed.
    delete(house, image_id, zero=True)
    assert b"secret" in spy.read_bytes()

    image_id, leaf = house.create(volFormat=RAW, size=str(8 * MIB))
    with (house.image(image_id) / leaf).open("r+b") as disk:
        disk.seek(5 * MIB)
        disk.write(b"secret")
        disk.flush()
        delete(house, image_id, zero=True)
        disk.seek(0)
        assert disk.read() == bytes(8 * MIB)
        assert os.fstat(disk.fileno()).st_blocks * 512 < MIB
    assert remnants(house) == []


def test_a_template_in_use_is_not_deleted(house: StorageRoom) -> None:
    template_image, template = house.create()
    meta = house.image(template_image) / f"{template}.meta"
    meta.write_text(meta.read_text().replace("VOLTYPE=LEAF", "VOLTYPE=SHARED"))
    image_id, _ = house.create(srcImgUUID=template_image, srcVolUUID=template)
    with pytest.raises(VolumeIsShared):
        delete(house, template_image)
    assert house.info(template_image, template)["status"] == "OK"
    delete(house, image_id)
    delete(house, template_image)


def test_the_next_spm_finishes_deletions_that_were_interrupted(tmp_path: Path) -> None:
    first = StorageRoom(tmp_path).make()
    image_id, _ = first.create()
    kept, _ = first.create()
    first.image(image_id).rename(first.image(f"_remove_me_{image_id}"))
    first.stop()
    second = StorageRoom(tmp_path).take_role()
    try:
        eventually(lambda: os.listdir(second.domain / "images") == [kept])
    finally:
        second.stop()


def test_only_what_the_domain_can_do_is_promised(house: StorageRoom, chain: tuple[str, str, str]) -> None:
    params = {"imageID": chain[0], "storagedomainID": house.sd_id, "postZero": False, "force": False}
    with pytest.raises(DiscardNotSupported):
        house.call("Image.delete", **params, storagepoolID=house.pool_id, discard=True)
    with pytest.raises(PoolNotConnected):
        house.call("Image.delete", **params, storagepoolID=new_id())
    assert house.image(chain[0]).exists()


def test_an_image_whose_metadata_cannot_be_read_can_still_be_deleted(house: StorageRoom) -> None:
    image_id, leaf = house.create()
    (house.image(image_id) / f"{leaf}.meta").write_bytes(b"\xff\0")
    with pytest.raises(Error):
        house.call("Image.prepare", **house.names(image_id, leaf))
    delete(house, image_id)


def test_only_the_spm_deletes(tmp_path: Path) -> None:
    house = StorageRoom(tmp_path).make()
    try:
        image_id, _ = house.create()
        house.call("StoragePool.spmStop", storagepoolID=house.pool_id)
        with pytest.raises(NotSpm):
            delete(house, image_id)
        assert house.image(image_id).exists()
    finally:
        house.stop()


def test_a_file_whose_name_qemu_would_take_for_more_is_no_volume(house: StorageRoom) -> None:
    """Who owns the storage could have this host connect to anybody, which a guest's header alone cannot."""
    image_id, volume_id = house.create()
    place, name = house.image(image_id), "nbd:127.0.0.1:1"
    argv = ["qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", name, place / volume_id]
    subprocess.run(argv, check=True)
    meta = (place / f"{volume_id}.meta").read_text()
    (place / name).write_bytes(bytes(512))
    (place / f"{name}.meta").write_text(meta.replace("FORMAT=COW", "FORMAT=RAW"))
    (place / f"{volume_id}.meta").write_text(meta.replace(f"PUUID={BLANK}", f"PUUID={name}"))
    assert code_of(house.call, "Image.prepare", **house.names(image_id, volume_id)) == ImageIsNotLegalChain.code
    copy = {"dstSdUUID": house.sd_id, "dstImgUUID": new_id(), "dstVolUUID": new_id(), "desc": "", "volType": 8}
    copy |= {"volFormat": COW, "preallocate": 2, "postZero": False, "force": False}
    outcome = house.outcome("Volume.copy", **house.names(image_id, volume_id), **copy)
    assert outcome == ("cleanSuccess", ImageIsNotLegalChain.code)
