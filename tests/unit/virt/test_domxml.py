# SPDX-License-Identifier: Apache-2.0
"""The engine's XML on its way to libvirt: what is changed, what is refused, what is read from it."""

import uuid
from pathlib import Path

import pytest

from tests.support.background import HeldBackground
from tests.support.virt_room import DISK_IDS, RecordedStorage, vm_xml
from vdsm_mp.api.errors_virt import CannotCreateVm
from vdsm_mp.api.internal import ChainLink, PreparedDrive
from vdsm_mp.common import xml
from vdsm_mp.common.xml import BadXml
from vdsm_mp.virt import domxml_build, domxml_parse, hostfacts, leases
from vdsm_mp.virt.domxml_build import Policy
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.hostfacts import HostFacts
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import VolumeIds

VM = str(uuid.uuid4())
FACTS = HostFacts(kvm=True, os_name="Debian", os_version="12", serial="host-serial")
POLICY = Policy(disk_folders=("/rhev/data-center",))


def drive(path: str = "/run/storage/leaf", **more: object) -> PreparedDrive:
    link = ChainLink(
        sd_id=DISK_IDS["domainID"],
        image_id=DISK_IDS["imageID"],
        volume_id=DISK_IDS["volumeID"],
        path=path,
        lease_path="/leases",
        lease_offset=1048576,
    )
    values: dict[str, object] = {"format": "cow", "block": False} | more
    sizes = {"apparent_size_bytes": 1, "true_size_bytes": 1, "capacity_bytes": 1}
    return PreparedDrive(path=path, chain=[link], **sizes, **values)  # type: ignore[arg-type]


def check(text: str, policy: Policy = POLICY) -> None:
    domain = xml.parse(text)
    domxml_build.check(domain, Metadata.of_domain(domain) or Metadata(), policy)


def test_a_disk_gets_the_prepared_path_its_format_and_keeps_its_owner() -> None:
    final = domxml_build.build(xml.parse(vm_xml(VM, disk=DISK_IDS)), {"hda": drive()}, FACTS)
    disk = final.find("devices/disk")
    assert disk is not None
    assert disk.get("type") == "file"
    assert xml.attributes(disk.find("source"), "file") == {"file": "/run/storage/leaf"}
    assert xml.attributes(disk.find("source/seclabel")) == {"model": "dac", "type": "none", "relabel": "no"}
    assert xml.attributes(disk.find("driver"))["type"] == "qcow2"


def test_a_block_volume_becomes_a_block_disk() -> None:
    final = domxml_build.build(
        xml.parse(vm_xml(VM, disk=DISK_IDS)), {"hda": drive("/dev/vg/lv", block=True, format="raw")}, FACTS
    )
    disk = final.find("devices/disk")
    assert disk is not None
    assert (disk.get("type"), xml.attributes(disk.find("source"))["dev"]) == ("block", "/dev/vg/lv")


def test_placeholders_become_this_host() -> None:
    final = domxml_build.build(xml.parse(vm_xml(VM)), {}, FACTS)
    entries = {e.get("name"): e.text for e in final.iterfind("sysinfo/system/entry")}
    assert (entries["product"], entries["version"], entries["serial"]) == ("Debian", "12", "host-serial")


def test_on_reboot_is_taken_out_and_remembered() -> None:
    domain = xml.parse(vm_xml(VM).replace("<on_poweroff>", "<on_reboot>destroy</on_reboot><on_poweroff>"))
    assert domxml_build.destroy_on_reboot(domain)
    assert domxml_build.build(domain, {}, FACTS).find("on_reboot") is None


def test_without_kvm_the_domain_is_emulated_and_its_cpu_keeps_only_its_shape() -> None:
    text = vm_xml(VM).replace(
        '<cpu mode="host-passthrough"/>',
        '<cpu mode="host-passthrough"><feature name="vmx"/><topology cores="1" threads="1" sockets="4"/></cpu>',
    )
    final = domxml_build.build(xml.parse(text), {}, HostFacts(kvm=False))
    assert final.get("type") == "qemu"
    cpu = final.find("cpu")
    assert cpu is not None
    assert (cpu.attrib, [child.tag for child in cpu]) == ({}, ["topology"])


def test_with_kvm_nothing_of_that_happens() -> None:
    final = domxml_build.build(xml.parse(vm_xml(VM)), {}, FACTS)
    assert (final.get("type"), xml.attributes(final.find("cpu"))) == ("kvm", {"mode": "host-passthrough"})


def test_a_lease_gets_its_place_from_the_chain() -> None:
    key, space = DISK_IDS["volumeID"], DISK_IDS["domainID"]
    lease = (
        f"<lease><key>{key}</key><lockspace>{space}</lockspace>"
        f'<target path="LEASE-PATH:{key}:{space}" offset="LEASE-OFFSET:{key}:{space}"/></lease>'
    )
    final = domxml_build.build(xml.parse(vm_xml(VM, disk=DISK_IDS, devices=lease)), {"hda": drive()}, FACTS)
    assert xml.attributes(final.find("devices/lease/target")) == {"path": "/leases", "offset": "1048576"}
    with pytest.raises(CannotCreateVm, match="no lease known"):
        domxml_build.build(xml.parse(vm_xml(VM, devices=lease)), {}, FACTS)


def test_a_lease_of_no_volume_gets_its_place_from_storage() -> None:
    key, space, storage = str(uuid.uuid4()), DISK_IDS["domainID"], RecordedStorage()
    lease = f'<lease><key>{key}</key><lockspace>{space}</lockspace><target path="LEASE-PATH:{key}:{space}"/></lease>'
    storage.leases[key] = ("/rhev/xleases", 3 << 20)
    domain = xml.parse(vm_xml(VM, devices=lease))
    leases.fill(domain, [drive()], Drives(storage, HeldBackground()))
    final = domxml_build.build(domain, {}, FACTS)
    assert xml.attributes(final.find("devices/lease/target")) == {"path": "/rhev/xleases", "offset": "3145728"}
    storage.leases.clear()
    with pytest.raises(CannotCreateVm, match=key):
        leases.fill(xml.parse(vm_xml(VM, devices=lease)), [], Drives(storage, HeldBackground()))


@pytest.mark.parametrize(
    "path",
    ["/etc/shadow", "/rhev/data-center/../../etc/shadow", "/rhev/data-center", "etc/shadow", "/dev/mapper/vg-root"],
)
def test_a_disk_outside_of_storage_is_refused(path: str) -> None:
    disk = f'<disk type="file" device="disk"><source file="{path}"/><target dev="sdb"/></disk>'
    with pytest.raises(CannotCreateVm, match="may not use"):
        check(vm_xml(VM, devices=disk))


def test_a_backing_file_outside_of_storage_is_refused_even_under_a_named_volume() -> None:
    hidden = '<backingStore type="file"><source file="/etc/shadow"/></backingStore><target dev="hda"'
    with pytest.raises(CannotCreateVm, match="/etc/shadow"):
        check(vm_xml(VM, disk=DISK_IDS).replace('<target dev="hda"', hidden))


def test_a_disk_named_by_its_volume_may_carry_any_predicted_path() -> None:
    check(vm_xml(VM, disk=DISK_IDS), Policy(disk_folders=("/elsewhere",)))


def test_a_lun_is_allowed_by_its_name_and_only_so() -> None:
    guid = "36001405" + "a" * 20
    disk = f'<disk type="block" device="lun"><source dev="/dev/mapper/{guid}"/><target dev="sdb"/></disk>'
    named = f'<ovirt-vm:device devtype="disk" name="sdb"><ovirt-vm:GUID>{guid}</ovirt-vm:GUID></ovirt-vm:device>'
    check(vm_xml(VM, devices=disk, metadata=named))
    with pytest.raises(CannotCreateVm):
        check(vm_xml(VM, devices=disk))


def test_a_qemu_command_line_needs_the_operators_consent() -> None:
    text = vm_xml(VM).replace(
        "</domain>",
        '<qemu:commandline xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"/></domain>',
    )
    with pytest.raises(CannotCreateVm, match="allow_qemu_commandline"):
        check(text)
    check(text, Policy(disk_folders=(), qemu_commandline=True))


def test_an_unknown_display_is_refused() -> None:
    with pytest.raises(CannotCreateVm, match="display type"):
        check(vm_xml(VM, devices='<graphics type="sdl"/>'))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<domain>", "no element found|mismatched|unclosed"),
        ("<!DOCTYPE d [<!ENTITY a 'b'>]><domain>&a;</domain>", "document type"),
        ('<!DOCTYPE d SYSTEM "file:///etc/passwd"><domain/>', "document type"),
        ("<a>" * 100 + "</a>" * 100, "deep"),
        ("<a>" + "<b/>" * 30_000 + "</a>", "elements"),
        ("<a>" + " " * (1 << 20) + "</a>", "characters"),
        ("<a>\x00</a>", "not well-formed"),
        ("", "no element"),
    ],
)
def test_hostile_xml_is_refused_while_it_is_read(text: str, why: str) -> None:
    with pytest.raises(BadXml, match=why):
        xml.parse(text)


@pytest.mark.parametrize(
    "broken",
    [
        lambda text: text.replace(VM, "not-a-uuid"),
        lambda text: text.replace(f"<uuid>{VM}</uuid>", ""),
        lambda text: text.replace(f"<name>vm-{VM[:8]}</name>", "<name>../x</name>"),
        lambda text: text.replace("<domain", "<network", 1).replace("</domain>", "</network>"),
    ],
)
def test_xml_that_names_no_vm_is_refused(broken) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CannotCreateVm):
        domxml_parse.identity(xml.parse(broken(vm_xml(VM))))


def test_memory_is_read_in_any_unit() -> None:
    domain = xml.parse('<domain><memory unit="GiB">2</memory><currentMemory>77</currentMemory></domain>')
    assert domxml_parse.memory_kib(domain, "memory") == 2 << 20
    assert domxml_parse.memory_kib(domain, "currentMemory") == 77
    assert domxml_parse.memory_kib(domain, "maxMemory") == 0


def test_a_drive_knows_its_volume() -> None:
    domain = xml.parse(vm_xml(VM, disk=DISK_IDS))
    metadata = Metadata.of_domain(domain)
    assert metadata is not None
    (hda,) = domxml_parse.devices(domain, metadata).drives
    assert (hda.name, hda.bus, hda.ids) == ("hda", "ide", VolumeIds(*DISK_IDS.values()))


def test_the_hash_follows_the_devices_and_only_them() -> None:
    one, same = xml.parse(vm_xml(VM)), xml.parse(vm_xml(VM, metadata="<ovirt-vm:x>1</ovirt-vm:x>"))
    other = xml.parse(vm_xml(VM, devices='<graphics type="vnc" port="1"/>'))
    assert domxml_parse.devices_hash(one) == domxml_parse.devices_hash(same) != domxml_parse.devices_hash(other)


def test_a_vm_is_ours_by_its_metadata_or_its_channel() -> None:
    channel = '<channel type="unix"><target type="virtio" name="com.redhat.rhevm.vdsm"/></channel>'
    assert domxml_parse.is_ours(xml.parse(vm_xml(VM)))
    assert domxml_parse.is_ours(xml.parse(f"<domain><devices>{channel}</devices></domain>"))
    assert not domxml_parse.is_ours(xml.parse("<domain><devices/></domain>"))


def test_kvm_counts_only_where_the_processor_has_it_and_the_device_opens(tmp_path: Path) -> None:
    device, cpuinfo = tmp_path / "kvm", tmp_path / "cpuinfo"
    device.touch()
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu svm sse\n")
    assert hostfacts.kvm_usable(str(device), str(cpuinfo))
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu sse\n")
    assert not hostfacts.kvm_usable(str(device), str(cpuinfo))
    assert not hostfacts.kvm_usable(str(tmp_path / "absent"), str(cpuinfo))


def test_a_display_without_a_server_is_no_console() -> None:
    vnc = '<graphics type="vnc" port="5901"><listen type="address" address="::1"/></graphics>'
    drawn = f'<graphics type="egl-headless"/>{vnc}'
    told = domxml_parse.devices(xml.parse(vm_xml(VM, devices=drawn)), Metadata()).graphics
    assert [(one.type, one.port, one.tls_port, one.address) for one in told] == [("vnc", "5901", "-1", "::1")]
