# SPDX-License-Identifier: Apache-2.0
"""Node devices of the host as the engine lists them, from libvirt."""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import libvirt

from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_host import ListHostDevices
from vdsm_mp.common import log, xml
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.hostdev_xml import pci_name
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)

Params = dict[str, Any]

_BRIDGES = ("pci-bridge", "cardbus-bridge")
_DESCRIPTION_LIMIT = 4096


@handles(ListHostDevices)
def list_host_devices(connection: Connection, hooks: VmHooks, ask: ListHostDevices) -> dict[str, Any]:
    """{device name: {"params": {"capability":…, "parent":…, …}}}. caps: only these capabilities."""
    with translated():
        nodes = connection.get().listAllDevices(0)
    described: list[ET.Element] = []
    for node in nodes:
        try:
            described.append(xml.parse(node.XMLDesc(0)))
        except libvirt.libvirtError as error:
            logger.debug("a node device went away: %s", error)
    found = {
        name: {"params": params}
        for name, params in describe_all(described).items()
        if not ask.caps or params["capability"] in ask.caps
    }
    changed = hooks.hooks.json("after_hostdev_list_by_caps", found, raises=False)
    return changed if isinstance(changed, dict) else found


def describe_all(devices: list[ET.Element]) -> dict[str, Params]:
    """{name: params}. What a SCSI device is called, and where it is found below /dev, is known to its children."""
    found = {xml.text_of(device, "name"): params for device in devices if (params := describe(device))}
    for params in list(found.values()):
        parent = found.get(params.get("parent", ""), {})
        if parent.get("capability") != "scsi":
            continue
        if params["capability"] == "storage":
            taken = {"vendor": "vendor", "product": "product", "block_path": "block_path"}
        else:
            taken = {"udev_path": "udev_path"} if params["capability"] == "scsi_generic" else {}
        parent.update({key: params[told] for key, told in taken.items() if params.get(told)})
    return found


def describe(device: ET.Element) -> Params:
    """One <device>; {} when it has no capability or, unlike all but the root, no parent."""
    capability = device.find("capability")
    if capability is None:
        return {}
    name, parent = xml.text_of(device, "name"), xml.text_of(device, "parent")
    kind = capability.get("type", "")
    if not parent and name != "computer":
        return {}
    params: Params = {"capability": kind, "is_assignable": "true"}
    if parent:
        params["parent"] = parent
    driver = xml.text_of(device, "driver/name")
    if driver:
        params["driver"] = driver
    for tag in ("vendor", "product"):
        element = capability.find(tag)
        if element is not None:
            if (element.text or "").strip():
                params[tag] = (element.text or "").strip()
            if element.get("id"):
                params[f"{tag}_id"] = element.get("id")
    params |= _BY_KIND.get(kind, _nothing)(capability)
    if kind == "pci":
        params |= _mdev_types(capability, Path(xml.text_of(device, "path") or "/nowhere"))
    return params


def _nothing(capability: ET.Element) -> Params:
    return {}


def _numbers(capability: ET.Element, *tags: str) -> dict[str, str]:
    return {tag: xml.text_of(capability, tag) for tag in tags if capability.find(tag) is not None}


def _pci(capability: ET.Element) -> Params:
    params: Params = {"address": _numbers(capability, "domain", "bus", "slot", "function")}
    group = capability.find("iommuGroup")
    if group is not None:
        params["iommu_group"] = group.get("number", "")
    numa = capability.find("numa")
    if numa is not None:
        params["numa_node"] = numa.get("node", "")
    # Bridges and the like cannot be given to a guest: their header is not that of an endpoint.
    if any(inner.get("type") in _BRIDGES for inner in capability.iterfind("capability")):
        params["is_assignable"] = "false"
    for inner in capability.iterfind("capability"):
        if inner.get("type") == "virt_functions" and inner.get("maxCount"):
            params["totalvfs"] = int(inner.get("maxCount", "0"))
            params["numvfs"] = len(inner.findall("address"))
        if inner.get("type") == "phys_function":
            address = inner.find("address")
            if address is not None:
                params["physfn"] = pci_name(address.attrib)
    return params


def _mdev_types(capability: ET.Element, path: Path) -> Params:
    """{"mdev": {type: {name, available_instances, description}}}; what it cannot tell instances of is left out."""
    types: dict[str, Mapping[str, str]] = {}
    for found in capability.iterfind("capability[@type='mdev_types']/type"):
        kind, instances = found.get("id", ""), xml.text_of(found, "availableInstances")
        if not kind or not instances:
            continue
        told = {"name": xml.text_of(found, "name") or kind, "available_instances": instances}
        try:
            with (path / "mdev_supported_types" / kind / "description").open(encoding="utf-8", errors="replace") as f:
                told["description"] = f.read(_DESCRIPTION_LIMIT).strip()
        except OSError:
            pass  # a driver need not have one
        types[kind] = told
    return {"mdev": types} if types else {}


def _usb(capability: ET.Element) -> Params:
    return {"address": _numbers(capability, "bus", "device")}


def _scsi(capability: ET.Element) -> Params:
    return {"address": _numbers(capability, "host", "bus", "target", "lun")}


def _net(capability: ET.Element) -> Params:
    return {"interface": xml.text_of(capability, "interface")}


def _storage(capability: ET.Element) -> Params:
    model = xml.text_of(capability, "model")
    return {"block_path": xml.text_of(capability, "block")} | ({"product": model} if model else {})


def _scsi_generic(capability: ET.Element) -> Params:
    path = xml.text_of(capability, "char")
    return {"udev_path": path} if path else {}


_BY_KIND: dict[str, Callable[[ET.Element], Params]] = {
    "pci": _pci,
    "usb_device": _usb,
    "scsi": _scsi,
    "net": _net,
    "storage": _storage,
    "scsi_generic": _scsi_generic,
}
