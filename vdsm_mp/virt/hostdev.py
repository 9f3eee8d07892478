# SPDX-License-Identifier: Apache-2.0
"""Node devices of the host as the engine lists them, from libvirt."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import libvirt

from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_host import ListHostDevices
from vdsm_mp.common import log, xml
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)

Params = dict[str, Any]


@handles(ListHostDevices)
def list_host_devices(connection: Connection, hooks: VmHooks, ask: ListHostDevices) -> dict[str, Any]:
    """{device name: {"params": {"capability":…, "parent":…, …}}}. caps: only these capabilities."""
    with translated():
        nodes = connection.get().listAllDevices(0)
    found: dict[str, Any] = {}
    for node in nodes:
        try:
            described = xml.parse(node.XMLDesc(0))
        except libvirt.libvirtError as error:
            logger.debug("a node device went away: %s", error)
            continue
        params = describe(described)
        if params and (not ask.caps or params["capability"] in ask.caps):
            found[xml.text_of(described, "name")] = {"params": params}
    changed = hooks.hooks.json("after_hostdev_list_by_caps", found, raises=False)
    return changed if isinstance(changed, dict) else found


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
    if any(inner.get("type") == "pci-bridge" for inner in capability.iterfind("capability")):
        params["is_assignable"] = "false"
    for inner in capability.iterfind("capability"):
        if inner.get("type") == "virt_functions" and inner.get("maxCount"):
            params["totalvfs"] = int(inner.get("maxCount", "0"))
        if inner.get("type") == "phys_function":
            address = inner.find("address")
            if address is not None:
                params["physfn"] = _pci_name(address)
    return params


def _pci_name(address: ET.Element) -> str:
    parts = [int(address.get(name, "0"), 16) for name in ("domain", "bus", "slot", "function")]
    return "pci_{:04x}_{:02x}_{:02x}_{:x}".format(*parts)


def _usb(capability: ET.Element) -> Params:
    return {"address": _numbers(capability, "bus", "device")}


def _scsi(capability: ET.Element) -> Params:
    return {"address": _numbers(capability, "host", "bus", "target", "lun")}


def _net(capability: ET.Element) -> Params:
    return {"interface": xml.text_of(capability, "interface")}


def _storage(capability: ET.Element) -> Params:
    return {"block_path": xml.text_of(capability, "block")}


_BY_KIND: dict[str, Callable[[ET.Element], Params]] = {
    "pci": _pci,
    "usb_device": _usb,
    "scsi": _scsi,
    "net": _net,
    "storage": _storage,
}
