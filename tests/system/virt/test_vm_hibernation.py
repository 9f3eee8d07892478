# SPDX-License-Identifier: Apache-2.0
"""A VM sleeps on storage and goes on where it was."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.support.bootsector import hellos
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom, vm_xml
from tests.system.virt.conftest import NewGuest, image
from vdsm_mp.api.errors_virt import InvalidVmParameter, MigrationInProgress

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]


def memory_volumes(room: VirtRoom, folder: Path) -> tuple[dict[str, str], dict[str, str], str]:
    """(memory, parameters, both as the engine writes them)."""
    memory, parameters = image(room, folder, b""), image(room, folder, b"")
    parts = [memory["domainID"], memory["poolID"], memory["imageID"], memory["volumeID"]]
    return memory, parameters, ",".join([*parts, parameters["imageID"], parameters["volumeID"]])


def ends(room: VirtRoom, vm_id: str) -> dict[str, Any]:
    eventually(lambda: room.status(vm_id) == "Down", within_s=30)
    return room.stats(vm_id)


def test_a_vm_sleeps_and_wakes_where_it_was(room: VirtRoom, folder: Path, new_guest: NewGuest) -> None:
    guest = new_guest(room)
    memory, parameters, handle = memory_volumes(room, folder)
    assert room.call("VM.hibernate", vmID=guest.vm_id, hibernationVolHandle=handle) is True
    down = ends(room, guest.vm_id)
    assert (down["exitCode"], down["exitReason"]) == (0, 5)
    assert room.events.statuses(guest.vm_id)[-2:] == ["Saving State", "Down"]
    room.call("VM.destroy", vmID=guest.vm_id)
    written = pickle.loads((folder / parameters["imageID"] / parameters["volumeID"]).read_bytes())
    assert written["vmId"] == guest.vm_id
    eventually(lambda: {memory["imageID"], parameters["imageID"]} <= set(room.storage.released))

    slept_at = guest.ticks
    xml = vm_xml(guest.vm_id, serial=guest.serial, disk=guest.disk)
    accepted = room.create(xml, guest.vm_id, memoryDumpVolume=memory, memoryConfVolume=parameters)
    assert accepted["status"] == "Restoring state"
    eventually(lambda: guest.ticks > slept_at, within_s=30)
    assert room.status(guest.vm_id) in ("Up", "Powering up")
    assert hellos(guest.serial) == 1


def test_a_vm_wakes_on_the_processors_it_has_now_and_with_its_consoles_closed(
    room: VirtRoom, folder: Path, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    vnc = '<graphics type="vnc" port="-1" autoport="yes" passwd="*****" passwdValidTo="1970-01-01T00:00:01"/>'
    guest = new_guest(room, devices=vnc)
    room.call("VM.setTicket", vmID=guest.vm_id, password="known345", ttl=3600, existingConnAction="keep", params={})
    memory, parameters, handle = memory_volumes(room, folder)
    room.call("VM.hibernate", vmID=guest.vm_id, hibernationVolHandle=handle)
    ends(room, guest.vm_id)
    room.call("VM.destroy", vmID=guest.vm_id)
    text = vm_xml(guest.vm_id, serial=guest.serial, disk=guest.disk, devices=vnc)
    pinned = text.replace("<devices>", '<cputune><vcpupin vcpu="0" cpuset="1"/></cputune><devices>', 1)
    room.create(pinned, guest.vm_id, memoryDumpVolume=memory, memoryConfVolume=parameters)
    eventually(lambda: room.status(guest.vm_id) in ("Up", "Powering up"), within_s=30)
    secure = libvirtd.virsh("dumpxml", "--security-info", guest.name)
    assert "known345" not in secure
    assert "<vcpupin vcpu='0' cpuset='1'/>" in secure
    assert libvirtd.virsh("vcpupin", guest.name, "0").split()[-1] == "1"


def test_a_vm_whose_memory_is_not_there_does_not_wake_and_says_why(
    room: VirtRoom, folder: Path, new_guest: NewGuest
) -> None:
    guest = new_guest(room)
    room.call("VM.destroy", vmID=guest.vm_id)
    memory, _, _ = memory_volumes(room, folder)
    room.create(vm_xml(guest.vm_id, serial=guest.serial, disk=guest.disk), guest.vm_id, memoryDumpVolume=memory)
    down = ends(room, guest.vm_id)
    assert down["exitCode"] == 1
    assert down["exitMessage"].startswith("Wake up from hibernation failed:")


def test_a_vm_that_cannot_be_saved_runs_on(room: VirtRoom, folder: Path, new_guest: NewGuest) -> None:
    guest = new_guest(room)
    memory, _, handle = memory_volumes(room, folder)
    with pytest.raises(InvalidVmParameter):
        room.call("VM.hibernate", vmID=guest.vm_id, hibernationVolHandle="1,2,3")
    room.storage.images.pop(memory["imageID"])
    room.call("VM.hibernate", vmID=guest.vm_id, hibernationVolHandle=handle)
    eventually(lambda: room.status(guest.vm_id) in ("Up", "Powering up"), within_s=15)
    guest.keeps_ticking()


def test_nothing_disturbs_a_vm_that_falls_asleep_and_the_next_life_finds_it_asleep(
    room: VirtRoom, libvirtd: PrivateLibvirtd, folder: Path, new_guest: NewGuest
) -> None:
    guest = new_guest(room, memory_mib=64)
    memory, _, handle = memory_volumes(room, folder)
    libvirtd.freeze()
    try:
        room.call("VM.hibernate", vmID=guest.vm_id, hibernationVolHandle=handle)
        assert room.status(guest.vm_id) == "Saving State"
        with pytest.raises(MigrationInProgress):
            room.call("VM.pause", vmID=guest.vm_id)
    finally:
        libvirtd.thaw()
    ends(room, guest.vm_id)
    room.close()
    with VirtRoom(libvirtd.uri, folder) as second:
        down = second.stats(guest.vm_id)
        assert (down["status"], down["exitReason"]) == ("Down", 5)
        second.call("VM.destroy", vmID=guest.vm_id)
    volume = folder / memory["imageID"] / memory["volumeID"]
    assert volume.stat().st_size > 1 << 16
    # The storage side must be able to delete it.
    assert (volume.owner(), volume.group()) == ("vdsm", "kvm")
