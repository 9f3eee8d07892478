# SPDX-License-Identifier: Apache-2.0
"""VMs under real libvirt and real QEMU: from create to destroy, as the engine sees it."""

import os
import signal
import uuid
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.support import decode
from tests.support.bootsector import hellos
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom, vm_xml
from tests.system.virt.conftest import NewGuest, image
from vdsm_mp.api.errors_virt import (
    CannotCreateVm,
    ChangeDiskFailed,
    DeviceNotFound,
    ExternalDataFailed,
    NoSuchVm,
    VmExists,
    VmIsDown,
)
from vdsm_mp.api.events import DomainValidityChanged
from vdsm_mp.api.internal import EndPausedVms, GetHypervisorFacts
from vdsm_mp.common import clock, xml
from vdsm_mp.virt import machine
from vdsm_mp.virt.registry import Vms

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]

CDROM = '<disk type="file" device="cdrom"><source file=""/><target dev="hdc" bus="ide"/><readonly/></disk>'
VNC = '<graphics type="vnc" port="-1" autoport="yes" passwd="x" passwdValidTo="1970-01-01T00:00:01"/>'
NO_LINK = '<interface type="user"><mac address="56:6f:00:00:00:01"/><model type="e1000"/><link state="up"/></interface>'


def test_a_vm_lives_and_the_engine_can_read_all_of_it(room: VirtRoom, new_guest: NewGuest, folder: Path) -> None:
    guest = new_guest(room, devices=VNC + NO_LINK)
    assert room.storage.prepared[0].image_id == guest.disk["imageID"]

    # Complete statistics within two seconds of the start, without a beat.
    eventually(lambda: room.stats(guest.vm_id)["disks"].get("hda", {}).get("readOps", "0") != "0", within_s=3)
    room.sample()
    eventually(lambda: room.stats(guest.vm_id)["cpuActual"], within_s=5)
    stats = decode.check_vm_stats(room.stats(guest.vm_id), running=True)
    assert (stats["status"], stats["kvmEnable"], stats["acpiEnable"]) == ("Powering up", "false", "true")
    assert stats["disks"]["hda"]["imageID"] == guest.disk["imageID"]
    assert stats["displayInfo"][0]["port"].isdigit()
    assert stats["vmJobs"] == {}
    assert set(stats["balloonInfo"]) >= {"balloon_cur", "balloon_max", "balloon_min", "balloon_target"}
    decode.check_all_vm_stats(room.call("Host.getAllVmStats"))
    decode.check_vm_list(room.call("Host.getVMList"))
    decode.check_hostdevs(room.call("Host.hostdevListByCaps"))

    dumped = decode.check_dumpxmls(room.call("Host.dumpxmls", vmList=[guest.vm_id]))[guest.vm_id]
    assert guest.disk["volumeID"] in dumped
    assert "startTime" in dumped
    assert 'relabel="no"' in dumped.replace("'", '"')

    decode.check_vm_list_object(room.call("VM.pause", vmID=guest.vm_id))
    assert room.status(guest.vm_id) == "Paused"
    decode.check_vm_list_object(room.call("VM.cont", vmID=guest.vm_id))
    guest.keeps_ticking()

    decode.check_true(room.call("VM.destroy", vmID=guest.vm_id))
    assert room.call("Host.getVMList") == []
    eventually(lambda: guest.disk["imageID"] in room.storage.released, within_s=5)
    assert room.events.statuses(guest.vm_id) == ["Powering up", "Paused", "Powering up", "Down"]
    for event in room.events.all:
        decode.check_vm_event({**event.params(), "notify_time": event.notify_time})  # type: ignore[attr-defined]
    with pytest.raises(NoSuchVm):
        room.call("VM.destroy", vmID=guest.vm_id)


def test_a_shutdown_that_the_guest_ignores_is_forced_and_the_vm_stays_listed_as_down(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    guest = new_guest(room)
    decode.check_true(room.call("VM.shutdown", vmID=guest.vm_id, delay="0", message="bye", timeout="1", force="true"))
    assert room.status(guest.vm_id) == "Powering down"
    eventually(lambda: room.status(guest.vm_id) == "Down", within_s=15)
    stats = decode.check_vm_stats(room.stats(guest.vm_id))
    assert (stats["exitCode"], stats["exitReason"]) == (0, 6)
    down = room.events.of(guest.vm_id)[-1]
    assert (down["status"], down["exitCode"], down["exitReason"]) == ("Down", 0, 6)
    assert room.events.statuses(guest.vm_id) == ["Powering up", "Powering down", "Down"]
    with pytest.raises(VmIsDown):
        room.call("VM.pause", vmID=guest.vm_id)
    assert guest.name in libvirtd.virsh("list", "--all", "--name")
    room.call("VM.destroy", vmID=guest.vm_id)
    assert guest.name not in libvirtd.virsh("list", "--all", "--name")


def test_a_qemu_that_is_killed_is_an_error_and_is_told_at_once(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    guest = new_guest(room)
    os.kill(libvirtd.qemu_pid(guest.name), signal.SIGKILL)
    eventually(lambda: room.status(guest.vm_id) == "Down", within_s=10)
    down = room.events.of(guest.vm_id)[-1]
    assert (down["exitCode"], down["exitReason"]) == (1, 2)


def test_a_reset_boots_the_guest_again_and_destroy_on_reboot_makes_it_the_end(
    room: VirtRoom, new_guest: NewGuest
) -> None:
    guest = new_guest(room)
    room.call("VM.reset", vmID=guest.vm_id)
    eventually(lambda: hellos(guest.serial) == 2, within_s=15)
    assert room.status(guest.vm_id) == "RebootInProgress"
    room.call("VM.setDestroyOnReboot", vmID=guest.vm_id)
    room.call("VM.reset", vmID=guest.vm_id)
    eventually(lambda: room.status(guest.vm_id) == "Down", within_s=10)
    assert room.stats(guest.vm_id)["exitReason"] == 13


def test_a_cd_goes_in_and_out_by_volume_and_nothing_else_of_the_host_goes_in(
    room: VirtRoom, new_guest: NewGuest, folder: Path
) -> None:
    guest = new_guest(room, devices=CDROM)
    first, second = image(room, folder), image(room, folder)
    spec = {"device": "cdrom", "iface": "ide", "index": "2"}
    before = room.stats(guest.vm_id)["hash"]

    decode.check_vm_definition(room.call("VM.changeCD", vmID=guest.vm_id, driveSpec={**first, **spec}))
    dumped = room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id]
    assert first["volumeID"] in dumped
    assert room.stats(guest.vm_id)["hash"] != before
    room.call("VM.changeCD", vmID=guest.vm_id, driveSpec={**second, **spec})
    assert first["imageID"] in room.storage.released
    for no_index in ("²", "9" * 5000):
        room.call("VM.changeCD", vmID=guest.vm_id, driveSpec={**second, **spec, "index": no_index})

    for path in ("/etc/shadow", f"{folder}/../../../etc/shadow"):
        with pytest.raises(ChangeDiskFailed, match="may not use"):
            room.call("VM.changeCD", vmID=guest.vm_id, driveSpec=path)
    assert second["volumeID"] in room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id]

    room.call("VM.changeCD", vmID=guest.vm_id, driveSpec="")
    assert second["imageID"] in room.storage.released
    assert second["volumeID"] not in room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id]


def test_console_tickets_and_links_change_while_it_runs(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    guest = new_guest(room, devices=VNC + NO_LINK)
    ticket = {"deviceType": "graphics", "graphicsType": "vnc", "password": "secret-long", "ttl": 120, "params": {}}
    decode.check_vm_definition(room.call("VM.updateDevice", vmID=guest.vm_id, params=ticket))
    secure = libvirtd.virsh("dumpxml", "--security-info", guest.name)
    assert "passwd='secret-l'" in secure
    assert "passwdValidTo='20" in secure
    assert "secret" not in room.call("Host.dumpxmls")[guest.vm_id]

    params = {"deviceType": "interface", "alias": "net0", "linkActive": "false"}
    room.call("VM.updateDevice", vmID=guest.vm_id, params=params)
    assert "<link state='down'/>" in libvirtd.virsh("dumpxml", guest.name)
    with pytest.raises(ExternalDataFailed):
        room.call("VM.getExternalData", vmID=guest.vm_id, kind="tpm")


def test_a_start_without_its_disk_is_down_with_an_event_and_stays_so_over_a_restart(
    room: VirtRoom, libvirtd: PrivateLibvirtd, folder: Path
) -> None:
    vm_id = str(uuid.uuid4())
    missing = {key: str(uuid.uuid4()) for key in ("poolID", "domainID", "imageID", "volumeID")}
    room.create(vm_xml(vm_id, disk=missing), vm_id)
    eventually(lambda: room.events.of(vm_id), within_s=10)
    (down,) = room.events.of(vm_id)
    assert (down["status"], down["exitCode"], down["exitReason"]) == ("Down", 1, 1)
    assert missing["imageID"] in down["exitMessage"]
    eventually(lambda: "exitMessage" in libvirtd.virsh("dumpxml", f"vm-{vm_id[:8]}"), within_s=5)
    with VirtRoom(libvirtd.uri, folder) as next_life:
        assert next_life.stats(vm_id)["exitMessage"] == down["exitMessage"]


def test_what_cannot_be_a_vm_is_refused_before_anything_is_defined(room: VirtRoom, libvirtd: PrivateLibvirtd) -> None:
    vm_id = str(uuid.uuid4())
    outside = '<disk type="file" device="disk"><source file="/etc/shadow"/><target dev="hdb" bus="ide"/></disk>'
    for text in (vm_xml(vm_id, devices=outside), vm_xml(str(uuid.uuid4()))):
        with pytest.raises(CannotCreateVm):
            room.create(text, vm_id)
    assert libvirtd.virsh("list", "--all", "--name").strip() == ""
    room.create(vm_xml(vm_id), vm_id)
    with pytest.raises(VmExists):
        room.create(vm_xml(vm_id), vm_id)


def test_a_vm_that_waits_for_its_storage_can_be_destroyed(room: VirtRoom, new_guest: NewGuest) -> None:
    room.storage.gate.clear()
    guest = new_guest(room, wait=False)
    assert room.status(guest.vm_id) == "WaitForLaunch"
    room.storage.gate.set()
    room.call("VM.destroy", vmID=guest.vm_id)
    assert room.call("Host.getVMList") == []
    # Whether it had got as far as running or not: it is gone, and its disk is given back.
    eventually(lambda: guest.disk["imageID"] in room.storage.released, within_s=5)


def test_at_most_four_vms_start_at_a_time_and_the_rest_follow(room: VirtRoom) -> None:
    room.storage.gate.clear()
    ids = [str(uuid.uuid4()) for _ in range(6)]
    missing = {key: str(uuid.uuid4()) for key in ("poolID", "domainID", "imageID", "volumeID")}
    for vm_id in ids:
        room.create(vm_xml(vm_id, disk=missing), vm_id)
    assert room.room.vitals is not None
    assert eventually(lambda: room.room.vitals and room.room.vitals()["starts_waiting"]) == 2
    room.storage.gate.set()
    eventually(lambda: all(room.status(vm_id) == "Down" for vm_id in ids), within_s=10)


def test_a_guest_that_stands_still_for_its_storage_goes_on_when_it_is_back(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    guest = new_guest(room)
    libvirtd.virsh("suspend", guest.name)
    eventually(lambda: room.status(guest.vm_id) == "Paused")
    room.state(Vms).move(guest.vm_id, lambda life: machine.on_io_error(life, 1.0, "EIO"))
    assert room.stats(guest.vm_id)["pauseCode"] == "EIO"
    eventually(lambda: "pauseTime" in libvirtd.virsh("dumpxml", guest.name))
    back = room.room.subscribes[DomainValidityChanged]
    back(DomainValidityChanged(sd_id=str(uuid.uuid4()), valid=True))
    back(DomainValidityChanged(sd_id=guest.disk["domainID"], valid=False))
    back(DomainValidityChanged(sd_id=guest.disk["domainID"], valid=True))
    eventually(lambda: room.stats(guest.vm_id)["pauseCode"] == "NOERR", within_s=5)
    guest.keeps_ticking()


def test_a_vm_that_may_run_elsewhere_by_now_ends_though_its_storage_is_away(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    kill = {"metadata": "<ovirt-vm:resumeBehavior>kill</ovirt-vm:resumeBehavior>"}
    killed, patient = new_guest(room, **kill), new_guest(room)
    for guest in (killed, patient):
        libvirtd.virsh("suspend", guest.name)
        eventually(lambda vm_id=guest.vm_id: room.status(vm_id) == "Paused")
        room.state(Vms).move(guest.vm_id, lambda life: machine.on_io_error(life, clock.mono_s(), "EIO"))
    room.ask(EndPausedVms())
    assert room.status(killed.vm_id) == "Paused", "it has not stood still for long"
    long_ago = clock.mono_s() - 100
    for guest in (killed, patient):
        room.state(Vms).move(guest.vm_id, lambda life: (replace(life, paused_mono=long_ago), ()))
    room.ask(EndPausedVms())
    assert (room.status(killed.vm_id), room.status(patient.vm_id)) == ("Down", "Paused")
    down = room.events.of(killed.vm_id)[-1]
    assert (down["exitCode"], down["exitReason"]) == (1, 14)
    eventually(lambda: killed.name not in libvirtd.virsh("list", "--name"), within_s=10)
    assert patient.name in libvirtd.virsh("list", "--name")


def test_a_vm_of_somebody_else_is_listed_and_left_alone(room: VirtRoom, libvirtd: PrivateLibvirtd) -> None:
    vm_id = str(uuid.uuid4())
    text = (
        vm_xml(vm_id, name="foreign")
        .replace('type="kvm"', 'type="qemu"', 1)
        .replace('<cpu mode="host-passthrough"/>', "")
    )
    domain = xml.parse(text)
    metadata = domain.find("metadata")
    assert metadata is not None
    domain.remove(metadata)
    (libvirtd.root / "foreign.xml").write_text(xml.dump(domain))
    libvirtd.virsh("create", str(libvirtd.root / "foreign.xml"))
    eventually(lambda: [e["vmId"] for e in room.call("Host.getVMList")] == [vm_id], within_s=5)
    assert room.status(vm_id) in ("Up", "Powering up")
    assert "ovirt.org" not in libvirtd.virsh("dumpxml", "foreign")
    libvirtd.virsh("destroy", "foreign")
    eventually(lambda: room.status(vm_id) == "Down", within_s=5)


def test_a_device_that_is_not_there_is_named(room: VirtRoom, new_guest: NewGuest) -> None:
    guest = new_guest(room)
    with pytest.raises(DeviceNotFound, match="net9"):
        room.call("VM.updateDevice", vmID=guest.vm_id, params={"deviceType": "interface", "alias": "net9"})
    with pytest.raises(ChangeDiskFailed, match="no cdrom drive"):
        room.call("VM.changeCD", vmID=guest.vm_id, driveSpec="")


def test_what_qemu_can_run_is_told_with_aliases_and_usable_models(room: VirtRoom) -> None:
    facts = room.ask(GetHypervisorFacts())
    assert {"pc", "q35"} <= set(facts["machines"])
    assert "qemu64" in facts["models"]


def test_a_console_listens_on_the_network_of_the_host_that_is_named(room: VirtRoom, new_guest: NewGuest) -> None:
    listen = '<graphics type="vnc" port="-1" autoport="yes"><listen type="network" network="vdsm-lo"/></graphics>'
    guest = new_guest(room, devices=listen)
    (display,) = room.stats(guest.vm_id)["displayInfo"]
    assert display["ipAddress"] == "127.0.0.1"
    vm_id = str(uuid.uuid4())
    room.create(vm_xml(vm_id, devices=listen.replace("vdsm-lo", "vdsm-nowhere")), vm_id)
    eventually(lambda: room.status(vm_id) == "Down", within_s=10)
    assert "no display network nowhere" in room.stats(vm_id)["exitMessage"]
