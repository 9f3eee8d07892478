# SPDX-License-Identifier: Apache-2.0
"""Host devices of a running VM by their names: plug and unplug, and the way back to the host."""

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import HostdevDetachFailed
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_devices import HotplugVmHostdev, HotunplugVmHostdev
from vdsm_mp.api.vm_host import ReattachHostDevice
from vdsm_mp.common import log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.hostdev_taken import HostDevices
from vdsm_mp.virt.hostdev_xml import PCI_NAME, device_name, element_for, usb_addresses
from vdsm_mp.virt.plug import Plugger

logger = log.named(__name__)


@handles(HotplugVmHostdev)
def hotplug_hostdev(plugger: Plugger, hostdevs: HostDevices, ask: HotplugVmHostdev) -> list[str]:
    """All are taken from the host or none is. Of those, one that the VM does not get is the host's again."""
    plugger.devices.vms.running(ask.vm_id, "plug a host device")
    connection = plugger.devices.connection
    names = list(dict.fromkeys(ask.devices))
    with hostdevs.changing(ask.vm_id):
        has = _devices_of(connection, plugger.devices.live(ask.vm_id)[1])
        elements = {name: _element(connection, name) for name in names if name not in has}
        hostdevs.take(ask.vm_id, [name for name in elements if PCI_NAME.fullmatch(name)], HostdevDetachFailed)
        plugged = [name for name in names if name in has]
        for name, element in elements.items():
            try:
                plugger.attach(ask.vm_id, element, HostdevDetachFailed)
            except HostdevDetachFailed as error:
                logger.warning("vm=%s host device %s is left out: %s", ask.vm_id, name, error)
                hostdevs.give_back(ask.vm_id, [name])
            except Error:
                # Whether the VM has it, and what comes after it in the list, is found out as soon as our turn is over.
                hostdevs.compare(ask.vm_id)
                raise
            else:
                plugged.append(name)
                logger.info("vm=%s host device %s plugged", ask.vm_id, name)
    plugger.devices.changed(ask.vm_id)
    return [name for name in names if name in plugged]


@handles(HotunplugVmHostdev)
def hotunplug_hostdev(plugger: Plugger, hostdevs: HostDevices, ask: HotunplugVmHostdev) -> list[str]:
    """One that the VM does not have, or that its guest does not release, is left out."""
    plugger.devices.vms.running(ask.vm_id, "unplug a host device")
    with hostdevs.changing(ask.vm_id):
        has = _devices_of(plugger.devices.connection, plugger.devices.live(ask.vm_id)[1])
        for name in ask.devices:
            if name not in has:
                logger.warning("vm=%s has no host device %s", ask.vm_id, name)
        wanted = {name: has[name] for name in ask.devices if name in has}
        gone = plugger.release(ask.vm_id, wanted)
        hostdevs.give_back(ask.vm_id, gone)
    plugger.devices.changed(ask.vm_id)
    return gone


@handles(ReattachHostDevice)
def reattach_host_device(connection: Connection, hostdevs: HostDevices, ask: ReattachHostDevice) -> None:
    """Only PCI devices are ever taken from the host: any other is its already."""
    if PCI_NAME.fullmatch(ask.device_name):
        hostdevs.reattach(ask.device_name)
    else:
        with translated():
            connection.get().nodeDeviceLookupByName(ask.device_name)


def _element(connection: Connection, name: str) -> ET.Element:
    with translated(failed=HostdevDetachFailed):
        node = connection.get().nodeDeviceLookupByName(name)
        found = element_for(xml.parse(node.XMLDesc(0)))
    if found is None:
        raise HostdevDetachFailed(f"{name} is no device that can be given to a guest")
    return found


def _devices_of(connection: Connection, domain: ET.Element) -> dict[str, ET.Element]:
    """{name: live element}"""
    hostdevs = domain.findall("devices/hostdev")
    usb = any(device.get("type") == "usb" for device in hostdevs)
    addresses = usb_addresses(_nodes(connection)) if usb else {}
    return {name: device for device in hostdevs if (name := device_name(device, addresses))}


def _nodes(connection: Connection) -> list[ET.Element]:
    with translated():
        found: Iterable[Any] = connection.get().listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_USB_DEV)
        return [xml.parse(node.XMLDesc(0)) for node in found]
