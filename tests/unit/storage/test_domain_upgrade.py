# SPDX-License-Identifier: Apache-2.0
"""A domain is upgraded once all its volumes were read: one that storage does not give now is not passed over."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_root
from tests.support.storage_room import StorageRoom, code_of
from vdsm_mp.api.errors_storage import StorageAccessFailed
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage import pool_upgrade
from vdsm_mp.storage.domain_metadata import parse
from vdsm_mp.storage.locks import LocalLock, Locks

pytestmark = [needs_root(), pytest.mark.timeout(60)]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StorageRoom]:
    """SPM of a pool of version 4."""
    monkeypatch.setattr(pool_upgrade, "_AGAIN_S", 0.2)
    made = StorageRoom(tmp_path).make(version="4")
    yield made
    made.stop()


def version(room: StorageRoom, sd_id: str) -> str:
    return parse(sd_id, (room.domain_of(sd_id) / "dom_md/metadata").read_bytes())["VERSION"]


def keys(meta: Path) -> set[str]:
    return {line.partition("=")[0] for line in meta.read_text().splitlines()}


@contextmanager
def unreadable(meta: Path) -> Iterator[None]:
    """The kernel answers with an errno where the file is, which is whole."""
    subprocess.run(["mount", "--bind", f"/proc/{os.getpid()}/mem", meta], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", meta], check=True)


def upgrade(room: StorageRoom) -> str:
    found: str = room.call("StoragePool.upgrade", storagepoolID=room.pool_id, targetDomVersion=5)
    return found


def holds_its_lease(room: StorageRoom) -> bool:
    lock = next(one for one in room.room.room.state if isinstance(one, Locks))._locks[room.sd_id]
    assert isinstance(lock, LocalLock)
    return lock.holds(lock.sdm)


def test_a_master_with_a_volume_that_cannot_be_read_is_refused_and_upgraded_when_asked_again(old: StorageRoom) -> None:
    (good_image, good), (bad_image, bad) = old.create(), old.create()
    meta = old.image(bad_image) / f"{bad}.meta"
    with unreadable(meta):
        assert code_of(upgrade, old) == StorageAccessFailed.code
        assert version(old, old.sd_id) == "4"
        assert old.info(good_image, good)["capacity"] == str(16 * 2**20)  # whichever keys it has by now
    assert upgrade(old) == "started"
    assert version(old, old.sd_id) == "5"
    for image_id, volume_id in ((good_image, good), (bad_image, bad)):
        found = keys(old.image(image_id) / f"{volume_id}.meta")
        assert ("CAP" in found, "SIZE" in found) == (True, False)


def test_a_host_becomes_spm_of_such_a_master_and_upgrades_it_later(old: StorageRoom) -> None:
    """With the lease of the role, which it keeps."""
    image_id, volume_id = old.create()
    meta = old.image(image_id) / f"{volume_id}.meta"
    old.call("StoragePool.spmStop", storagepoolID=old.pool_id)
    with unreadable(meta):
        old.take_role(version="5")
        assert version(old, old.sd_id) == "4"
        old.create()
        assert code_of(upgrade, old) == 396
    eventually(lambda: version(old, old.sd_id) == "5")
    eventually(lambda: "SIZE" not in keys(meta))
    assert holds_its_lease(old)
    assert old.call("StoragePool.getSpmStatus", storagepoolID=old.pool_id)["spmStatus"] == "SPM"
    old.create(image_id, srcImgUUID=image_id, srcVolUUID=volume_id)


def test_such_a_domain_is_activated_and_upgraded_later(old: StorageRoom) -> None:
    second = old.add_domain(version="4")
    ids = {"storagepoolID": old.pool_id, "storagedomainID": second}
    image_id, volume_id = old.create(storagedomainID=second)
    meta = old.domain_of(second) / "images" / image_id / f"{volume_id}.meta"
    old.call("StorageDomain.deactivate", **ids, masterSdUUID=BLANK, masterVersion=1)
    assert upgrade(old) == "started"
    with unreadable(meta):
        old.call("StorageDomain.activate", **ids)
        assert version(old, second) == "4"
    eventually(lambda: version(old, second) == "5")
    eventually(lambda: "SIZE" not in keys(meta))


def test_another_domain_that_stays_valid_all_the_time_is_tried_again(old: StorageRoom) -> None:
    second = old.add_domain(version="4")
    image_id, volume_id = old.create(storagedomainID=second)
    meta = old.domain_of(second) / "images" / image_id / f"{volume_id}.meta"
    eventually(lambda: old.call("internal.domain_vitals")[second]["actual"])
    with unreadable(meta):
        assert upgrade(old) == "started"
        eventually(lambda: code_of(upgrade, old) == 396)
        assert version(old, second) == "4"
    eventually(lambda: version(old, second) == "5")
    eventually(lambda: "SIZE" not in keys(meta))


def test_a_volume_whose_metadata_make_no_sense_holds_up_nothing(old: StorageRoom) -> None:
    image_id, volume_id = old.create()
    meta = old.image(image_id) / f"{volume_id}.meta"
    meta.write_text("half a file")
    assert upgrade(old) == "started"
    assert version(old, old.sd_id) == "5"
    assert meta.read_text() == "half a file"
