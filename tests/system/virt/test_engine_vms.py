# SPDX-License-Identifier: Apache-2.0
"""A whole VM of a real engine on this host, through its door: with all that engines take for granted of a host."""

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import decode
from tests.support.bootsector import write_boot_disk
from tests.support.engine_xml import CARD, FILES, MAC, engine_xml
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import lacks, needs_program, needs_root
from tests.support.virt_room import VirtRoom, vm_xml
from tests.system.virt.conftest import NewGuest
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.common import xml
from vdsm_mp.virt.domxml_parse import PAYLOAD
from vdsm_mp.virt.metadata import Metadata

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter", "genisoimage", "isoinfo", "mformat"),
]
NS = 'xmlns:ovirt-vm="http://ovirt.org/vm/1.0"'


@pytest.fixture
def house(libvirtd: PrivateLibvirtd) -> Iterator[RunningHouse]:
    libvirtd.add_bridge(";vdsmdummy;")
    with RunningHouse.start(libvirt_uri=libvirtd.uri, tls=True) as house:
        (house.root / "repo").chmod(0o755)
        (house.root / "vrun").chmod(0o755)
        yield house
    subprocess.run(["ip", "link", "delete", ";vdsmdummy;"], check=False, capture_output=True, timeout=10)


def running(house: RunningHouse, vm_id: str, text: str) -> Any:
    decode.check_vm_created(house.call("VM.create", {"vmID": vm_id, "vmParams": {"vmId": vm_id, "xml": text}}))

    def started() -> Any:
        (stats,) = house.call("VM.getStats", {"vmID": vm_id})
        return stats if stats["status"] != "WaitForLaunch" else None

    return eventually(started, within_s=30)


def boot_disk(house: RunningHouse, vm_id: str) -> Path:
    disk = write_boot_disk(house.root / "repo" / f"{vm_id}.img")
    shutil.chown(disk, "vdsm", "kvm")
    disk.chmod(0o660)
    return disk


def isoinfo(image: Path, *words: str) -> bytes:
    return subprocess.run(["isoinfo", "-i", image, *words], check=True, capture_output=True, timeout=30).stdout


def test_a_vm_of_an_engine_starts_with_all_that_it_names(house: RunningHouse, libvirtd: PrivateLibvirtd) -> None:
    vm_id = str(uuid.uuid4())
    serial = libvirtd.root / f"{vm_id}.log"
    stats = running(house, vm_id, engine_xml(vm_id, disk=boot_disk(house, vm_id), serial=serial))
    assert stats["status"] == "Powering up", stats
    assert stats["timeOffset"] == "3600"
    domain = xml.parse(house.call("Host.dumpxmls", {"vmList": [vm_id]})[vm_id])
    assert domain.find("devices/interface/filterref[@filter='vdsm-no-mac-spoofing']") is not None
    assert MAC in libvirtd.virsh("dumpxml", f"engine-{vm_id[:8]}")
    assert domain.find("devices/console[@type='pty']") is not None
    assert not [child for child in domain if "qemu/1.0" in child.tag]

    (image,) = (house.root / "vrun" / "payload").glob("*.img")
    assert (image.name.partition(".")[0], image.stat().st_mode & 0o777, image.owner()) == (vm_id, 0o640, "vdsm")
    assert domain.find(f"devices/disk/source[@file='{image}']") is not None
    assert b"Volume id: config-2" in isoinfo(image, "-d")
    for path, content in FILES.items():
        assert isoinfo(image, "-R", "-x", f"/{path}") == content

    # Its CD-ROM is not the one that is changed, whichever comes first.
    iso = boot_disk(house, str(uuid.uuid4()))
    for spec in (str(iso), {"path": str(iso), "iface": "sata", "index": "2"}):
        house.call("VM.changeCD", {"vmID": vm_id, "driveSpec": spec})
        blocks = libvirtd.virsh("domblklist", f"engine-{vm_id[:8]}").split()
        assert (blocks[blocks.index("sdc") + 1], blocks[blocks.index("sdd") + 1]) == (str(iso), str(image))
        house.call("VM.changeCD", {"vmID": vm_id, "driveSpec": ""})

    house.call("VM.destroy", {"vmID": vm_id, "gracefulAttempts": 0})
    eventually(lambda: not image.exists(), within_s=10)


def test_what_belongs_to_a_vm_is_read_from_it_alike_before_and_after_a_restart(
    house: RunningHouse, libvirtd: PrivateLibvirtd
) -> None:
    vm_id = str(uuid.uuid4())
    text = engine_xml(vm_id, disk=boot_disk(house, vm_id), serial=libvirtd.root / f"{vm_id}.log", filtered=False)
    keys = ("timeOffset", "displayInfo", "vcpuCount", "kvmEnable", "acpiEnable", "hash", "vcpuQuota", "vcpuPeriod")
    running(house, vm_id, text)
    before = house.call("VM.getStats", {"vmID": vm_id})[0]
    pid = house.pid_of("virt")
    house.ask("restart", worker="virt")
    house.wait_other_pid("virt", pid)
    after = house.call("VM.getStats", {"vmID": vm_id})[0]
    assert {key: before[key] for key in keys} == {key: after[key] for key in keys}
    house.call("VM.destroy", {"vmID": vm_id, "gracefulAttempts": 0})


def test_secure_boot_finds_its_firmware(house: RunningHouse, libvirtd: PrivateLibvirtd) -> None:
    if not Path("/usr/share/OVMF").is_dir():
        lacks("UEFI firmware (package ovmf)")
    vm_id = str(uuid.uuid4())
    place = "/usr/share/OVMF"
    boot = (
        f'<loader readonly="yes" secure="yes" type="pflash">{place}/OVMF_CODE.secboot.fd</loader>'
        f'<nvram template="{place}/OVMF_VARS.secboot.fd">/var/lib/libvirt/qemu/nvram/{vm_id}.fd</nvram>'
    )
    text = engine_xml(vm_id, disk=boot_disk(house, vm_id), serial=libvirtd.root / f"{vm_id}.log", filtered=False)
    text = text.replace('<bios useserial="yes"/>', boot).replace("<vmcoreinfo/>", '<smm state="on"/>')
    stats = running(house, vm_id, text)
    assert stats["status"] == "Powering up", stats
    assert (libvirtd.root / f"lib/qemu/nvram/{vm_id}.fd").stat().st_size > 1 << 16
    house.call("VM.destroy", {"vmID": vm_id, "gracefulAttempts": 0})


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x"])
def test_a_payload_stays_in_its_image(house: RunningHouse, libvirtd: PrivateLibvirtd, path: str) -> None:
    vm_id = str(uuid.uuid4())
    text = engine_xml(vm_id, disk=boot_disk(house, vm_id), serial=libvirtd.root / f"{vm_id}.log")
    stats = running(house, vm_id, text.replace("openstack/latest/user_data", path))
    assert stats["status"] == "Down"
    assert "bad name" in stats["exitMessage"]
    house.call("VM.destroy", {"vmID": vm_id})
    with pytest.raises(RemoteError, match="may not use PAYLOAD:"):
        running(house, vm_id, text.replace("ovirt-vm:payload", "ovirt-vm:other"))


def test_a_floppy_is_made_of_files(room: VirtRoom, folder: Path) -> None:
    (folder / "payload").mkdir()
    shutil.chown(folder / "payload", "root", "kvm")
    (folder / "payload").chmod(0o2770)
    vm_id = str(uuid.uuid4())
    floppy = (
        '<disk type="file" device="floppy"><source file="PAYLOAD:"/><target dev="fda" bus="fdc"/><readonly/></disk>'
    )
    data = '<ovirt-vm:file path="unattend.xml">PGEvPg==</ovirt-vm:file>'
    payload = (
        f'<ovirt-vm:device devtype="disk" name="fda"><ovirt-vm:payload>{data}</ovirt-vm:payload></ovirt-vm:device>'
    )
    room.create(vm_xml(vm_id, devices=floppy, metadata=payload), vm_id)
    eventually(lambda: room.status(vm_id) != "WaitForLaunch", within_s=30)
    assert room.status(vm_id) == "Powering up", room.stats(vm_id)
    (image,) = (folder / "payload").glob("*.img")
    shown = subprocess.run(["mtype", "-i", image, "::/unattend.xml"], check=True, capture_output=True, timeout=10)
    assert shown.stdout == b"<a/>"

    # A payload outlives changes of the metadata, as a later migration needs it.
    room.call("VM.setDestroyOnReboot", vmID=vm_id)
    metadata = Metadata.of_domain(xml.parse(room.call("Host.dumpxmls")[vm_id]))
    assert metadata is not None
    assert metadata.device(devtype="disk", name="fda")[PAYLOAD] == {"file": {"unattend.xml": "PGEvPg=="}}


def test_a_card_goes_from_its_network_to_none_and_back(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    libvirtd.add_bridge("red")
    room.storage.make_bridge = lambda: libvirtd.add_bridge(";vdsmdummy;")
    card = f'<interface type="bridge"><mac address="{MAC}"/><model type="e1000"/><source bridge="red"/></interface>'
    guest = new_guest(room, devices=card.replace("</interface>", f'<alias name="{CARD}"/></interface>'))

    def place() -> tuple[str, str]:
        domain = xml.parse(room.call("Host.dumpxmls", vmList=[guest.vm_id])[guest.vm_id])
        (found,) = domain.iterfind("devices/interface")
        link = xml.attributes(found.find("link")).get("state", "up")
        return xml.attributes(found.find("source"))["bridge"], link

    named = {"deviceType": "interface", "alias": CARD}
    assert place() == ("red", "up")
    room.call("VM.updateDevice", vmID=guest.vm_id, params={**named, "network": "", "linkActive": "true"})
    assert place() == (";vdsmdummy;", "down")
    room.call("VM.updateDevice", vmID=guest.vm_id, params={**named, "network": "red", "linkActive": "true"})
    assert place() == ("red", "up")
