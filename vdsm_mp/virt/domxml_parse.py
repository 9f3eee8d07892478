# SPDX-License-Identifier: Apache-2.0
"""Domain XML -> records: who a domain is, and what devices it has. Reads only; no I/O."""

import contextlib
import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import CannotCreateVm
from vdsm_mp.api.types import UUID_PATTERN
from vdsm_mp.common import xml
from vdsm_mp.common.digits import whole
from vdsm_mp.virt.cpusets import numbers
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import VOLUME_KEYS, Devices, Drive, Graphics, Nic, VolumeIds

_UUID = re.compile(UUID_PATTERN)
_GUESTFS_CHANNEL = "org.libguestfs.channel.0"
_OVIRT_CHANNEL = "com.redhat.rhevm.vdsm"
_QGA_CHANNEL = "org.qemu.guest_agent.0"
#: In a disk's metadata: what the guest calls it.
GUEST_NAME = "guestName"
#: Stands in a disk's metadata next to the files that the disk is to be made of.
PAYLOAD = "payload"
#: As libvirt reads them, in capitals or not.
_UNIT_KIB = {"b": 1 / 1024, "bytes": 1 / 1024, "kb": 1000 / 1024, "k": 1, "kib": 1, "mb": 1e6 / 1024, "m": 1024}
_UNIT_KIB |= {"mib": 1024, "gb": 1e9 / 1024, "g": 1 << 20, "gib": 1 << 20, "tb": 1e12 / 1024, "t": 1 << 30}
_UNIT_KIB |= {"tib": 1 << 30}


class Identity(msgspec.Struct, frozen=True):
    """Who a domain is."""

    vm_id: str
    name: str
    memory_kib: int


def identity(domain: ET.Element) -> Identity:
    """From an engine's XML. Raises: CannotCreateVm."""
    if domain.tag != "domain":
        raise CannotCreateVm(f"expected <domain>, got <{domain.tag}>")
    vm_id = xml.text_of(domain, "uuid").lower()
    if not _UUID.match(vm_id):
        raise CannotCreateVm("the XML has no valid <uuid>")
    name = xml.text_of(domain, "name")
    if not name or "/" in name or len(name) > 255:
        raise CannotCreateVm("the XML has no valid <name>")
    return Identity(vm_id, name, memory_kib(domain, "memory"))


def memory_kib(domain: ET.Element, tag: str) -> int:
    """<memory unit='MiB'>2</memory> -> 2048. 0 when it is absent, no number, or of no unit that libvirt knows."""
    element = domain.find(tag)
    if element is None:
        return 0
    try:
        return int(int(element.text or "") * _UNIT_KIB[element.get("unit", "KiB").lower()])
    except (ValueError, KeyError):
        return 0


def clock_offset(domain: ET.Element) -> str:
    """Seconds between the guest's clock and UTC, as text."""
    text = xml.attributes(domain.find("clock")).get("adjustment", "0")
    return text if whole(text.removeprefix("-")) is not None else "0"


def is_ours(domain: ET.Element) -> bool:
    """Made by an oVirt host agent, this or another."""
    return Metadata.of_domain(domain) is not None or _has_channel(domain, _OVIRT_CHANNEL)


def is_helper(domain: ET.Element) -> bool:
    """A libguestfs appliance: nobody's VM."""
    return _has_channel(domain, _GUESTFS_CHANNEL)


def devices(domain: ET.Element, metadata: Metadata, old: Devices | None = None) -> Devices:
    """All that the statistics and the device verbs need. old: sizes that only storage told are taken over."""
    drives = tuple(_with_sizes(drive(disk, metadata), old) for disk in domain.iterfind("devices/disk"))
    return Devices(
        drives=drives,
        nics=tuple(nic(interface, metadata) for interface in domain.iterfind("devices/interface")),
        graphics=tuple(graphics(element) for element in consoles(domain)),
        vcpus=_vcpus(domain),
        pins=dict(_pins(domain)),
        max_memory_kib=memory_kib(domain, "memory"),
        memory_kib=memory_kib(domain, "currentMemory") or memory_kib(domain, "memory"),
        has_balloon=_has_balloon(domain),
        acpi=domain.find("features/acpi") is not None,
        kvm=domain.get("type") == "kvm",
        agent_channel=_has_channel(domain, _QGA_CHANNEL),
        agent_connected=_channel_state(domain, _QGA_CHANNEL) == "connected",
        has_tpm=domain.find("devices/tpm") is not None,
        nvram_path=xml.text_of(domain, "os/nvram"),
        hash=devices_hash(domain, {one.name: one.guest_name for one in drives if one.guest_name}),
    )


def drive(disk: ET.Element, metadata: Metadata) -> Drive:
    """A <disk>, with what our metadata add."""
    target = disk.find("target")
    name = "" if target is None else target.get("dev", "")
    data = metadata.device(devtype="disk", name=name)
    source = disk.find("source")
    driver = disk.find("driver")
    return Drive(
        name=name,
        device=disk.get("device", "disk"),
        bus="" if target is None else target.get("bus", ""),
        alias=_alias(disk),
        path=source_path(source),
        format="cow" if driver is not None and driver.get("type") == "qcow2" else "raw",
        readonly=disk.find("readonly") is not None,
        ids=volume_ids(data),
        guid=str(data.get("GUID") or ""),
        payload=PAYLOAD in data,
        serial=xml.text_of(disk, "serial"),
        guest_name=str(data.get(GUEST_NAME) or ""),
        transient=data.get("shared") == "transient",
    )


def source_path(source: ET.Element | None) -> str:
    if source is None:
        return ""
    return source.get("file") or source.get("dev") or source.get("name") or ""


def volume_ids(data: dict[str, object]) -> VolumeIds | None:
    """From a mapping with VDSM's names; None unless all four are there."""
    found = tuple(str(data.get(key) or "") for key in VOLUME_KEYS)
    return VolumeIds(*found) if all(_UUID.match(one) for one in found) else None


def nic(interface: ET.Element, metadata: Metadata) -> Nic:
    mac = (xml.attributes(interface.find("mac")).get("address") or "").lower()
    data = metadata.device(mac_address=mac)
    source = xml.attributes(interface.find("source"))
    return Nic(
        mac=mac,
        name=xml.attributes(interface.find("target")).get("dev", ""),
        model=xml.attributes(interface.find("model")).get("type", ""),
        alias=_alias(interface),
        network=str(data.get("network") or source.get("bridge") or source.get("network") or ""),
        mirrors=tuple(name for name in data.get("portMirroring") or () if isinstance(name, str) and name),
    )


def consoles(domain: ET.Element) -> list[ET.Element]:
    """Displays that somebody can connect to; one that only draws is nobody's console."""
    return [one for one in domain.iterfind("devices/graphics") if one.get("type") in ("vnc", "spice")]


def graphics(element: ET.Element) -> Graphics:
    listen = element.find("listen")
    address = xml.attributes(listen).get("address") or element.get("listen") or "0"
    return Graphics(
        type=element.get("type", ""),
        port=element.get("port", "-1"),
        tls_port=element.get("tlsPort", "-1"),
        address=address,
    )


def devices_hash(domain: ET.Element, guest_names: Mapping[str, str] | None = None) -> str:
    """A number as text that changes with the devices and with what the guest calls its disks, and only with them."""
    element = domain.find("devices")
    content = b"" if element is None else ET.tostring(element)
    if guest_names:
        content += repr(sorted(guest_names.items())).encode()
    return str(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True))


def _with_sizes(new: Drive, old: Devices | None) -> Drive:
    for before in old.drives if old is not None else ():
        if before.name == new.name and before.path == new.path:
            return replace(new, apparent_size_bytes=before.apparent_size_bytes, true_size_bytes=before.true_size_bytes)
    return new


def _alias(device: ET.Element) -> str:
    return xml.attributes(device.find("alias")).get("name", "")


def _vcpus(domain: ET.Element) -> int:
    element = domain.find("vcpu")
    if element is None:
        return 1
    text = element.get("current") or element.text or "1"
    return whole(text.strip()) or 1


def _pins(domain: ET.Element) -> Iterator[tuple[int, frozenset[int]]]:
    for pin in domain.iterfind("cputune/vcpupin"):
        with contextlib.suppress(ValueError):  # libvirt refuses what makes no sense
            yield int(pin.get("vcpu", "")), frozenset(numbers(pin.get("cpuset", "")))


def _has_balloon(domain: ET.Element) -> bool:
    balloon = domain.find("devices/memballoon")
    return balloon is not None and balloon.get("model") != "none"


def _has_channel(domain: ET.Element, name: str) -> bool:
    return any(target.get("name") == name for target in domain.iterfind("devices/channel/target"))


def _channel_state(domain: ET.Element, name: str) -> str:
    for target in domain.iterfind("devices/channel/target"):
        if target.get("name") == name:
            return target.get("state", "")
    return ""
