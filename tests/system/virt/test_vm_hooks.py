# SPDX-License-Identifier: Apache-2.0
"""Hooks of an administrator around a real VM: they shape what starts, see all of its life, and may refuse."""

import uuid
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.hookscripts import write_hook
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom, vm_xml
from tests.system.virt.conftest import NewGuest, image
from tests.system.virt.test_vm_hibernation import memory_volumes
from tests.system.virt.test_vm_plugs import SCSI, disk_xml
from vdsm_mp.api.errors_virt import HotplugDiskFailed, SetNumberOfCpusFailed, VmOperationFailed

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]

CUSTOM = "<ovirt-vm:colour>green</ovirt-vm:colour>"


def test_hooks_shape_a_vm_and_see_its_life_in_order(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd
) -> None:
    hooks, seen = folder / "hooks.d", folder / "seen"
    note = f'echo "{{point}} $colour" >> {seen}'
    points = [
        *("before_vm_start", "after_vm_start", "before_vm_pause", "after_vm_pause", "before_vm_cont", "after_vm_cont"),
        *("before_set_num_of_cpus", "after_set_num_of_cpus", "before_disk_hotplug", "after_disk_hotplug"),
        *("before_disk_hotunplug", "after_disk_hotunplug", "before_vm_hibernate", "after_vm_hibernate"),
        *("after_vm_destroy", "before_vm_dehibernate", "after_vm_dehibernate", "before_vm_destroy"),
    ]
    for point in points:
        write_hook(hooks, point, note.format(point=point))
    title = 'sed -i "s#</name>#</name><title>$colour</title>#" "$_hook_domxml"; '
    write_hook(hooks, "before_vm_start", title + note.format(point="before_vm_start"))
    serial = 'sed -i "s#<alias #<serial>$colour</serial><alias #" "$_hook_domxml"; '
    write_hook(hooks, "before_disk_hotplug", serial + note.format(point="before_disk_hotplug"))

    guest = new_guest(room, devices=SCSI, custom=CUSTOM)
    eventually(lambda: "after_vm_start green" in seen.read_text())
    assert "<title>green</title>" in libvirtd.virsh("dumpxml", guest.name)
    room.call("VM.pause", vmID=guest.vm_id)
    room.call("VM.cont", vmID=guest.vm_id)
    room.call("VM.setNumberOfCpus", vmID=guest.vm_id, numberOfCpus=2)
    ids = image(room, folder)
    room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(ids)})
    assert "<serial>green</serial>" in libvirtd.virsh("dumpxml", guest.name)
    room.call("VM.hotunplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(ids)})
    memory, _, handle = memory_volumes(room, folder)
    room.call("VM.hibernate", vmID=guest.vm_id, hibernationVolHandle=handle)
    eventually(lambda: room.status(guest.vm_id) == "Down", within_s=30)
    for last in ("after_vm_destroy green", "after_vm_hibernate green"):
        eventually(lambda last=last: last in seen.read_text())  # type: ignore[misc]
    room.call("VM.destroy", vmID=guest.vm_id)
    again = vm_xml(guest.vm_id, serial=guest.serial, disk=guest.disk, devices=SCSI, custom=CUSTOM)
    room.create(again, guest.vm_id, memoryDumpVolume=memory)
    eventually(lambda: "after_vm_dehibernate green" in seen.read_text(), within_s=30)
    room.call("VM.destroy", vmID=guest.vm_id)
    eventually(lambda: seen.read_text().count("after_vm_destroy") == 2)
    lines = seen.read_text().splitlines()
    assert {line.split()[1] for line in lines} == {"green"}
    told = [line.split()[0] for line in lines]
    told.remove("after_vm_hibernate")  # side by side with the end of the VM
    points.remove("after_vm_hibernate")
    assert told == [*points, "after_vm_destroy"]


def test_a_vm_that_a_hook_refuses_is_down_with_what_the_hook_said(room: VirtRoom, folder: Path) -> None:
    vm_id = str(uuid.uuid4())
    write_hook(folder / "hooks.d", "before_vm_start", "echo no such colour >&2; exit 2")
    room.create(vm_xml(vm_id), vm_id)
    eventually(lambda: room.status(vm_id) == "Down")
    assert "no such colour" in room.stats(vm_id)["exitMessage"]
    other = "s#<uuid>[^<]*#<uuid>" + str(uuid.uuid4()) + "#"
    for body, why in ((f'sed -i "{other}" "$_hook_domxml"', "another"), ('echo "<" > "$_hook_domxml"', "XML")):
        room.call("VM.destroy", vmID=vm_id)
        write_hook(folder / "hooks.d", "before_vm_start", body)
        room.create(vm_xml(vm_id), vm_id)
        eventually(lambda: room.status(vm_id) == "Down")
        assert why in room.stats(vm_id)["exitMessage"]


def test_what_a_hook_refuses_to_a_running_vm_does_not_happen(room: VirtRoom, new_guest: NewGuest, folder: Path) -> None:
    guest = new_guest(room, devices=SCSI)
    ids = image(room, folder)
    for point in ("before_vm_pause", "before_set_num_of_cpus", "before_disk_hotplug", "before_vm_hibernate"):
        write_hook(folder / "hooks.d", point, "echo never >&2; exit 2")
    with pytest.raises(VmOperationFailed, match="never"):
        room.call("VM.pause", vmID=guest.vm_id)
    with pytest.raises((SetNumberOfCpusFailed, VmOperationFailed), match="never"):
        room.call("VM.setNumberOfCpus", vmID=guest.vm_id, numberOfCpus=2)
    with pytest.raises(HotplugDiskFailed, match="never"):
        room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(ids)})
    assert ids["imageID"] in room.storage.released
    room.call("VM.hibernate", vmID=guest.vm_id, hibernationVolHandle=memory_volumes(room, folder)[2])
    eventually(lambda: room.status(guest.vm_id) in ("Up", "Powering up"))
    guest.keeps_ticking()
    assert room.stats(guest.vm_id)["vcpuCount"] == 1

    for point in ("before_vm_destroy", "after_vm_destroy"):
        write_hook(folder / "hooks.d", point, f"echo {point} >> {folder}/ends; exit 2")
    room.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
    assert room.call("Host.getVMList") == []
    eventually(lambda: (folder / "ends").read_text().split() == ["before_vm_destroy", "after_vm_destroy"])
