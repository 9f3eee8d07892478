# SPDX-License-Identifier: Apache-2.0
"""Transfers of OVF stores between the door and a raw volume, each with its task."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.storage_room import MIB, RAW, StorageRoom, new_id
from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_storage import NotSpm
from vdsm_mp.api.errors_volume import (
    IncorrectFormat,
    InternalVolumeNotWritable,
    InvalidVolumeParameter,
    SharedVolumeNotWritable,
    VolumeDoesNotExist,
)
from vdsm_mp.api.ovf_store import MAX_PIECE, Direction, OpenTransfer, TransferFailed
from vdsm_mp.storage import ovf_store
from vdsm_mp.storage.ovf_store import Transfers
from vdsm_mp.storage.volume_access import Volumes

pytestmark = needs_program("qemu-img")


@pytest.fixture
def store(house: StorageRoom) -> tuple[str, str]:
    return house.create(volFormat=RAW, preallocate=1, diskType="OVFS", size=str(4 * MIB))


def open_(house: StorageRoom, store: tuple[str, str], direction: str, length: int, **changes: Any) -> str:
    params = {
        "direction": direction,
        "pool_id": house.pool_id,
        "sd_id": house.sd_id,
        "image_id": store[0],
        "volume_id": store[1],
        "length_bytes": length,
        **changes,
    }
    task_id: str = house.call("internal.open_transfer", **params)
    return task_id


def test_what_is_put_is_got_back_and_both_are_tasks(house: StorageRoom, store: tuple[str, str]) -> None:
    data = os.urandom(MAX_PIECE + 1000)
    task_id = open_(house, store, "to_volume", len(data))
    assert house.call("Host.getAllTasksInfo")[task_id]["verb"] == "downloadImageFromStream"
    for start in range(0, len(data), MAX_PIECE):
        house.dispatch_write(task_id, start, data[start : start + MAX_PIECE])
    house.call("internal.close_transfer", task_id=task_id)
    house.finished(task_id)
    path = house.image(store[0]) / store[1]
    assert path.read_bytes()[: len(data) + 1] == data + b"\0"

    task_id = open_(house, store, "from_volume", len(data), volume_id=None)
    assert house.call("Host.getAllTasksInfo")[task_id]["verb"] == "uploadImageToStream"
    got = b"".join(
        house.dispatch_read(task_id, start, min(MAX_PIECE, len(data) - start))
        for start in range(0, len(data), MAX_PIECE)
    )
    house.call("internal.close_transfer", task_id=task_id)
    house.finished(task_id)
    assert got == data


def failed(house: StorageRoom, task_id: str) -> str:
    status = house.ended(task_id)
    house.call("Task.clear", taskID=task_id)
    assert status["taskResult"] == "cleanSuccess"
    return str(status["message"])


def test_a_transfer_that_breaks_off_is_a_failed_task(house: StorageRoom, store: tuple[str, str]) -> None:
    task_id = open_(house, store, "to_volume", 1000)
    house.dispatch_write(task_id, 0, b"x" * 500)
    house.call("internal.close_transfer", task_id=task_id, problem="the client left")
    assert "the client left" in failed(house, task_id)
    task_id = open_(house, store, "to_volume", 1000)
    house.call("internal.close_transfer", task_id=task_id)
    assert "0 of 1000" in failed(house, task_id)
    with pytest.raises(TransferFailed):
        house.dispatch_write(task_id, 0, b"x")


def test_pieces_come_in_order_and_no_more_than_was_said(house: StorageRoom, store: tuple[str, str]) -> None:
    task_id = open_(house, store, "to_volume", 1000)
    for offset, data in ((500, b"x"), (0, b"x" * 1001)):
        with pytest.raises(TransferFailed):
            house.dispatch_write(task_id, offset, data)
    with pytest.raises(TransferFailed):
        house.dispatch_read(task_id, 0, 10)
    house.call("internal.close_transfer", task_id=task_id, problem="enough")
    failed(house, task_id)


def test_what_cannot_be_transferred_is_refused_at_once(house: StorageRoom, store: tuple[str, str]) -> None:
    with pytest.raises(InvalidVolumeParameter):
        open_(house, store, "to_volume", 4 * MIB + 1)
    with pytest.raises(VolumeDoesNotExist):
        open_(house, store, "to_volume", 1, volume_id=new_id())
    image_id, leaf = house.create()
    with pytest.raises(IncorrectFormat):
        open_(house, (image_id, leaf), "from_volume", 1)
    assert house.call("Host.getAllTasksStatuses") == {}


def test_what_others_are_built_on_is_read_but_never_written(house: StorageRoom) -> None:
    template = house.make_template(volFormat=RAW)
    base = house.create(volFormat=RAW)
    image_id, base_id = base
    _, leaf_id = house.create(image_id, srcImgUUID=image_id, srcVolUUID=base_id)
    before = (house.image(image_id) / base_id).read_bytes()
    with pytest.raises(SharedVolumeNotWritable) as shared:
        open_(house, template, "to_volume", 1)
    with pytest.raises(InternalVolumeNotWritable, match=leaf_id) as internal:
        open_(house, base, "to_volume", 1)
    assert (shared.value.code, internal.value.code) == (219, 220)
    assert house.call("Host.getAllTasksStatuses") == {}
    for store in (template, base):
        task_id = open_(house, store, "from_volume", 10)
        assert house.dispatch_read(task_id, 0, 10) == bytes(10)
        house.call("internal.close_transfer", task_id=task_id)
        house.finished(task_id)
    # A link that metadata do not admit to (cut short between two writes) counts as well.
    meta = house.image(image_id) / f"{base_id}.meta"
    meta.write_text(meta.read_text().replace("VOLTYPE=INTERNAL", "VOLTYPE=LEAF"))
    with pytest.raises(InternalVolumeNotWritable):
        open_(house, base, "to_volume", 1)
    assert (house.image(image_id) / base_id).read_bytes() == before


def test_transfers_are_few_and_end_by_themselves(house: StorageRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    volumes = next(thing for thing in house.room.room.state if isinstance(thing, Volumes))
    transfers = Transfers()
    stores = [house.create(volFormat=RAW) for _ in range(4)]

    def ask(store: tuple[str, str]) -> OpenTransfer:
        return OpenTransfer(
            direction=Direction.TO_VOLUME,
            pool_id=house.pool_id,
            sd_id=house.sd_id,
            image_id=store[0],
            volume_id=store[1],
            length_bytes=10,
        )

    begun = [transfers.open(volumes, ask(store)) for store in stores[:3]]
    with pytest.raises(Busy):
        transfers.open(volumes, ask(stores[3]))
    # Only now may they grow old: all three had to be there at once.
    monkeypatch.setattr(ovf_store, "IDLE_WITHOUT_DOOR_S", 0.3)
    transfers.worker_changed("clientif", up=False)
    for task_id in begun:
        assert "nothing happened" in failed(house, task_id)
    task_id = eventually(lambda: transfers.open(volumes, ask(stores[3])))
    transfers.worker_changed("clientif", up=False)
    failed(house, task_id)


def test_a_transfer_that_was_stopped_before_its_turn_takes_no_place(
    house: StorageRoom, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ovf_store, "_OPEN_S", 0.5)
    with ThreadPoolExecutor(1) as pool:
        first = open_(house, store, "from_volume", MIB)
        before = set(house.call("Host.getAllTasksInfo"))
        for _ in range(ovf_store.MAX_TRANSFERS):
            waiting = pool.submit(open_, house, store, "from_volume", MIB)
            (second,) = eventually(lambda: set(house.call("Host.getAllTasksInfo")) - before)
            house.call("Task.stop", taskID=second)
            assert house.ended(second)["code"] == 411
            with pytest.raises(TransferFailed):
                waiting.result(10)
            house.call("Task.clear", taskID=second)
        house.call("internal.close_transfer", task_id=first, problem="enough")
        failed(house, first)
    another = open_(house, store, "from_volume", MIB)
    house.call("internal.close_transfer", task_id=another, problem="enough")
    failed(house, another)


def test_only_the_spm_transfers(tmp_path: Path) -> None:
    house = StorageRoom(tmp_path).make()
    try:
        store = house.create(volFormat=RAW)
        house.call("StoragePool.spmStop", storagepoolID=house.pool_id)
        with pytest.raises(NotSpm):
            open_(house, store, "to_volume", 1)
    finally:
        house.stop()
