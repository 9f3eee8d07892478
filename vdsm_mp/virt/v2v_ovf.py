# SPDX-License-Identifier: Apache-2.0
"""The description in an OVA -> what an engine reads of it. No I/O.

Source: DSP0243 (OVF 1.1), DSP0004 annex C.1 for units.
"""

import re
import xml.etree.ElementTree as ET
from pathlib import PurePosixPath
from typing import Any

from vdsm_mp.api.errors_virt import BadOva
from vdsm_mp.common import xml
from vdsm_mp.common.errors import Error

_OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
_RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"
_OVIRT = re.compile(r"\bxmlns:ovirt\s*=")
_CPU, _MEMORY, _NETWORK = "3", "4", "10"
#: Of an engine, for VMs that an engine exported.
_ORIGIN_OVIRT = 3
_UNITS = re.compile(r"byte\s*(?:\*\s*(?P<times>\d{1,15}))?\s*(?:\*\s*(?P<base>\d{1,4})\s*\^\s*(?P<power>\d{1,2}))?")
#: More is no size of a disk, and no number for an engine either.
_LARGEST = 2**62


def external_vm(untrusted_text: str, default_name: str) -> dict[str, Any]:
    """Raises: BadOva."""
    try:
        root = xml.parse(untrusted_text)
    except Error as error:
        raise BadOva(f"its description: {error}") from error
    system = root.find(f"{_OVF}VirtualSystem")
    found: dict[str, Any] = {
        "status": "Down",
        "vmName": (xml.text_of(system, f"{_OVF}Name") if system is not None else "") or default_name,
        "memSize": _quantity(root, _MEMORY, "memory"),
        "smp": _quantity(root, _CPU, "processors"),
        "disks": [_disk(root, disk) for disk in root.iterfind(f".//{_OVF}DiskSection/{_OVF}Disk")],
        "networks": [_network(item) for item in _items(root, _NETWORK)],
    }
    if _OVIRT.search(untrusted_text):
        found["originType"] = _ORIGIN_OVIRT
    return found


def files(untrusted_text: str) -> list[str]:
    """Names of the files of its disks. Raises: BadOva (also when one lies outside of the OVA)."""
    vm = external_vm(untrusted_text, "")
    names = [str(disk["alias"]) for disk in vm["disks"]]
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or ":" in name or "\0" in name:
            raise BadOva(f"it names a disk outside of itself: {name!r}")
    return names


def _items(root: ET.Element, kind: str) -> list[ET.Element]:
    return [item for item in root.iter(f"{_OVF}Item") if xml.text_of(item, f"{_RASD}ResourceType") == kind]


def _quantity(root: ET.Element, kind: str, what: str) -> int:
    for item in _items(root, kind):
        return _number(xml.text_of(item, f"{_RASD}VirtualQuantity"), what)
    raise BadOva(f"its description does not tell its {what}")


def _number(text: str | None, what: str) -> int:
    if not text or not text.isdigit() or len(text) > 19 or int(text) > _LARGEST:
        raise BadOva(f"{text!r} is no number of {what}")
    return int(text)


def _disk(root: ET.Element, disk: ET.Element) -> dict[str, str]:
    capacity = _number(disk.get(f"{_OVF}capacity"), "a disk's capacity")
    capacity *= _unit(disk.get(f"{_OVF}capacityAllocationUnits", "byte"))
    reference = disk.get(f"{_OVF}fileRef")
    file = next((f for f in root.iterfind(f".//{_OVF}References/{_OVF}File") if f.get(f"{_OVF}id") == reference), None)
    if file is None or not file.get(f"{_OVF}href"):
        raise BadOva("one of its disks has no file")
    if capacity > _LARGEST:
        raise BadOva("one of its disks is larger than any")
    sizes = [
        _number(size, "a disk's size")
        for size in (disk.get(f"{_OVF}populatedSize"), file.get(f"{_OVF}size"))
        if size is not None
    ]
    return {
        "type": "disk",
        "capacity": str(capacity),
        "alias": file.get(f"{_OVF}href", ""),
        "allocation": str(max(sizes, default=capacity)),
    }


def _unit(text: str) -> int:
    match = _UNITS.fullmatch(text.strip())
    if match is None:
        raise BadOva(f"{text!r} is no unit of sizes")
    times, base, power = (int(match[name] or default) for name, default in (("times", 1), ("base", 1), ("power", 0)))
    return int(times * base**power)


def _network(item: ET.Element) -> dict[str, str]:
    name, model = xml.text_of(item, f"{_RASD}ElementName"), xml.text_of(item, f"{_RASD}ResourceSubType")
    if not name or not model:
        raise BadOva("one of its network cards has no name or no model")
    bridge = xml.text_of(item, f"{_RASD}Connection")
    return {"dev": name, "model": model, "type": "bridge" if bridge else "interface"} | (
        {"bridge": bridge} if bridge else {}
    )
