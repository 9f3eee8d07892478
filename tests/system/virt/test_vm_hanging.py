# SPDX-License-Identifier: Apache-2.0
"""What a dead worker left in VMs whose QEMU hangs is looked at when QEMU answers; until then no thread waits for it."""

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.support.eventually import eventually
from tests.support.libvirt_refusal import refusal
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom
from tests.system.virt.conftest import Guest, NewGuest, image, overlay
from vdsm_mp.api.errors import StillStarting
from vdsm_mp.api.errors_virt import LibvirtUnavailable, VmNotResponding
from vdsm_mp.tasks.jobs import Jobs
from vdsm_mp.virt import leftovers, patience
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.registry import Vms

pytestmark = [
    pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "qemu-img", "unshare", "nsenter"),
]  # fmt: skip


@contextmanager
def hanging(libvirtd: PrivateLibvirtd, guest: Guest) -> Iterator[None]:
    """Its QEMU stands still, and libvirt waits for an answer to somebody's command."""
    pid = libvirtd.qemu_pid(guest.name)
    os.kill(pid, signal.SIGSTOP)
    words = ["virsh", "-q", "-c", libvirtd.uri, "qemu-monitor-command", guest.name, '{"execute": "query-status"}']
    asking = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: "occupied" in libvirtd.virsh("domcontrol", guest.name), within_s=10)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        asking.wait(30)


def test_what_was_left_is_looked_at_when_qemu_answers_again(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest(room)
    room.close()
    monkeypatch.setattr(leftovers, "_SETTLED_S", 0.0)
    lost = {key: str(uuid.uuid4()) for key in ("poolID", "domainID", "imageID", "volumeID")}
    replica = overlay(room, folder, guest.disk)
    hda = {"devtype": "disk", "name": "hda"}
    notes: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({"devtype": "disk", "name": "sdx"}, lost), (hda, guest.disk | {"diskReplicate": replica}),
    ]  # fmt: skip
    room = VirtRoom(libvirtd.uri, folder)
    for identity, data in notes:
        room.state(Keeper).remember_device(guest.vm_id, identity, data)
    room.state(Keeper).remember(guest.vm_id, backup_freeze=True)
    room.close()

    tries: list[str] = []
    take_turn = Keeper.take_turn

    def counted(self: Keeper, vm_id: str) -> None:
        try:
            take_turn(self, vm_id)
        except VmNotResponding:
            tries.append(vm_id)
            raise

    monkeypatch.setattr(Keeper, "take_turn", counted)
    with VirtRoom(libvirtd.uri, folder) as next_life:
        next_life.storage.images, next_life.storage.volumes = room.storage.images, room.storage.volumes

        def notes_left() -> list[str]:
            metadata = libvirtd.virsh("dumpxml", guest.name)
            return [note for note in ("sdx", "diskReplicate", "backup_freeze") if note in metadata]

        eventually(lambda: not notes_left(), within_s=15)
        assert set(next_life.storage.released) == {lost["imageID"], replica["imageID"]}
        # Once more, beside a QEMU that hangs: who waited for libvirt would try once in half a minute.
        for identity, data in notes:
            next_life.state(Keeper).remember_device(guest.vm_id, identity, data)
        next_life.state(Keeper).remember(guest.vm_id, backup_freeze=True)
        next_life.close()
        with hanging(libvirtd, guest), VirtRoom(libvirtd.uri, folder) as third_life:
            eventually(lambda: len(tries) >= 9, within_s=25)
            assert notes_left() == ["sdx", "diskReplicate", "backup_freeze"]
            assert third_life.background.failures == []
    with VirtRoom(libvirtd.uri, folder) as last_life:
        last_life.storage.volumes = room.storage.volumes
        eventually(lambda: not notes_left(), within_s=15)
        last_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)


@pytest.mark.parametrize(
    ("name", "text"),
    [("shutdown", '{"delay":0,"wait":1,"force":false,"end":1.0}'), ("snapshot_job", "what nobody can read")],
)
def test_a_stale_note_in_a_vm_that_hangs_does_not_keep_all_vms_from_being_known(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, name: str, text: str
) -> None:
    guest = new_guest(room)
    room.state(Keeper).remember(guest.vm_id, **{name: text})
    room.close()
    with ExitStack() as hangs:
        hangs.enter_context(hanging(libvirtd, guest))
        began = time.monotonic()
        with VirtRoom(libvirtd.uri, folder) as next_life:
            next_life.storage.images = room.storage.images
            eventually(lambda: known(next_life), within_s=60)
            assert time.monotonic() - began < 15  # libvirt lets who writes into it wait for half a minute
            hangs.close()
            eventually(lambda: f"<ovirt-vm:{name}" not in libvirtd.virsh("dumpxml", guest.name), within_s=15)
            next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)


THREADS = 3


def test_more_vms_that_hang_than_threads_wait_for_what_dead_workers_left_without_holding_up_others(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd
) -> None:
    """Each has a snapshot job of which nobody knows whether it was made."""
    stuck, other = [new_guest(room) for _ in range(THREADS + 2)], new_guest(room)
    jobs = {guest.vm_id: str(uuid.uuid4()) for guest in stuck}
    for guest in stuck:
        leaf = {"hda": {**guest.disk, "volumeID": str(uuid.uuid4())}}
        note = {"jobUUID": jobs[guest.vm_id], "memoryParams": {}, "frozen": True, "newDrives": leaf}
        room.state(Keeper).remember(guest.vm_id, snapshot_job=json.dumps(note))
    room.close()
    with ExitStack() as hangs:
        for guest in stuck:
            hangs.enter_context(hanging(libvirtd, guest))
        with VirtRoom(libvirtd.uri, folder, threads=THREADS) as next_life:
            next_life.storage.images = room.storage.images
            eventually(lambda: known(next_life), within_s=30)
            eventually(lambda: statuses(next_life, jobs) == {"running"}, within_s=10)
            began, job_id = time.monotonic(), str(uuid.uuid4())
            leaf = overlay(next_life, folder, other.disk)
            drive = {"imageID": other.disk["imageID"], "baseVolumeID": other.disk["volumeID"], **volume(leaf)}
            next_life.call("VM.snapshot", vmID=other.vm_id, snapDrives=[drive], jobUUID=job_id)
            eventually(lambda: statuses(next_life, {"": job_id}) == {"done"}, within_s=15)
            assert time.monotonic() - began < 15
            assert statuses(next_life, jobs) == {"running"}
            hangs.close()
            eventually(lambda: statuses(next_life, jobs) == {"failed"}, within_s=20)
            for guest in stuck:
                assert "snapshot_job" not in libvirtd.virsh("dumpxml", guest.name)
            for guest in (*stuck, other):
                next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)


def volume(disk: dict[str, str]) -> dict[str, str]:
    return {"domainID": disk["domainID"], "volumeID": disk["volumeID"]}


def statuses(room: VirtRoom, jobs: dict[str, str]) -> set[str]:
    found = room.state(Jobs).infos(jobs.values())
    return {str(found[job_id]["status"]) for job_id in jobs.values()} if len(found) == len(jobs) else set()


Verb = Callable[[VirtRoom, Guest, dict[str, str]], None]


def plug_disk(room: VirtRoom, guest: Guest, ids: dict[str, str]) -> None:
    data = "".join(f"<ovirt-vm:{key}>{value}</ovirt-vm:{key}>" for key, value in ids.items())
    text = (
        '<domain xmlns:ovirt-vm="http://ovirt.org/vm/1.0"><devices><disk type="file" device="disk" snapshot="no">'
        '<target dev="sdb" bus="scsi"/><source file=""/><driver name="qemu" type="raw"/></disk></devices><metadata>'
        f'<ovirt-vm:vm><ovirt-vm:device devtype="disk" name="sdb">{data}</ovirt-vm:device></ovirt-vm:vm></metadata>'
        "</domain>"
    )
    room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": text})


def change_cd(room: VirtRoom, guest: Guest, ids: dict[str, str]) -> None:
    room.call("VM.changeCD", vmID=guest.vm_id, driveSpec={**ids, "device": "cdrom"})


def begin_backup(room: VirtRoom, guest: Guest, ids: dict[str, str]) -> None:
    config = {"backup_id": ids["imageID"], "disks": [{**guest.disk, "checkpoint": False}]}
    room.call("VM.start_backup", vmID=guest.vm_id, config=config)


LOST: list[tuple[Verb, str]] = [
    (plug_disk, "attachDeviceFlags"), (change_cd, "updateDeviceFlags"), (begin_backup, "backupBegin"),
]  # fmt: skip


def test_an_answer_that_was_lost_while_qemu_hangs_costs_its_caller_seconds_and_what_it_left_is_settled(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "DECIDES_S", 1.0)
    cd = '<disk type="file" device="cdrom"><target dev="hdc" bus="ide"/><readonly/></disk>'
    guests = [new_guest(room, devices=f'<controller type="scsi" model="virtio-scsi" index="0"/>{cd}') for _ in LOST]
    fresh = [image(room, folder) for _ in LOST]
    with ExitStack() as hangs:
        for guest, ids, (verb, decisive) in zip(guests, fresh, LOST, strict=True):
            real = getattr(libvirt.virDomain, decisive)

            def lost(*args: Any, **more: Any) -> None:
                monkeypatch.setattr(libvirt.virDomain, decisive, real)  # noqa: B023 -- it is called in this turn
                hangs.enter_context(hanging(libvirtd, guest))  # noqa: B023
                raise refusal(libvirt.VIR_ERR_INTERNAL_ERROR, "end of file", domain=libvirt.VIR_FROM_RPC)

            monkeypatch.setattr(libvirt.virDomain, decisive, lost)
            began = time.monotonic()
            with pytest.raises((VmNotResponding, LibvirtUnavailable)):
                verb(room, guest, ids)
            assert time.monotonic() - began < 20  # it was half an hour
        assert room.storage.released == []  # QEMU may use it yet
    unused = {ids["imageID"] for ids in fresh[:2]}
    eventually(lambda: unused <= set(room.storage.released), within_s=20)
    for guest in guests:
        text = libvirtd.virsh("dumpxml", guest.name)
        assert not any(f"<ovirt-vm:{note}" in text for note in ("change", "backup_freeze")) and "sdb" not in text
    assert not any((folder / "backup").iterdir())
    for guest, ids, (verb, _) in list(zip(guests, fresh, LOST, strict=True))[:2]:
        verb(room, guest, ids)
        assert [one for one in room.state(Vms).find(guest.vm_id).devices.drives if one.path.endswith(ids["volumeID"])]


def known(room: VirtRoom) -> bool:
    try:
        return bool(room.call("Host.getVMList"))
    except StillStarting:
        return False
