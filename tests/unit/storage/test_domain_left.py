# SPDX-License-Identifier: Apache-2.0
"""A domain that leaves the pool while something is still to be done to it, or by force."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.storage_room import RAW, StorageRoom, code_of, new_id
from vdsm_mp.api.errors_storage import DomainNotInPool, MasterCannotBeDetached
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.domain_metadata import parse

pytestmark = [needs_program("qemu-img"), pytest.mark.timeout(60)]


@pytest.fixture
def spm(tmp_path: Path) -> Iterator[StorageRoom]:
    made = StorageRoom(tmp_path).make()
    yield made
    made.stop()


@contextmanager
def no_turn_for_anybody(room: StorageRoom) -> Iterator[None]:
    """All that runs in the background waits."""
    go_on = threading.Event()
    for n in range(8):
        room.room.background.start(f"busy {n}", lambda: assert_true(go_on.wait(20)))
    try:
        yield
    finally:
        go_on.set()


def assert_true(what: bool) -> None:
    assert what


def ids(spm: StorageRoom, sd_id: str) -> dict[str, Any]:
    return {"storagepoolID": spm.pool_id, "storagedomainID": sd_id, "masterSdUUID": BLANK, "masterVersion": 1}


def leave(spm: StorageRoom, sd_id: str) -> None:
    spm.call("StorageDomain.deactivate", **ids(spm, sd_id))
    spm.call("StorageDomain.detach", **ids(spm, sd_id))


@pytest.mark.parametrize("verb", ["create", "delete", "copy", "move"])
def test_a_task_that_waits_does_nothing_to_a_domain_that_has_left_meanwhile(spm: StorageRoom, verb: str) -> None:
    """It may be another pool's by then."""
    second = spm.add_domain()
    image_id, volume_id = spm.create(storagedomainID=second, volFormat=RAW)
    ours_image, ours = spm.create(volFormat=RAW)
    with no_turn_for_anybody(spm):
        if verb == "create":
            task_id = spm.start_create(new_id(), new_id(), storagedomainID=second)
        elif verb == "delete":
            task_id = spm.call("Volume.delete", **spm.names(image_id, volume_id, second), postZero=False, force=False)
        elif verb == "copy":
            params = {"dstSdUUID": second, "dstImgUUID": new_id(), "dstVolUUID": new_id(), "desc": "", "volType": 8}
            params |= {"volFormat": RAW, "preallocate": 2, "postZero": False, "force": False}
            task_id = spm.call("Volume.copy", **spm.names(ours_image, ours), **params)
        else:
            params = {"dstSdUUID": second, "operation": 2, "postZero": False, "force": False}
            names = {"storagedomainID": spm.sd_id, "imageID": ours_image, "storagepoolID": spm.pool_id}
            task_id = spm.call("Image.move", **names, **params)
        leave(spm, second)
        before = seen(spm, second)
    status = spm.ended(task_id)
    assert (status["taskResult"], status["code"]) == ("cleanSuccess", DomainNotInPool.code)
    assert seen(spm, second) == before
    assert spm.info(ours_image, ours)["status"] == "OK"
    spm.call("Task.clear", taskID=task_id)


def seen(spm: StorageRoom, sd_id: str) -> set[Path]:
    return set((spm.domain_of(sd_id) / "images").rglob("*"))


def test_a_domain_that_was_detached_by_force_is_none_of_the_pool_and_can_be_attached_again(spm: StorageRoom) -> None:
    """It was told as attached already, and could not be activated."""
    second = spm.add_domain()
    spm.call("StorageDomain.deactivate", **ids(spm, second))
    spm.call("StorageDomain.detach", **ids(spm, second), force=True)
    assert second not in spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)["dominfo"]
    assert code_of(spm.call, "StorageDomain.activate", **ids(spm, second)) == DomainNotInPool.code
    spm.call("StorageDomain.attach", storagedomainID=second, storagepoolID=spm.pool_id)
    spm.call("StorageDomain.activate", storagedomainID=second, storagepoolID=spm.pool_id)
    spm.create(storagedomainID=second)


def test_one_that_was_active_is_watched_no_more(spm: StorageRoom) -> None:
    second = spm.add_domain()
    eventually(lambda: second in spm.call("internal.domain_vitals"))
    spm.call("StorageDomain.detach", **ids(spm, second), force=True)
    assert second not in spm.call("internal.domain_vitals")
    assert not (spm.root / "data-center" / spm.pool_id / second).exists()


def test_the_master_of_a_living_pool_is_not_detached_by_force(spm: StorageRoom) -> None:
    """The pool had no master any more, under its SPM."""
    metadata = spm.domain / "dom_md/metadata"
    before = metadata.read_bytes()
    assert code_of(spm.call, "StorageDomain.detach", **ids(spm, spm.sd_id), force=True) == MasterCannotBeDetached.code
    assert metadata.read_bytes() == before


def test_of_a_pool_that_is_gone_any_domain_is_detached_by_force(spm: StorageRoom) -> None:
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    spm.call("StoragePool.disconnect", storagepoolID=spm.pool_id, hostID=1, scsiKey="")
    spm.call("StorageDomain.detach", **ids(spm, spm.sd_id), force=True)
    assert parse(spm.sd_id, (spm.domain / "dom_md/metadata").read_bytes())["POOL_UUID"] == ""
