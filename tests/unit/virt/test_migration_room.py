# SPDX-License-Identifier: Apache-2.0
"""Both ends of a migration without the other one: what is refused, what is left behind. On libvirt's test driver."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.virt_room import DISK_IDS, VirtRoom, vm_xml
from vdsm_mp.api.errors_virt import (
    CannotCreateVm,
    DiskNotFound,
    MigrationFailed,
    MigrationLimitExceeded,
    MigrationNotInProgress,
    MissingVmParameter,
    NoSuchVm,
    VmExists,
)
from vdsm_mp.virt import migration_target
from vdsm_mp.virt.migration_target import Arrivals


@pytest.fixture
def room(tmp_path: Path) -> Iterator[VirtRoom]:
    with VirtRoom("test:///default", tmp_path) as room:
        disk = tmp_path / "disk"
        disk.write_bytes(b"x" * 4096)
        room.storage.images[DISK_IDS["imageID"]] = disk
        yield room
    assert room.background.failures == []


def expect(room: VirtRoom, vm_id: str, limit: int | None = None) -> None:
    xml = vm_xml(vm_id, disk=DISK_IDS)
    answer = room.call("VM.migrationCreate", vmID=vm_id, params={"_srcDomXML": xml}, incomingLimit=limit)
    assert answer["migrationPort"] == 0


def test_a_vm_that_is_expected_has_its_disks_and_takes_a_place(room: VirtRoom) -> None:
    first, second, third = (str(uuid.uuid4()) for _ in range(3))
    expect(room, first)
    assert room.status(first) == "Migration Destination"
    assert [ask.image_id for ask in room.storage.prepared] == [DISK_IDS["imageID"]]
    with pytest.raises(MigrationLimitExceeded):
        expect(room, second, limit=1)
    expect(room, second)
    with pytest.raises(MigrationLimitExceeded):
        expect(room, third)
    with pytest.raises(VmExists):
        expect(room, first, limit=3)


def test_a_vm_that_stays_away_gives_back_its_place_and_disks(room: VirtRoom) -> None:
    vm_id = str(uuid.uuid4())
    expect(room, vm_id)
    assert room.call("VM.destroy", vmID=vm_id) is True
    eventually(lambda: room.storage.released == [DISK_IDS["imageID"]])
    with pytest.raises(NoSuchVm):
        room.call("VM.getStats", vmID=vm_id)
    expect(room, vm_id, limit=1)


def test_a_vm_that_never_comes_is_forgotten(room: VirtRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration_target, "_WATCH_S", 0.05)
    vm_id = str(uuid.uuid4())
    monkeypatch.setattr(room.state(Arrivals), "_silence_s", 0)
    expect(room, vm_id)
    eventually(lambda: room.storage.released == [DISK_IDS["imageID"]], within_s=15)
    with pytest.raises(NoSuchVm):
        room.call("VM.getStats", vmID=vm_id)


def test_a_place_that_cannot_be_prepared_is_refused_and_leaves_nothing(room: VirtRoom) -> None:
    vm_id = str(uuid.uuid4())
    room.storage.fails = DiskNotFound("x")
    with pytest.raises(CannotCreateVm):
        expect(room, vm_id)
    assert room.storage.released == [DISK_IDS["imageID"]]
    with pytest.raises(NoSuchVm):
        room.call("VM.getStats", vmID=vm_id)
    with pytest.raises(CannotCreateVm):
        room.call("VM.migrationCreate", vmID=vm_id, params={"xml": vm_xml(str(uuid.uuid4()))})
    with pytest.raises(MissingVmParameter):
        room.call("VM.migrationCreate", vmID=vm_id, params={})


def test_a_host_device_that_is_not_here_keeps_a_vm_from_coming(room: VirtRoom, tmp_path: Path) -> None:
    vm_id = str(uuid.uuid4())
    card = (
        '<interface type="hostdev" managed="no"><mac address="56:6f:00:00:00:09"/><source>'
        '<address type="pci" domain="0" bus="0x7f" slot="0x1f" function="7"/></source></interface>'
    )
    with pytest.raises(CannotCreateVm, match="pci_0000_7f_1f_7"):
        params = {"_srcDomXML": vm_xml(vm_id, disk=DISK_IDS, devices=card)}
        room.call("VM.migrationCreate", vmID=vm_id, params=params)
    assert room.storage.released == [DISK_IDS["imageID"]]
    assert list((tmp_path / "hostdev").iterdir()) == []
    with pytest.raises(NoSuchVm):
        room.call("VM.getStats", vmID=vm_id)


def test_a_disk_that_grew_under_the_other_host_is_read_anew(room: VirtRoom) -> None:
    vm_id = str(uuid.uuid4())
    expect(room, vm_id)
    room.storage.images[DISK_IDS["imageID"]].write_bytes(b"x" * 8192)
    sizes = room.call("VM.refresh_disk", vmID=vm_id, drive={**DISK_IDS, "device": "disk"})
    assert sizes == {"apparentsize": 8192, "truesize": 8192}
    with pytest.raises(DiskNotFound):
        room.call("VM.refresh_disk", vmID=vm_id, drive={"imageID": str(uuid.uuid4())})


def test_what_does_not_migrate_cannot_be_cancelled_or_changed(room: VirtRoom) -> None:
    (vm,) = room.call("Host.getVMList")
    for verb, more in (
        ("VM.migrateCancel", {}),
        ("VM.migrateChangeParams", {"params": {"maxBandwidth": 5}}),
        ("VM.getMigrationStatus", {}),
    ):
        with pytest.raises(MigrationNotInProgress):
            room.call(verb, vmID=vm["vmId"], **more)
        with pytest.raises(NoSuchVm):
            room.call(verb, vmID=str(uuid.uuid4()), **more)


def test_a_foreign_vm_and_a_vm_without_a_destination_stay(room: VirtRoom) -> None:
    (vm,) = room.call("Host.getVMList")
    with pytest.raises(MissingVmParameter):
        room.call("VM.migrate", vmID=vm["vmId"], params={})
    with pytest.raises(MigrationFailed):
        room.call("VM.migrate", vmID=vm["vmId"], params={"dst": "127.0.0.1:1"})
    assert room.status(vm["vmId"]) == "Up"
