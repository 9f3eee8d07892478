# SPDX-License-Identifier: Apache-2.0
"""VMs whose libvirtd came back without what it had in /run/libvirt: their QEMUs run, so none is told as Down."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import decode
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom, vm_xml
from tests.system.virt.conftest import Guest, NewGuest
from vdsm_mp.api.errors_virt import VmExists, VmNotResponding
from vdsm_mp.priv import install, qemu
from vdsm_mp.priv.call import SudoRoot
from vdsm_mp.virt.connection import Connection
from vdsm_mp.virt.machine import ExitReason

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]


@pytest.fixture
def root(folder: Path) -> Iterator[SudoRoot]:
    """The helper as it is installed, started by root itself."""
    install.install(folder / "libexec")
    port = SudoRoot("virt", str(folder / "libexec"), sudo=())
    yield port
    port.close()


@pytest.fixture
def room(libvirtd: PrivateLibvirtd, folder: Path, root: SudoRoot) -> Iterator[VirtRoom]:
    with VirtRoom(libvirtd.uri, folder, root=root) as room:
        yield room
        for entry in [] if room.closed else room.call("Host.getVMList"):
            room.call("VM.destroy", vmID=entry["vmId"], gracefulAttempts=0)
    assert room.background.failures == []


def lose_state(libvirtd: PrivateLibvirtd) -> None:
    libvirtd.kill()
    for file in (libvirtd.root / "run" / "qemu").iterdir():
        if file.is_file():
            file.unlink()
    libvirtd.launch()


def in_stock(room: VirtRoom) -> dict[str, dict[str, Any]]:
    """{VM: its statistics} once stock was taken."""
    eventually(lambda: room.state(Connection).alive, within_s=20)
    return {entry["vmId"]: entry for entry in room.call("Host.getAllVmStats")}


def is_orphan(room: VirtRoom, guest: Guest) -> bool:
    eventually(lambda: room.state(Connection).alive, within_s=20)
    entry = room.stats(guest.vm_id)
    return (entry["status"], entry.get("monitorResponse")) in (("Up", "-1"), ("Powering up", "-1"))


def test_it_is_told_as_not_responding_until_it_ends(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    guest, ended = new_guest(room), new_guest(room)
    os.kill(libvirtd.qemu_pid(ended.name), signal.SIGKILL)
    eventually(lambda: room.status(ended.vm_id) == "Down", within_s=10)
    lose_state(libvirtd)
    eventually(lambda: is_orphan(room, guest), within_s=20)
    guest.keeps_ticking()
    assert room.events.of(guest.vm_id)[-1]["monitorResponse"] == "-1"
    assert "Down" not in room.events.statuses(guest.vm_id)
    assert room.status(ended.vm_id) == "Down"
    assert guest.disk["imageID"] not in room.storage.released
    with pytest.raises(VmNotResponding):
        room.call("VM.pause", vmID=guest.vm_id)
    with pytest.raises(VmNotResponding):
        room.call("VM.shutdown", vmID=guest.vm_id, force=True)
    assert room.room.vitals()["problems"] == [f"VM {guest.name} runs, and libvirt doesn't know it any more: destroy it"]
    os.kill(libvirtd.qemu_pid(guest.name), signal.SIGKILL)
    eventually(lambda: room.status(guest.vm_id) == "Down", within_s=10)
    assert room.stats(guest.vm_id)["exitReason"] == ExitReason.LOST_QEMU
    eventually(lambda: guest.disk["imageID"] in room.storage.released, within_s=10)


def test_its_end_is_the_one_thing_that_can_be_had_and_then_it_may_start_again(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    guest, other, stuck = new_guest(room), new_guest(room), new_guest(room)
    os.kill(libvirtd.qemu_pid(stuck.name), signal.SIGSTOP)
    lose_state(libvirtd)
    eventually(lambda: all(is_orphan(room, one) for one in (guest, other, stuck)), within_s=20)
    text = vm_xml(guest.vm_id, serial=guest.serial, disk=guest.disk)
    with pytest.raises(VmExists):
        room.create(text, guest.vm_id)
    room.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=1)
    room.call("VM.destroy", vmID=stuck.vm_id, gracefulAttempts=0)
    assert qemu.running(guest.vm_id) == qemu.running(stuck.vm_id) == []
    other.keeps_ticking()
    guest.serial.unlink()
    room.create(text, guest.vm_id)
    eventually(lambda: room.status(guest.vm_id) == "Powering up", within_s=30)
    eventually(lambda: guest.ticks > 0, within_s=30)


def test_a_worker_that_begins_after_the_loss_finds_it_too(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, folder: Path, root: SudoRoot
) -> None:
    guest = new_guest(room)
    room.close()
    lose_state(libvirtd)
    with VirtRoom(libvirtd.uri, folder, root=root) as next_life:
        next_life.storage.images = room.storage.images
        entry = in_stock(next_life)[guest.vm_id]
        assert (entry["status"], entry["monitorResponse"]) == ("Up", "-1")
        next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
        assert qemu.running(guest.vm_id) == []


def test_one_that_is_not_even_defined_any_more_is_listed_and_never_started_twice(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, folder: Path, root: SudoRoot
) -> None:
    guest, other = new_guest(room), new_guest(room)
    definitions = {one.name: libvirtd.root / "etc" / "qemu" / f"{one.name}.xml" for one in (guest, other)}
    known = {one.name: file.read_bytes() for one, file in zip((guest, other), definitions.values(), strict=True)}
    states = {file: file.read_bytes() for file in (libvirtd.root / "run" / "qemu").glob(f"{other.name}.*")}
    for file in definitions.values():
        file.unlink()
    lose_state(libvirtd)
    eventually(lambda: is_orphan(room, guest), within_s=20)
    room.close()
    with VirtRoom(libvirtd.uri, folder, root=root) as next_life:
        next_life.storage.images = room.storage.images
        found = in_stock(next_life)
        assert set(found) == {guest.vm_id, other.vm_id}
        decode.check_all_vm_stats(list(found.values()))
        entry = found[guest.vm_id]
        assert (entry["vmName"], entry["status"], entry["monitorResponse"]) == (guest.name, "Up", "-1")
        assert 0 <= int(entry["elapsedTime"]) < 600
        assert len(next_life.room.vitals()["problems"]) == 2
        with pytest.raises(VmExists):
            next_life.create(vm_xml(guest.vm_id, disk=guest.disk), guest.vm_id)
        with pytest.raises(VmNotResponding):
            next_life.call("VM.pause", vmID=guest.vm_id)
        next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
        assert qemu.running(guest.vm_id) == []
        # libvirt finds the other one again: then all of it is known, at no time nothing.
        libvirtd.kill()
        definitions[other.name].write_bytes(known[other.name])
        for file, content in states.items():
            file.write_bytes(content)
        libvirtd.launch()
        eventually(lambda: next_life.stats(other.vm_id)["monitorResponse"] == "0", within_s=20)
        assert next_life.stats(other.vm_id)["hash"]
        next_life.call("VM.pause", vmID=other.vm_id)
        next_life.call("VM.destroy", vmID=other.vm_id, gracefulAttempts=0)


def test_of_one_that_nobody_knows_the_end_is_told(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, folder: Path, root: SudoRoot
) -> None:
    guest = new_guest(room)
    room.close()
    (libvirtd.root / "etc" / "qemu" / f"{guest.name}.xml").unlink()
    lose_state(libvirtd)
    with VirtRoom(libvirtd.uri, folder, root=root) as next_life:
        assert set(in_stock(next_life)) == {guest.vm_id}
        os.kill(libvirtd.qemu_pid(guest.name), signal.SIGKILL)
        eventually(lambda: next_life.status(guest.vm_id) == "Down", within_s=10)
        assert next_life.stats(guest.vm_id)["exitReason"] == ExitReason.LOST_QEMU
        next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
        assert next_life.call("Host.getVMList") == []


def test_what_libvirt_finds_again_is_as_it_was(room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd) -> None:
    guest = new_guest(room)
    kept = {file: file.read_bytes() for file in (libvirtd.root / "run" / "qemu").glob(f"{guest.name}.*")}
    lose_state(libvirtd)
    eventually(lambda: is_orphan(room, guest), within_s=20)
    libvirtd.kill()
    for file, content in kept.items():
        file.write_bytes(content)
    libvirtd.launch()
    eventually(lambda: room.stats(guest.vm_id)["monitorResponse"] == "0", within_s=20)
    room.call("VM.pause", vmID=guest.vm_id)
    assert room.status(guest.vm_id) == "Paused"


@pytest.fixture
def other_libvirtd() -> Iterator[PrivateLibvirtd]:
    with PrivateLibvirtd.start() as other:
        yield other


def test_one_that_runs_under_another_hosts_libvirtd_is_not_ours(
    room: VirtRoom,
    new_guest: NewGuest,
    libvirtd: PrivateLibvirtd,
    other_libvirtd: PrivateLibvirtd,
    folder: Path,
    root: SudoRoot,
) -> None:
    # Both number their VMs from 1 then, and the sockets of the monitors have the same name.
    libvirtd.kill()
    libvirtd.launch()
    eventually(lambda: room.state(Connection).alive, within_s=20)
    guest = new_guest(room)
    (folder / "other").mkdir()
    with VirtRoom(other_libvirtd.uri, folder / "other", root=root) as elsewhere:
        elsewhere.create(vm_xml(guest.vm_id), guest.vm_id)
        eventually(lambda: elsewhere.status(guest.vm_id) == "Powering up", within_s=30)
        both = qemu.running(guest.vm_id)
        assert (len(both), len({qemu.folder(pid) for pid in both})) == (2, 1)
        lose_state(other_libvirtd)
        eventually(lambda: elsewhere.stats(guest.vm_id).get("monitorResponse") == "-1", within_s=20)
        elsewhere.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
    assert len(qemu.running(guest.vm_id)) == 1
    guest.keeps_ticking()
