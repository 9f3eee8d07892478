# SPDX-License-Identifier: Apache-2.0
"""What was so when something was asked for, and is no more when its turn has come."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.storage_room import MIB, RAW, StorageRoom, code_of, new_id
from tests.unit.storage.test_domain_left import ids, leave, no_turn_for_anybody
from tests.unit.storage.test_foreign_tasks import half_made
from tests.unit.storage.test_foreign_tasks import leave as leave_task
from vdsm_mp.api.errors_storage import DomainNotFound, DomainNotInPool, NotSpm, PoolError
from vdsm_mp.api.errors_task import TaskInProgress
from vdsm_mp.api.errors_volume import VolumeHasChildren
from vdsm_mp.api.ovf_store import TransferFailed
from vdsm_mp.common.errors import Error
from vdsm_mp.storage import volume_change
from vdsm_mp.storage.pool_members import Members
from vdsm_mp.storage.resources import Resources

pytestmark = [needs_program("qemu-img"), pytest.mark.timeout(60)]

_T = TypeVar("_T")
#: Verbs that write at once, without a task.
AT_ONCE = ("description", "legality", "delete", "reconcile")


@pytest.fixture
def spm(tmp_path: Path) -> Iterator[StorageRoom]:
    made = StorageRoom(tmp_path).make()
    yield made
    made.stop()


def part_of(room: StorageRoom, kind: type[_T]) -> _T:
    return next(thing for thing in room.room.room.state if isinstance(thing, kind))


@contextmanager
def beside() -> Iterator[Callable[..., "Future[Any]"]]:
    with ThreadPoolExecutor(4) as threads:
        yield threads.submit


def outcome(call: "Future[Any]") -> int:
    """0 or the code of its error."""
    found = call.exception(30)
    if found is None:
        return 0
    assert isinstance(found, Error), found
    return found.code


class Gate:
    """Whoever comes waits in it."""

    def __init__(self, behind: Callable[..., Any]) -> None:
        self._behind = behind
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, *args: Any, **params: Any) -> Any:
        self.reached.set()
        assert self.open.wait(20)
        return self._behind(*args, **params)


def waiting_for(room: StorageRoom, *name: str) -> int:
    queue = part_of(room, Resources)._queues.get(name)
    return 0 if queue is None else len(queue.waiting)


def write(spm: StorageRoom, what: str, image_id: str, volume_id: str, sd_id: str) -> Any:
    names = spm.names(image_id, volume_id, sd_id)
    if what == "description":
        return spm.call("Volume.setDescription", **names, description="another")
    if what == "legality":
        return spm.call("Volume.setLegality", **names, legality="ILLEGAL")
    image = {key: value for key, value in names.items() if key != "volumeID"}
    if what == "delete":
        return spm.call("Image.delete", **image, postZero=False, force=False)
    return spm.call("Image.reconcileVolumeChain", **image, leafVolID=volume_id)


def content(spm: StorageRoom, sd_id: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (spm.domain_of(sd_id) / "images").rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", AT_ONCE)
def test_who_waits_behind_a_detachment_writes_nothing(
    spm: StorageRoom, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The domain may be another pool's by then."""
    second = spm.add_domain()
    image_id, volume_id = spm.create(storagedomainID=second)
    before = content(spm, second)
    spm.call("StorageDomain.deactivate", **ids(spm, second))
    members = part_of(spm, Members)
    gate = Gate(members.detach)
    monkeypatch.setattr(members, "detach", gate)
    with beside() as begin:
        leaving = begin(spm.call, "StorageDomain.detach", **ids(spm, second))
        assert gate.reached.wait(20)
        writing = begin(write, spm, what, image_id, volume_id, second)
        eventually(lambda: waiting_for(spm, "domain", second) == 1)
        gate.open.set()
        assert (outcome(leaving), outcome(writing)) == (0, DomainNotInPool.code)
    assert content(spm, second) == before


@pytest.mark.parametrize("what", AT_ONCE)
def test_who_waits_while_the_role_goes_writes_nothing(spm: StorageRoom, what: str) -> None:
    image_id, volume_id = spm.create()
    before = content(spm, spm.sd_id)
    with beside() as begin:
        with part_of(spm, Resources).claim("test", exclusive=(("image", spm.sd_id, image_id),)):
            writing = begin(write, spm, what, image_id, volume_id, spm.sd_id)
            eventually(lambda: waiting_for(spm, "image", spm.sd_id, image_id) == 1)
            spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
        assert outcome(writing) == NotSpm.code
    assert content(spm, spm.sd_id) == before


def test_the_role_does_not_end_before_a_write_of_it(spm: StorageRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host would be SPM, and the write come after its own."""
    image_id, volume_id = spm.create()
    gate = Gate(volume_change.set_description)
    monkeypatch.setattr(volume_change, "set_description", gate)
    with beside() as begin:
        writing = begin(write, spm, "description", image_id, volume_id, spm.sd_id)
        assert gate.reached.wait(20)
        stopping = begin(spm.call, "StoragePool.spmStop", storagepoolID=spm.pool_id)
        with suppress(TimeoutError):
            stopping.exception(0.5)
        assert not stopping.done()
        gate.open.set()
        assert (outcome(writing), outcome(stopping)) == (0, 0)
    assert "DESCRIPTION=another\n" in (spm.image(image_id) / f"{volume_id}.meta").read_text()


def test_of_two_snapshots_of_one_leaf_one_is_made(spm: StorageRoom) -> None:
    """The image had two ends, and could not be used any more."""
    image_id, base = spm.create()
    parent = {"srcImgUUID": image_id, "srcVolUUID": base}
    first, second = new_id(), new_id()
    with no_turn_for_anybody(spm):
        tasks = [spm.start_create(image_id, one, **parent) for one in (first, second)]
    assert spm.ended(tasks[0])["taskResult"] == "success"
    status = spm.ended(tasks[1])
    assert (status["taskResult"], status["code"]) == ("cleanSuccess", VolumeHasChildren.code)
    assert spm.info(image_id, base)["voltype"] == "INTERNAL"
    assert len(spm.call("Image.prepare", **spm.names(image_id, first))["imgVolumesInfo"]) == 2
    assert not list(spm.image(image_id).glob(f"{second}*"))


def test_a_volume_on_an_inner_one_is_made_for_who_wants_to_look_at_a_snapshot(spm: StorageRoom) -> None:
    image_id, base = spm.create()
    parent = {"srcImgUUID": image_id, "srcVolUUID": base}
    _, leaf = spm.create(image_id, **parent)
    _, preview = spm.create(image_id, **parent)
    for one in (leaf, preview):
        assert len(spm.call("Image.prepare", **spm.names(image_id, one))["imgVolumesInfo"]) == 2


def test_a_snapshot_that_was_asked_for_before_a_move_goes_with_it(spm: StorageRoom) -> None:
    """What was moved was the image of before, and all of it was removed from where it came."""
    second = spm.add_domain()
    image_id, base = spm.create()
    leaf = new_id()
    with no_turn_for_anybody(spm):
        task_id = spm.start_create(image_id, leaf, srcImgUUID=image_id, srcVolUUID=base)
        params = {"dstSdUUID": second, "operation": 2, "postZero": False, "force": False}
        names = {"storagedomainID": spm.sd_id, "imageID": image_id, "storagepoolID": spm.pool_id}
        move = spm.call("Image.move", **names, **params)
    spm.finished(task_id)
    spm.finished(move)
    assert not spm.image(image_id).exists()
    assert len(spm.call("Image.prepare", **spm.names(image_id, leaf, second))["imgVolumesInfo"]) == 2


def test_a_template_stays_in_an_image_that_another_task_has_built_on_it(spm: StorageRoom) -> None:
    """Both tasks found it absent; the one that failed took it from below the other's volume."""
    template_image, template = spm.make_template(volFormat=RAW)
    image_id, volume_id = new_id(), new_id()
    parent = {"srcImgUUID": template_image, "srcVolUUID": template}
    with no_turn_for_anybody(spm):
        made = spm.start_create(image_id, volume_id, **parent)
        refused = spm.start_create(image_id, new_id(), **parent, size=str(MIB))
    spm.finished(made)
    assert spm.ended(refused)["taskResult"] == "cleanSuccess"
    assert len(spm.call("Image.prepare", **spm.names(image_id, volume_id))["imgVolumesInfo"]) == 2


def test_a_task_whose_domain_was_formatted_meanwhile_has_nothing_to_undo(spm: StorageRoom) -> None:
    """It was told as not cleaned up."""
    second = spm.add_domain()
    with no_turn_for_anybody(spm):
        task_id = spm.start_create(new_id(), new_id(), storagedomainID=second)
        leave(spm, second)
        spm.call("StorageDomain.format", storagedomainID=second, autoDetach=False)
    status = spm.ended(task_id)
    assert (status["taskResult"], status["code"]) == ("cleanSuccess", DomainNotInPool.code)


def test_a_domain_with_something_to_undo_is_not_detached(spm: StorageRoom) -> None:
    """Nobody would undo it any more: it is another pool's then, maybe."""
    sd_id = new_id()
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    where = f"/rhev/data-center/mnt/other/{sd_id}/images/{new_id()}/{new_id()}"
    task_id = leave_task(spm, "running", half_made(sd_id, new_id(), where))
    spm.take_role(attached=(sd_id,))  # it is away: undoing it is tried three times
    assert code_of(spm.call, "StorageDomain.detach", **ids(spm, sd_id)) == TaskInProgress.code
    assert code_of(spm.call, "StoragePool.destroy", storagepoolID=spm.pool_id, hostID=1, scsiKey="") == 406
    assert spm.ended(task_id)["taskResult"] == "cleanFailure"
    assert code_of(spm.call, "StorageDomain.detach", **ids(spm, sd_id)) == DomainNotFound.code


def test_a_master_that_has_moved_before_is_not_moved_once_more(spm: StorageRoom) -> None:
    """Nobody had claimed the domain that was master by then."""
    second, third = spm.add_domain(), spm.add_domain()
    with no_turn_for_anybody(spm):
        tasks = [spm.start_switch(one) for one in (second, third)]
    assert spm.ended(tasks[0])["taskResult"] == "success"
    assert spm.ended(tasks[1])["code"] == PoolError.code
    assert spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)["info"]["master_uuid"] == second


def test_an_ovf_store_that_gets_a_snapshot_first_is_not_written(spm: StorageRoom) -> None:
    image_id, volume_id = spm.create(volFormat=RAW)
    params = {"direction": "to_volume", "pool_id": spm.pool_id, "sd_id": spm.sd_id, "length_bytes": 4096}
    with beside() as begin:
        with no_turn_for_anybody(spm):
            leaf = new_id()
            task_id = spm.start_create(image_id, leaf, srcImgUUID=image_id, srcVolUUID=volume_id)
            opening = begin(spm.call, "internal.open_transfer", **params, image_id=image_id, volume_id=volume_id)
            eventually(lambda: len(spm.call("Host.getAllTasksInfo")) == 2)
        spm.finished(task_id)
        found = opening.exception(30)
    assert isinstance(found, TransferFailed)
    assert leaf in str(found)
