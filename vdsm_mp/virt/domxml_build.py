# SPDX-License-Identifier: Apache-2.0
"""The engine's XML -> the XML that libvirt gets. Pure: takes trees and facts, changes a copy, no I/O.

What is changed and why: `<on_reboot>` goes (we decide), placeholders become this host's identity, disks get the
prepared paths and keep their owner (`relabel='no'`), leases get their place, what engines take for granted is as this
host has it (`domxml_host`), and where KVM is of no use the domain is emulated.
"""

import copy
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

import msgspec

from vdsm_mp.api.errors_virt import CannotCreateVm
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.common import xml
from vdsm_mp.virt import domxml_host
from vdsm_mp.virt.domxml_parse import drive, source_path
from vdsm_mp.virt.hostdev_xml import is_scsi_disk
from vdsm_mp.virt.hostfacts import HostFacts
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import Drive

#: Names that multipath gives to LUNs; the host's own volumes below /dev/mapper are called otherwise.
_LUN = re.compile(r"[0-9a-f]{16,33}")
#: Stands for the path of an image that is made of the files in the metadata.
_PAYLOAD = "PAYLOAD:"
_LEASE_PATH = "LEASE-PATH:"


class Policy(msgspec.Struct, frozen=True):
    """What a domain may name on this host. disk_folders: where files and devices of disks may lie.

    payload_folder: where we make images of the files that come with a VM.
    """

    disk_folders: tuple[str, ...]
    payload_folder: str = ""
    qemu_commandline: bool = False


def check(domain: ET.Element, metadata: Metadata, policy: Policy) -> None:
    """Refuse what no engine needs and what would hand the host to a guest. Raises: CannotCreateVm."""
    check_commandline(domain, policy)
    for disk in domain.iterfind("devices/disk"):
        if not is_scsi_disk(disk, metadata):
            check_disk(disk, drive(disk, metadata), policy)
    for element in domain.iterfind("devices/graphics"):
        if element.get("type") not in ("vnc", "spice", "egl-headless"):
            raise CannotCreateVm(f"unknown display type {element.get('type')!r}")


def check_commandline(domain: ET.Element, policy: Policy) -> None:
    """Raises: CannotCreateVm."""
    foreign = [] if policy.qemu_commandline else domxml_host.foreign_elements(domain)
    if foreign:
        raise CannotCreateVm(f"<qemu:{foreign[0]}> is not allowed on this host ([vdsm_mp] allow_qemu_commandline)")


def check_disk(disk: ET.Element, what: Drive, policy: Policy) -> None:
    """Every file and device a disk names lies where disks lie; a disk named by its volume gets its path from storage.

    Raises: CannotCreateVm.
    """
    if disk.get("type", "file") not in ("file", "block", "network"):
        raise CannotCreateVm(f"disk {what.name}: type {disk.get('type')!r} is not supported")
    ours = disk.find("source") if what.ids is not None else None
    for element in disk.iter():
        for name in ("file", "dev", "dir") if element.tag != "target" and element is not ours else ():
            path = element.get(name)
            if path and not _allowed(path, what, policy):
                raise CannotCreateVm(f"disk {what.name} may not use {path}")


def _allowed(path: str, what: Drive, policy: Policy) -> bool:
    if _LUN.fullmatch(what.guid) and path == f"/dev/mapper/{what.guid}":
        return True
    if what.payload and path.startswith(_PAYLOAD):
        return True
    parts = path.split("/")
    if what.payload and policy.payload_folder and "/".join(parts[:-1]) == policy.payload_folder:
        return True
    if not path.startswith("/") or ".." in parts or "." in parts:
        return False
    return any(path.startswith(f"{folder.rstrip('/')}/") for folder in policy.disk_folders)


def build(
    domain: ET.Element, prepared: Mapping[str, PreparedDrive], facts: HostFacts, *, serial: str = ""
) -> ET.Element:
    """The domain to define. prepared: {target dev: drive}. Raises: CannotCreateVm."""
    final = copy.deepcopy(domain)
    for element in final.findall("on_reboot"):
        final.remove(element)
    _fill_sysinfo(final, facts, serial)
    for disk in final.iterfind("devices/disk"):
        target = xml.attributes(disk.find("target")).get("dev", "")
        if target in prepared:
            use_prepared(disk, prepared[target])
        keep_owner(disk)
    _fill_leases(final, list(prepared.values()))
    domxml_host.adapt(final, facts)
    if final.get("type") == "kvm" and not facts.kvm:
        emulate(final)
    return final


def destroy_on_reboot(domain: ET.Element) -> bool:
    """`<on_reboot>destroy</on_reboot>` of the engine."""
    return xml.text_of(domain, "on_reboot") == "destroy"


def _fill_sysinfo(domain: ET.Element, facts: HostFacts, serial: str) -> None:
    for entry in domain.iterfind("sysinfo/system/entry"):
        text, name = entry.text or "", entry.get("name")
        if name == "product" and text.startswith("OS-NAME:"):
            entry.text = facts.os_name
        elif name == "version" and text.startswith("OS-VERSION:"):
            entry.text = facts.os_version
        elif name == "serial" and text.startswith("HOST-SERIAL:"):
            entry.text = serial or facts.serial


def use_prepared(disk: ET.Element, drive: PreparedDrive) -> None:
    """Point a <disk> to what storage prepared."""
    disk.set("type", "block" if drive.block else "file")
    source = disk.find("source")
    if source is None:
        source = ET.SubElement(disk, "source")
    for name in ("file", "dev", "name", "protocol"):
        source.attrib.pop(name, None)
    source.set("dev" if drive.block else "file", drive.path)
    driver = disk.find("driver")
    if driver is None:
        driver = ET.SubElement(disk, "driver", name="qemu")
    driver.set("type", "qcow2" if drive.format == "cow" else "raw")


def keep_owner(disk: ET.Element) -> None:
    """Images belong to the storage side on every host that sees them; libvirt must not give them to QEMU's user."""
    source = disk.find("source")
    if source is None or not source_path(source) or source.find("seclabel") is not None:
        return
    if disk.get("type") != "network":
        ET.SubElement(source, "seclabel", model="dac", type="none", relabel="no")


def leases_to_fill(domain: ET.Element) -> list[tuple[ET.Element, str, str]]:
    """[(<target>, key, lockspace)] of the leases whose place the engine leaves open."""
    found = []
    for lease in domain.iterfind("devices/lease"):
        target = lease.find("target")
        if target is not None and target.get("path", "").startswith(_LEASE_PATH):
            found.append((target, xml.text_of(lease, "key"), xml.text_of(lease, "lockspace")))
    return found


def _fill_leases(domain: ET.Element, drives: Sequence[PreparedDrive]) -> None:
    for target, key, lockspace in leases_to_fill(domain):
        for link in (link for prepared in drives for link in prepared.chain):
            if (link.volume_id, link.sd_id) == (key, lockspace) and link.lease_path and link.lease_offset is not None:
                target.set("path", link.lease_path)
                target.set("offset", str(link.lease_offset))
                break
        else:
            raise CannotCreateVm(f"no lease known of volume {key}")


def emulate(domain: ET.Element) -> None:
    """Without KVM: plain emulation, and a CPU that emulation has. Topology and NUMA stay."""
    domain.set("type", "qemu")
    old = domain.find("cpu")
    if old is not None:
        kept = [child for child in old if child.tag in ("topology", "numa")]
        old.clear()
        old.extend(kept)
    # Clock sources and features that only KVM has.
    for clock in domain.findall("clock"):
        for timer in clock.findall("timer"):
            if timer.get("name") in ("kvmclock", "hypervclock", "tsc"):
                clock.remove(timer)
    for features in domain.findall("features"):
        for element in features.findall("kvm") + features.findall("hyperv"):
            features.remove(element)


def placeholder(vm_id: str, name: str, memory_kib: int, *, kvm: bool, metadata: ET.Element) -> ET.Element:
    """A domain that can be defined at once and holds the metadata, so that an accepted VM survives us."""
    domain = ET.Element("domain", type="kvm" if kvm else "qemu")
    xml.add(domain, "name", name)
    xml.add(domain, "uuid", vm_id)
    xml.add(domain, "memory", str(max(memory_kib, 1)), unit="KiB")
    xml.add(xml.add(domain, "os"), "type", "hvm", arch="x86_64")
    xml.add(domain, "metadata").append(metadata)
    return domain
