# SPDX-License-Identifier: Apache-2.0
"""Host devices between libvirt's names (`pci_0000_00_03_0`, `usb_1_2`, `scsi_0_0_1_2`) and domain XML. Pure."""

import re
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping

import msgspec

from vdsm_mp.common import xml
from vdsm_mp.virt.metadata import Metadata

#: Devices that are driven for the guest by vfio-pci, in place of their own driver.
PCI_NAME = re.compile(r"pci_([0-9a-f]{4,8})_([0-9a-f]{2})_([0-9a-f]{2})_([0-7])", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_SCSI_HOST = re.compile(r"scsi_host([0-9]{1,6})", re.ASCII)
#: The VM's custom property by which SCSI devices of the host become disks, and what it may say.
_AS_DISKS = "scsi_hostdev"
_DISK_DRIVERS = ("scsi_block", "scsi_hd", "virtio_blk_pci")
_SCSI_BLOCK = re.compile(r"/dev/(sd[a-z]{1,4}|sr[0-9]{1,3})", re.ASCII)
_PCI_PARTS = ("domain", "bus", "slot", "function")


class Mdev(msgspec.Struct, frozen=True):
    """A mediated device that a VM wants. kind: "" = it must be there. placement: compact or separate."""

    uuid: str
    kind: str = ""
    placement: str = "compact"
    parameters: str = ""


def pci_name(address: Mapping[str, str]) -> str:
    """Of {domain, bus, slot, function} as libvirt takes numbers: 0x10 and 16 are the same. "" for anything else."""
    try:
        parts = [_number(address.get(part, "0")) for part in _PCI_PARTS]
    except ValueError:
        return ""
    return "pci_{:04x}_{:02x}_{:02x}_{:x}".format(*parts)


def _number(text: str) -> int:
    if text.lower().startswith("0x"):
        return int(text, 16)
    return int(text, 8 if text.startswith("0") else 10)


def pci_names(tree: ET.Element) -> list[str]:
    """PCI devices that a domain, or one device, wants from us: in <hostdev>, and in a card that is a host device.

    Those that libvirt manages are taken and given back by libvirt.
    """
    found = []
    for device in _host_devices(tree):
        address = device.find("source/address")
        if kind_of(device) == "pci" and device.get("managed") != "yes" and address is not None:
            found.append(pci_name(address.attrib))
    return list(dict.fromkeys(name for name in found if name))


def mdevs(tree: ET.Element, metadata: Metadata) -> list[Mdev]:
    """Mediated devices of a domain, with what its metadata say of them."""
    found = []
    for device in _host_devices(tree):
        number = xml.attributes(device.find("source/address")).get("uuid", "").lower()
        # It becomes the name of a file; libvirt refuses a domain with another.
        if kind_of(device) == "mdev" and _UUID.fullmatch(number):
            data = metadata.device(devtype="hostdev", uuid=number)
            kind, _, placement = str(data.get("mdevType") or "").partition("|")
            parameters = str(data.get("mdevDriverParameters") or "")
            found.append(Mdev(number, kind, placement or "compact", parameters))
    return found


def kind_of(device: ET.Element) -> str:
    """pci, usb, scsi, mdev, … A card that is a host device is a PCI device."""
    return "pci" if device.tag == "interface" else device.get("type", "")


def _host_devices(tree: ET.Element) -> Iterator[ET.Element]:
    yield from tree.iter("hostdev")
    yield from (card for card in tree.iter("interface") if card.get("type") == "hostdev")


def device_name(device: ET.Element, usb: Mapping[tuple[int, int], str]) -> str:
    """What libvirt calls the host device in a live <hostdev>; usb: {(bus, device): name}. "" when it has none."""
    source = device.find("source")
    address = xml.attributes(source.find("address") if source is not None else None)
    kind = kind_of(device)
    try:
        if kind == "pci":
            return pci_name(address)
        if kind == "usb":
            return usb.get((_number(address.get("bus", "")), _number(address.get("device", ""))), "")
        if kind == "scsi" and source is not None:
            host = _SCSI_HOST.fullmatch(xml.attributes(source.find("adapter")).get("name", ""))
            numbers = [_number(address.get(part, "0")) for part in ("bus", "target", "unit")]
            return "_".join(["scsi", host[1], *map(str, numbers)]) if host else ""
    except ValueError:
        return ""
    return ""


def usb_addresses(nodes: list[ET.Element]) -> dict[tuple[int, int], str]:
    """{(bus, device): name} of the USB devices among <device>s."""
    found = {}
    for node in nodes:
        bus, device = (xml.text_of(node, f"capability/{part}") for part in ("bus", "device"))
        if xml.attributes(node.find("capability")).get("type") == "usb_device" and bus.isdigit() and device.isdigit():
            found[int(bus), int(device)] = xml.text_of(node, "name")
    return found


def element_for(node: ET.Element) -> ET.Element | None:
    """The <hostdev> for a <device> of libvirt; None for what cannot be given to a guest."""
    capability = node.find("capability")
    kind = "" if capability is None else capability.get("type", "")
    if capability is None or kind not in ("pci", "usb_device", "scsi"):
        return None
    made = ET.Element("hostdev", mode="subsystem", type=kind.removesuffix("_device"), managed="no")
    source = xml.add(made, "source")

    def numbers(*names: str) -> dict[str, str]:
        return {name: xml.text_of(capability, name) for name in names}

    if kind == "pci":
        xml.add(source, "address", None, **numbers(*_PCI_PARTS))
    elif kind == "usb_device":
        xml.add(source, "address", None, **numbers("bus", "device"))
    else:
        made.set("rawio", "yes")
        told = numbers("host", "bus", "target", "lun")
        xml.add(source, "adapter", None, name=f"scsi_host{told['host']}")
        xml.add(source, "address", None, bus=told["bus"], target=told["target"], unit=told["lun"])
    xml.add(made, "alias", None, name=f"ua-{uuid.uuid4()}")
    return made


def is_scsi_disk(disk: ET.Element, metadata: Metadata) -> bool:
    """A SCSI device of the host that an engine gives as a disk, because the VM's custom properties ask for that."""
    path = xml.attributes(disk.find("source")).get("dev", "")
    asked = metadata.custom().get(_AS_DISKS) in _DISK_DRIVERS
    return asked and disk.get("type") == "block" and bool(_SCSI_BLOCK.fullmatch(path))
