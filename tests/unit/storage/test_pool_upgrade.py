# SPDX-License-Identifier: Apache-2.0
"""Pools and domains of old formats, and their upgrade."""

from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.pools import add_active_domain, add_domain, metadata
from tests.support.storage_room import StorageRoom, code_of
from vdsm_mp.api.types import BLANK

pytestmark = needs_program("qemu-img")


def old_pool(root: Path, version: str) -> StorageRoom:
    return StorageRoom(root).make(version=version)


@pytest.mark.parametrize("version", ["3", "4"])
def test_a_pool_of_an_old_format_works_and_is_upgraded_with_its_volumes(tmp_path: Path, version: str) -> None:
    room = old_pool(tmp_path, version)
    try:
        second = add_active_domain(room, "second", version=version)
        base_image, base = room.create()
        room.create(base_image, srcImgUUID=base_image, srcVolUUID=base)
        meta = room.image(base_image) / f"{base}.meta"
        text = meta.read_text()
        assert "SIZE=32768\n" in text
        assert "MTIME=0\n" in text
        assert "CAP=" not in text
        before = room.info(base_image, base)
        assert room.call("StorageDomain.getInfo", storagedomainID=room.sd_id)["version"] == version
        assert "BLOCK_SIZE" not in metadata(room, "export", room.sd_id)

        assert room.call("StoragePool.upgrade", storagepoolID=room.pool_id, targetDomVersion=5) == "started"
        pairs = metadata(room, "export", room.sd_id)
        assert (pairs["VERSION"], pairs["BLOCK_SIZE"], pairs["ALIGNMENT"]) == ("5", "512", "1048576")
        eventually(lambda: metadata(room, "second", second)["VERSION"] == "5")
        text = meta.read_text()
        assert f"CAP={16 * 2**20}\n" in text
        assert "SIZE=" not in text
        assert "MTIME=" not in text
        after = room.info(base_image, base)
        assert after == before
        room.create(base_image, srcImgUUID=base_image, srcVolUUID=_leaf(room, base_image))
    finally:
        room.stop()


def test_a_volume_that_cannot_be_written_anew_is_left_as_it_is_by_an_upgrade(tmp_path: Path) -> None:
    room = old_pool(tmp_path, "4")
    try:
        odd_image, odd = room.create()
        good_image, good = room.create()
        meta = room.image(odd_image) / f"{odd}.meta"
        meta.write_text(meta.read_text().replace("GEN=0\n", "GEN=123456\n"))
        before = meta.read_text()
        assert room.call("StoragePool.upgrade", storagepoolID=room.pool_id, targetDomVersion=5) == "started"
        assert metadata(room, "export", room.sd_id)["VERSION"] == "5"
        assert "CAP=" in (room.image(good_image) / f"{good}.meta").read_text()
        assert meta.read_text() == before
        assert room.info(odd_image, odd)["capacity"] == str(16 * 2**20)
    finally:
        room.stop()


def _leaf(room: StorageRoom, image_id: str) -> str:
    volumes = room.call("StorageDomain.getVolumes", storagedomainID=room.sd_id, imageID=image_id)
    [leaf] = [v for v in volumes if room.info(image_id, v)["voltype"] == "LEAF"]
    return str(leaf)


def test_an_upgrade_does_not_wait_for_a_domain_that_was_deactivated_meanwhile(tmp_path: Path) -> None:
    """It is upgraded when it is activated again. Until then the pool could not be upgraded any further."""
    room = old_pool(tmp_path, "3")
    try:
        second = add_active_domain(room, "second", version="3")
        ids = {"storagepoolID": room.pool_id, "storagedomainID": second}
        (room.root / "second").rename(room.root / "away")
        assert room.call("StoragePool.upgrade", storagepoolID=room.pool_id, targetDomVersion=4) == "started"
        assert code_of(room.call, "StoragePool.upgrade", storagepoolID=room.pool_id, targetDomVersion=5) == 396
        room.call("StorageDomain.deactivate", **ids, masterSdUUID=BLANK, masterVersion=1)
        assert room.call("StoragePool.upgrade", storagepoolID=room.pool_id, targetDomVersion=5) == "started"
        (room.root / "away").rename(room.root / "second")
        assert metadata(room, "second", second)["VERSION"] == "3"
        room.call("StorageDomain.activate", **ids)
        assert metadata(room, "second", second)["VERSION"] == "5"
    finally:
        room.stop()


def test_becoming_spm_with_a_newer_format_upgrades_and_with_an_older_refuses(tmp_path: Path) -> None:
    room = old_pool(tmp_path, "4")
    try:
        room.call("StoragePool.spmStop", storagepoolID=room.pool_id)
        start = {"storagepoolID": room.pool_id, "prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
        assert room.ended(room.call("StoragePool.spmStart", **start, domVersion="3"))["code"] == 395
        assert room.call("StoragePool.getSpmStatus", storagepoolID=room.pool_id)["spmStatus"] == "Free"
        room.finished(room.call("StoragePool.spmStart", **start, domVersion="5"))
        assert metadata(room, "export", room.sd_id)["VERSION"] == "5"
    finally:
        room.stop()


def test_a_newer_domain_is_not_attached_to_an_older_pool_and_an_older_one_is_upgraded(tmp_path: Path) -> None:
    room = old_pool(tmp_path, "4")
    try:
        newer = add_domain(room, "newer", version="5")
        ids = {"storagepoolID": room.pool_id, "storagedomainID": newer}
        assert code_of(room.call, "StorageDomain.attach", **ids) == 398
        older = add_active_domain(room, "older", version="3")
        assert metadata(room, "older", older)["VERSION"] == "4"
    finally:
        room.stop()
