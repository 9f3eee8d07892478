# SPDX-License-Identifier: Apache-2.0
"""A domain XML of another host -> what an engine reads of it. No I/O.

An engine reads sizes of disks as text and knows the formats RAW and COW only; one disk that it cannot read costs it
the whole list.
"""

import xml.etree.ElementTree as ET
from typing import Any

from vdsm_mp.common import xml
from vdsm_mp.virt.domxml_parse import memory_kib

_FORMATS = {"raw": "RAW", "qcow2": "COW"}
_SOURCES = {"file": "file", "block": "dev"}
_REMOVABLE = frozenset({"cdrom", "floppy"})


class NotForUs(ValueError):
    """A VM that cannot be converted; the sentence says why."""


def general(domain: ET.Element) -> dict[str, Any]:
    """All but name, status and disks. Raises: NotForUs."""
    memory_mib = (memory_kib(domain, "currentMemory") or memory_kib(domain, "memory")) // 1024
    vcpus = xml.text_of(domain, "vcpu")
    if not memory_mib or not vcpus.isdecimal():
        raise NotForUs("its memory or its processors cannot be read")
    found: dict[str, Any] = {
        "vmId": xml.text_of(domain, "uuid"),
        "memSize": memory_mib,
        "smp": int(vcpus),
        "networks": [_network(one) for one in domain.iterfind("devices/interface")],
    }
    for key, path, attribute in (
        ("arch", "os/type", "arch"),
        ("graphics", "devices/graphics", "type"),
        ("video", "devices/video/model", "type"),
    ):
        value = xml.attributes(domain.find(path)).get(attribute)
        if value:
            found[key] = value
    return found


def disks(domain: ET.Element) -> list[dict[str, str]]:
    """Its hard disks, in the order of the XML. Raises: NotForUs.

    Besides an engine's own words: `disktype` file, block or volume, `pool` and `volume` of the last.
    """
    return [_disk(one) for one in domain.iterfind("devices/disk") if one.get("device") not in _REMOVABLE]


def _disk(disk: ET.Element) -> dict[str, str]:
    kind = disk.get("type", "")
    source, target, driver = (xml.attributes(disk.find(tag)) for tag in ("source", "target", "driver"))
    found = {"type": disk.get("device", "disk"), "disktype": kind, "dev": target.get("dev", "")}
    if kind == "volume" and source.get("pool") and source.get("volume"):
        found |= {"pool": source["pool"], "volume": source["volume"], "alias": f"{source['pool']}/{source['volume']}"}
    elif kind in _SOURCES and source.get(_SOURCES[kind]):
        found["alias"] = source[_SOURCES[kind]]
    else:
        raise NotForUs(f"its disk {found['dev']} is no file, block device or volume")
    if driver.get("type") in _FORMATS:
        found["format"] = _FORMATS[driver["type"]]
    return found


def _network(interface: ET.Element) -> dict[str, str]:
    said = {
        "type": interface.get("type"),
        "macAddr": xml.attributes(interface.find("mac")).get("address"),
        "bridge": xml.attributes(interface.find("source")).get("bridge"),
        "dev": xml.attributes(interface.find("target")).get("dev"),
        "model": xml.attributes(interface.find("model")).get("type"),
    }
    return {key: value for key, value in said.items() if value is not None}
