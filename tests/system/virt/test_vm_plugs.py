# SPDX-License-Identifier: Apache-2.0
"""Devices that come and go while the guest runs, and its shares of the host.

The guest is a boot sector: it never releases a PCI device. What needs the guest's consent is shown by its refusal,
and by a device whose bus asks nobody (SCSI).
"""

import base64
import shutil
import uuid
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.support import decode
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom
from tests.system.virt.conftest import NewGuest, chain_of, image
from vdsm_mp.api.errors_virt import (
    BadDiskSize,
    BalloonFailed,
    CpuTuneFailed,
    DiskNotFound,
    HotplugDiskFailed,
    HotplugNicFailed,
    HotunplugDiskFailed,
    HotunplugNicFailed,
    LibvirtUnavailable,
    SetNumberOfCpusFailed,
    SnapshotFailed,
    TransientDisk,
)
from vdsm_mp.common import xml
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.plug import Plugger

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]

SCSI = '<controller type="scsi" model="virtio-scsi" index="0"/>'

VNC = '<graphics type="vnc" port="-1" autoport="yes"/>'
NS = 'xmlns:ovirt-vm="http://ovirt.org/vm/1.0"'


def disk_xml(ids: dict[str, str], target: str = 'dev="sda" bus="scsi"') -> str:
    values = "".join(f"<ovirt-vm:{key}>{value}</ovirt-vm:{key}>" for key, value in ids.items())
    return f"""<hotplug {NS}><devices><disk type="file" device="disk"><driver name="qemu" type="raw"/>
<source file="/rhev/data-center/predicted"/><target {target}/><alias name="ua-{ids["imageID"]}"/></disk></devices>
<metadata><ovirt-vm:vm><ovirt-vm:device devtype="disk" name="sda">{values}</ovirt-vm:device></ovirt-vm:vm></metadata>
</hotplug>"""


def test_a_disk_comes_and_goes(room: VirtRoom, new_guest: NewGuest, folder: Path) -> None:
    guest = new_guest(room, devices=SCSI)
    ids = image(room, folder)
    before = room.stats(guest.vm_id)["hash"]
    decode.check_vm_definition(room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(ids)}))
    dumped = room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id]
    assert dumped.count(ids["volumeID"]) == 2  # as a path, and in the metadata
    assert room.stats(guest.vm_id)["hash"] != before
    eventually(lambda: room.sample() or "sda" in room.stats(guest.vm_id)["disks"], within_s=5, every_s=0.2)
    assert room.stats(guest.vm_id)["disks"]["sda"]["imageID"] == ids["imageID"]
    with pytest.raises(HotplugDiskFailed, match="already"):
        room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(ids)})

    size = room.call("VM.diskSizeExtend", vmID=guest.vm_id, driveSpecs=ids, newSize=str(1 << 20))
    assert size == str(1 << 20)
    with pytest.raises(BadDiskSize, match="shrink"):
        room.call("VM.diskSizeExtend", vmID=guest.vm_id, driveSpecs=ids, newSize="512")
    for no_size in ("0", "-1", "²", str(1 << 64), "9" * 5000):
        with pytest.raises(BadDiskSize, match="no size in bytes"):
            room.call("VM.diskSizeExtend", vmID=guest.vm_id, driveSpecs=ids, newSize=no_size)

    room.call("VM.hotunplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(ids)})
    assert ids["imageID"] in room.storage.released
    assert ids["volumeID"] not in room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id]
    with pytest.raises(DiskNotFound):
        room.call("VM.hotunplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(ids)})


def test_what_a_guest_lets_go_too_late_is_given_back_all_the_same(
    room: VirtRoom, new_guest: NewGuest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest(room, releases=True)
    ids, mac = image(room, folder), "56:6f:00:00:00:07"
    disk = {"xml": disk_xml(ids, 'dev="vda" bus="virtio"').replace('name="sda"', 'name="vda"')}
    told = f'<ovirt-vm:device mac_address="{mac}"><ovirt-vm:network>red</ovirt-vm:network></ovirt-vm:device>'
    card = {
        "xml": f'<hotplug {NS}><devices><interface type="ethernet"><mac address="{mac}"/><model type="virtio"/>'
        f"</interface></devices><metadata><ovirt-vm:vm>{told}</ovirt-vm:vm></metadata></hotplug>"
    }
    room.call("VM.hotplugDisk", vmID=guest.vm_id, params=disk)
    room.call("VM.hotplugNic", vmID=guest.vm_id, params=card)
    room.call("VM.pause", vmID=guest.vm_id)
    monkeypatch.setattr(room.state(Plugger), "_unplug_s", 0.0)
    with pytest.raises(HotunplugDiskFailed, match="did not release"):
        room.call("VM.hotunplugDisk", vmID=guest.vm_id, params=disk)
    with pytest.raises(HotunplugNicFailed, match="did not release"):
        room.call("VM.hotunplugNic", vmID=guest.vm_id, params=card)
    assert ids["imageID"] not in room.storage.released
    with pytest.raises(HotplugDiskFailed, match="plugged already"):
        room.call("VM.hotplugDisk", vmID=guest.vm_id, params=disk)
    room.call("VM.cont", vmID=guest.vm_id)
    eventually(lambda: ids["imageID"] in room.storage.released, within_s=15)

    def forgotten() -> bool:
        dumped = room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id]
        return ids["volumeID"] not in dumped and mac not in dumped

    eventually(forgotten, within_s=15)
    room.call("VM.hotplugDisk", vmID=guest.vm_id, params=disk)


def test_an_engines_guess_of_a_target_is_not_taken_for_another_disk(
    room: VirtRoom, new_guest: NewGuest, folder: Path
) -> None:
    """Engines write the first target of the bus into the XML of every disk that comes or goes."""
    guest = new_guest(room, devices=SCSI)
    first, second = image(room, folder), image(room, folder)
    for ids in (first, second):
        room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(ids)})
    assert chain_of(room, guest.vm_id, "sda") == [first["volumeID"]]
    assert chain_of(room, guest.vm_id, "sdb") == [second["volumeID"]]
    dumped = room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id]
    metadata = Metadata.of_domain(xml.parse(dumped))
    assert metadata is not None
    assert metadata.device(devtype="disk", name="sdb")["volumeID"] == second["volumeID"]

    room.call("VM.hotunplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(second)})
    assert room.storage.released == [second["imageID"]]
    assert chain_of(room, guest.vm_id, "sda") == [first["volumeID"]]
    with pytest.raises(DiskNotFound):
        room.call("VM.hotunplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(second)})
    assert chain_of(room, guest.vm_id, "sda") == [first["volumeID"]]


@pytest.mark.parametrize("done", [True, False], ids=["after it was done", "before it was done"])
def test_an_answer_that_is_lost_with_libvirtd_says_nothing_the_live_devices_do(
    room: VirtRoom, new_guest: NewGuest, folder: Path, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    guest = new_guest(room, devices=SCSI)
    ids = image(room, folder)
    attach = libvirt.virDomain.attachDeviceFlags

    def lost(dom: Any, *words: Any) -> None:
        if done:
            attach(dom, *words)
        raise LibvirtUnavailable("the connection is lost")

    monkeypatch.setattr(libvirt.virDomain, "attachDeviceFlags", lost)
    if done:
        room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(ids)})
    else:
        with pytest.raises(LibvirtUnavailable):
            room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(ids)})
    dumped = room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id]
    assert dumped.count(ids["volumeID"]) == (2 if done else 0)  # as a path, and in the metadata
    assert (ids["imageID"] in room.storage.released) is not done


def test_what_a_guest_writes_to_a_plugged_snapshot_is_lost_with_it(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd
) -> None:
    """As backup programs plug them: the volume is only read, the overlay goes with the disk."""
    (folder / "transient").mkdir()
    shutil.chown(folder / "transient", "root", "kvm")
    (folder / "transient").chmod(0o2770)
    guest = new_guest(room, devices=SCSI)
    ids, other = image(room, folder), image(room, folder)
    before = (folder / ids["imageID"] / ids["volumeID"]).read_bytes()
    plug = disk_xml(ids).replace("</ovirt-vm:device>", "<ovirt-vm:shared>transient</ovirt-vm:shared></ovirt-vm:device>")
    room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": plug})
    (overlay,) = (folder / "transient").iterdir()
    assert overlay.name.startswith(f"{ids['domainID']}-{ids['volumeID']}.")
    disk = next(d for d in libvirtd.virsh("dumpxml", guest.name).split("<disk ")[1:] if "sda" in d)
    assert "cache='writethrough'" in disk
    assert str(overlay) in disk
    (drive,) = (d for d in libvirtd.virsh("domblklist", guest.name).splitlines() if "sda" in d)
    assert drive.split()[-1] == str(overlay)
    libvirtd.virsh("qemu-monitor-command", "--hmp", guest.name, f"qemu-io {ua(ids)} 'write -P 7 0 4096'")
    assert (folder / ids["imageID"] / ids["volumeID"]).read_bytes() == before

    with pytest.raises(TransientDisk):
        room.call("VM.migrate", vmID=guest.vm_id, params={"dst": "127.0.0.1:54321"})
    leaf = {name: ids[name] for name in ("domainID", "imageID")}
    with pytest.raises(SnapshotFailed, match="as long as"):
        wish = leaf | {"baseVolumeID": ids["volumeID"], "volumeID": str(uuid.uuid4())}
        room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish])
    with pytest.raises(TransientDisk):
        there = ids | {"domainID": str(uuid.uuid4())}
        room.call("VM.diskReplicateStart", vmID=guest.vm_id, srcDisk=ids, dstDisk=there)

    room.call("VM.hotunplugDisk", vmID=guest.vm_id, params={"xml": plug})
    assert not overlay.exists()
    assert ids["imageID"] in room.storage.released
    again = disk_xml(other).replace(
        "</ovirt-vm:device>", "<ovirt-vm:shared>transient</ovirt-vm:shared></ovirt-vm:device>"
    )
    room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": again})
    (overlay,) = (folder / "transient").iterdir()
    stranger = overlay.with_name(f"{uuid.uuid4()}-{uuid.uuid4()}.{uuid.uuid4()}-00000000")
    stranger.touch()
    room.close()
    with VirtRoom(libvirtd.uri, folder) as next_life:
        next_life.storage.images = room.storage.images
        eventually(lambda: not stranger.exists(), within_s=5)
        assert overlay.exists()
        next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
        eventually(lambda: not overlay.exists(), within_s=10)


def ua(ids: dict[str, str]) -> str:
    return f"-d ua-{ids['imageID']}"


def test_a_death_before_a_plug_leaves_no_device_in_the_metadata_that_is_not_there(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd
) -> None:
    guest = new_guest(room, devices=SCSI)
    plugged, never = image(room, folder), image(room, folder)
    room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(plugged)})
    keeper, mac = room.state(Keeper), "56:6f:00:00:00:09"
    keeper.remember_device(guest.vm_id, {"devtype": "disk", "name": "sdb"}, dict(never))
    keeper.remember_device(guest.vm_id, {"mac_address": mac}, {"network": "red"})
    dumped = libvirtd.virsh("dumpxml", guest.name)
    assert never["volumeID"] in dumped
    assert mac in dumped
    room.close()

    with VirtRoom(libvirtd.uri, folder) as next_life:
        next_life.storage.images = room.storage.images
        eventually(lambda: never["imageID"] in next_life.storage.released, within_s=15)
        dumped = libvirtd.virsh("dumpxml", guest.name)
        assert never["volumeID"] not in dumped
        assert mac not in dumped
        assert dumped.count(plugged["volumeID"]) == 2  # as a path, and in the metadata
        assert plugged["imageID"] not in next_life.storage.released
        next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)


def test_a_disk_that_cannot_be_plugged_leaves_nothing_prepared(
    room: VirtRoom, new_guest: NewGuest, folder: Path
) -> None:
    guest = new_guest(room)
    ids = image(room, folder)
    with pytest.raises(HotplugDiskFailed):
        room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(ids, 'dev="hdb" bus="ide"')})
    assert ids["imageID"] in room.storage.released
    outside = (
        disk_xml(ids).replace("ovirt-vm:imageID", "ovirt-vm:other").replace("/rhev/data-center/predicted", "/etc/x")
    )
    with pytest.raises(HotplugDiskFailed, match="may not use"):
        room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": outside})


def test_a_card_that_the_guest_does_not_release_stays(room: VirtRoom, new_guest: NewGuest) -> None:
    guest = new_guest(room)
    room.state(Plugger)._unplug_s = 0.5
    card = (
        f'<hotplug {NS}><devices><interface type="user"><mac address="56:6F:00:00:00:02"/><model type="e1000"/>'
        '</interface></devices><metadata><ovirt-vm:vm><ovirt-vm:device mac_address="56:6f:00:00:00:02">'
        "<ovirt-vm:network>red</ovirt-vm:network></ovirt-vm:device></ovirt-vm:vm></metadata></hotplug>"
    )
    decode.check_vm_definition(room.call("VM.hotplugNic", vmID=guest.vm_id, params={"xml": card}))
    assert "<ovirt-vm:network>red<" in room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id]
    with pytest.raises(HotplugNicFailed, match="already"):
        room.call("VM.hotplugNic", vmID=guest.vm_id, params={"xml": card})
    with pytest.raises(HotunplugNicFailed, match="did not release"):
        room.call("VM.hotunplugNic", vmID=guest.vm_id, params={"nic": {"macAddr": "56:6F:00:00:00:02"}})
    assert "56:6f:00:00:00:02" in room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id]


def test_processors_and_balloon_change_within_their_bounds(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    guest = new_guest(room, memory_mib=32)
    room.call("VM.setNumberOfCpus", vmID=guest.vm_id, numberOfCpus="3", cpusets=["0", "0-1"])
    assert room.stats(guest.vm_id)["vcpuCount"] == 3
    for number in (9, 0):
        with pytest.raises(SetNumberOfCpusFailed):
            room.call("VM.setNumberOfCpus", vmID=guest.vm_id, numberOfCpus=number)
    with pytest.raises(SetNumberOfCpusFailed, match="bad set"):
        room.call("VM.setNumberOfCpus", vmID=guest.vm_id, numberOfCpus=3, cpusets=["x"])

    decode.check_status(room.call("VM.setBalloonTarget", vmID=guest.vm_id, target="16384"))
    room.sample()
    eventually(lambda: room.stats(guest.vm_id)["balloonInfo"].get("balloon_target") == "16384", within_s=5)
    assert "balloonTarget" in libvirtd.virsh("dumpxml", guest.name)
    for target in (1024, 1 << 20):
        with pytest.raises(BalloonFailed, match="between"):
            room.call("VM.setBalloonTarget", vmID=guest.vm_id, target=target)

    # This libvirtd has no control groups, so it must say no, and nothing must look tuned.
    with pytest.raises(CpuTuneFailed):
        room.call("VM.setCpuTuneQuota", vmID=guest.vm_id, quota=50_000)
    assert room.stats(guest.vm_id)["vcpuQuota"] == "-1"


def test_a_screenshot_is_a_picture(room: VirtRoom, new_guest: NewGuest) -> None:
    guest = new_guest(room, devices=VNC + '<video><model type="vga"/></video>')
    shot = room.call("VM.screenshot", vmID=guest.vm_id)
    assert base64.b64decode(shot["data"]).startswith((b"\x89PNG", b"P6"))
    assert shot["mime_type"].startswith("image/")
