# SPDX-License-Identifier: Apache-2.0
"""Hooks of an administrator around a real VM: they shape what starts, see all of its life, and may refuse."""

import json
import uuid
from pathlib import Path

import pytest

from tests.support.bootsector import write_boot_disk
from tests.support.eventually import eventually
from tests.support.hookscripts import write_hook
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom, vm_xml
from tests.system.virt.conftest import NewGuest, chain_of, image, overlay
from tests.system.virt.test_vm_backups import replica
from tests.system.virt.test_vm_hibernation import memory_volumes
from tests.system.virt.test_vm_plugs import SCSI, disk_xml
from vdsm_mp.api.errors_virt import (
    HotplugDiskFailed,
    ReplicaFailed,
    SetNumberOfCpusFailed,
    SnapshotFailed,
    UpdateDeviceFailed,
    VmOperationFailed,
)

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


MAC = "52:54:00:00:00:07"
CARD = f'<interface type="user"><mac address="{MAC}"/><model type="e1000"/><alias name="ua-card"/></interface>'
CONSOLE = '<graphics type="vnc" port="-1" autoport="yes" passwd="none"/>'
CARD_IS_CUSTOM = (
    f'<ovirt-vm:device mac_address="{MAC}"><ovirt-vm:custom><ovirt-vm:lane>fast</ovirt-vm:lane></ovirt-vm:custom>'
    "</ovirt-vm:device>"
)


def test_hooks_of_devices_see_those_with_custom_properties_and_their_changes(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd
) -> None:
    hooks, seen = folder / "hooks.d", folder / "seen"

    def note(*points: str, first: str = "") -> None:
        for point in points:
            write_hook(hooks, point, f'{first}echo "{point} $colour $lane $userName" >> {seen}')

    # A card of the other kind, a start that stands still, and a disk at another path.
    note("before_device_create", first='sed -i "s/e1000/rtl8139/" "$_hook_domxml"; ')
    note("before_vm_start", first=f'f={folder}/$vmId/launchflags; test "$(cat $f)" = 0 && echo 1 > $f; ')
    seen.touch()
    elsewhere = write_boot_disk(folder / "elsewhere")
    elsewhere.chmod(0o666)
    write_hook(hooks, "after_disk_prepare", f"sed -i 's#{folder}/[^\"]*#{elsewhere}#' $_hook_json")
    note("after_device_create", "before_device_destroy", "after_device_destroy")
    note("before_update_device", "after_update_device", "after_update_device_fail")
    note("before_vm_set_ticket", "after_vm_set_ticket")

    guest = new_guest(room, wait=False, devices=CARD + CONSOLE, custom=CUSTOM, metadata=CARD_IS_CUSTOM)
    eventually(lambda: "after_device_create" in seen.read_text(), within_s=30)
    assert room.status(guest.vm_id) == "Paused"
    live = libvirtd.virsh("dumpxml", guest.name)
    assert "rtl8139" in live
    assert f"'{elsewhere}'" in live
    assert not (folder / guest.vm_id).exists()
    room.call("VM.cont", vmID=guest.vm_id)
    eventually(lambda: guest.ticks > 0, within_s=30)

    change = {"deviceType": "interface", "alias": "ua-card", "linkActive": "false"}
    room.call("VM.updateDevice", vmID=guest.vm_id, params=change)
    with pytest.raises(UpdateDeviceFailed):
        room.call("VM.updateDevice", vmID=guest.vm_id, params=change | {"specParams": {"inbound": {"average": "x"}}})
    who = {"userName": "anna"}
    room.call(
        "VM.setTicket", vmID=guest.vm_id, password="secret", ttl=120, existingConnAction="keep", params=who,
    )  # fmt: skip
    write_hook(hooks, "before_update_device", "echo never >&2; exit 2")
    with pytest.raises(UpdateDeviceFailed, match="never"):
        room.call("VM.updateDevice", vmID=guest.vm_id, params=change | {"linkActive": "true"})
    assert "<link state='down'/>" in libvirtd.virsh("dumpxml", guest.name)
    write_hook(hooks, "after_disk_prepare", "echo nowhere >&2; exit 2")
    ids = image(room, folder)
    with pytest.raises(HotplugDiskFailed, match="nowhere"):
        room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(ids)})
    assert ids["imageID"] in room.storage.released
    room.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
    eventually(lambda: "after_device_destroy" in seen.read_text())
    assert [" ".join(line.split()) for line in seen.read_text().splitlines()] == [
        "before_device_create green fast", "before_vm_start green", "after_device_create green fast",
        "before_update_device green fast", "after_update_device green fast",
        "before_update_device green fast", "after_update_device_fail green fast",
        "before_vm_set_ticket green anna", "after_vm_set_ticket green anna",
        "before_device_destroy green fast", "after_device_destroy green fast",
    ]  # fmt: skip


def test_hooks_see_the_volumes_that_a_running_disk_goes_over_to(
    room: VirtRoom, new_guest: NewGuest, folder: Path
) -> None:
    hooks, seen = folder / "hooks.d", folder / "seen"
    guest = new_guest(room)
    leaf, mirror = overlay(room, folder, guest.disk), replica(room, folder, guest.disk)
    wish = {name: leaf[name] for name in ("domainID", "imageID", "volumeID")}
    snapshot = {"vmID": guest.vm_id, "snapDrives": [wish | {"baseVolumeID": guest.disk["volumeID"]}]}
    copy = {"vmID": guest.vm_id, "srcDisk": guest.disk, "dstDisk": mirror}

    write_hook(hooks, "after_disk_prepare", "echo not this one >&2; exit 2")
    with pytest.raises(SnapshotFailed, match="not this one"):
        room.call("VM.snapshot", **snapshot)
    with pytest.raises(ReplicaFailed, match="not this one"):
        room.call("VM.diskReplicateStart", **copy)
    assert chain_of(room, guest.vm_id) == [guest.disk["volumeID"]]
    assert "diskReplicate" not in room.call("Host.dumpxmls")[guest.vm_id]

    write_hook(hooks, "after_disk_prepare", f'cat "$_hook_json" >> {seen}; echo >> {seen}')
    room.call("VM.diskReplicateStart", **copy)
    room.call("VM.diskReplicateFinish", vmID=guest.vm_id, srcDisk=guest.disk, dstDisk=guest.disk)
    room.call("VM.snapshot", **snapshot)
    told = [json.loads(line)["volumeID"] for line in seen.read_text().splitlines()]
    assert told == [mirror["volumeID"], leaf["volumeID"]]
    assert chain_of(room, guest.vm_id) == [leaf["volumeID"], guest.disk["volumeID"]]


def test_a_hook_may_not_rename_a_volume_that_a_running_disk_goes_over_to(
    room: VirtRoom, new_guest: NewGuest, folder: Path
) -> None:
    """QEMU's chain is read by the names of its files."""
    guest = new_guest(room)
    leaf = overlay(room, folder, guest.disk)
    write_hook(folder / "hooks.d", "after_disk_prepare", 'sed -i \'s#"path": "[^"]*#&-renamed#\' "$_hook_json"')
    wish = {name: leaf[name] for name in ("domainID", "imageID", "volumeID")}
    with pytest.raises(SnapshotFailed, match="another name"):
        room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish | {"baseVolumeID": guest.disk["volumeID"]}])
    assert chain_of(room, guest.vm_id) == [guest.disk["volumeID"]]


def test_launch_flags_that_cannot_be_keep_a_vm_from_starting(room: VirtRoom, folder: Path) -> None:
    vm_id = str(uuid.uuid4())
    for body in (f"echo 2 > {folder}/$vmId/launchflags", f"echo x > {folder}/$vmId/launchflags"):
        write_hook(folder / "hooks.d", "before_vm_start", body)
        room.create(vm_xml(vm_id), vm_id)
        eventually(lambda: room.status(vm_id) == "Down")
        assert "launch flags" in room.stats(vm_id)["exitMessage"]
        room.call("VM.destroy", vmID=vm_id)
