# SPDX-License-Identifier: Apache-2.0
"""What all device verbs share: the live element of a device, and its update."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import libvirt
import msgspec

from vdsm_mp.common import xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.agent import Turns
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.domxml_build import Policy
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.dummynet import DummyNet
from vdsm_mp.virt.hostdev_taken import HostDevices
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms
from vdsm_mp.virt.transient import Transients

#: Statistics that change with the devices; the engine reads the XML again when `hash` does.
TELL = ("hash", "displayInfo")


class Devices(msgspec.Struct, frozen=True):
    """The tools of a device verb."""

    connection: Connection
    vms: Vms
    keeper: Keeper
    drives: Drives
    policy: Policy
    dummynet: DummyNet
    transients: Transients
    turns: Turns
    hostdevs: HostDevices

    def live(self, vm_id: str) -> tuple[Any, ET.Element]:
        """(virDomain, its live XML)."""
        dom = self.connection.domain(vm_id)
        with translated(vm_id):
            return dom, xml.parse(dom.XMLDesc(0))

    def update(
        self, vm_id: str, dom: Any, device: ET.Element, failed: Callable[[str], Error], *, force: bool = False
    ) -> None:
        """Change a device of the running VM. Raises: what `failed` makes; then it is as it was."""
        flags = libvirt.VIR_DOMAIN_DEVICE_MODIFY_LIVE
        if force:
            flags |= libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
        with translated(vm_id, failed):
            dom.updateDeviceFlags(xml.dump(device), flags)

    def changed(self, vm_id: str) -> VmRecord | None:
        """Read the devices again and tell the engine."""
        return self.keeper.refresh(vm_id, tell=TELL)


def find(domain: ET.Element, tag: str, fits: Callable[[ET.Element], bool]) -> ET.Element | None:
    """The first device of a kind that fits."""
    return next((element for element in domain.iterfind(f"devices/{tag}") if fits(element)), None)


def alias_of(device: ET.Element) -> str:
    return xml.attributes(device.find("alias")).get("name", "")


def target_of(device: ET.Element) -> str:
    return xml.attributes(device.find("target")).get("dev", "")
