# SPDX-License-Identifier: Apache-2.0
"""Hook points of single devices: which element and environment each gets.

Around a VM's life (create, destroy, migration) they run for devices that have custom properties of their own, as the
metadata tell; around plugging and updating, for every device of the kinds that have such points. A device's custom
properties are in the environment, over those of the VM.
"""

import copy
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from vdsm_mp.api.errors_virt import CannotCreateVm
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.common import xml
from vdsm_mp.common.errors import Error
from vdsm_mp.common.hooks import HookFailed, Hooks
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import VmRecord, VolumeIds

#: (tag, operation) -> the middle of the point's name.
_POINTS = {
    ("interface", "hotplug"): "nic_hotplug",
    ("interface", "hotunplug"): "nic_hotunplug",
    ("interface", "update"): "update_device",
    ("disk", "hotplug"): "disk_hotplug",
    ("disk", "hotunplug"): "disk_hotunplug",
    ("memory", "hotplug"): "memory_hotplug",
}

#: What hooks may change of a disk.
_DISK = ("path", "format", "diskType")

Custom = Mapping[str, str]


class DeviceHooks:
    """Runs in the caller's thread."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    # -- around the life of a VM

    def shape(self, record: VmRecord, domain: ET.Element) -> ET.Element:
        """before_device_create: the domain with its devices as their hooks leave them. Raises: HookFailed, BadXml,
        CannotCreateVm.
        """
        if not self._hooks.has("before_device_create"):
            return domain
        shaped = copy.deepcopy(domain)
        devices = shaped.find("devices")
        for device, custom in _custom_devices(shaped, record.metadata):
            text = self._hooks.xml("before_device_create", xml.dump(device), environment(record, custom))
            left = xml.parse(text)
            if left.tag != device.tag:
                raise CannotCreateVm(f"the hooks of before_device_create made a <{left.tag}> of a <{device.tag}>")
            if devices is not None:
                devices[list(devices).index(device)] = left
        return shaped

    def each(self, point: str, record: VmRecord, domain: ET.Element, *, raises: bool = False) -> None:
        """Run a point whose result nobody reads. Raises: HookFailed, if `raises`."""
        if not self._hooks.has(point):
            return
        for device, custom in _custom_devices(domain, record.metadata):
            self._hooks.xml(point, xml.dump(device), environment(record, custom), raises=raises)

    # -- when storage has prepared a disk

    def disk_prepared(
        self,
        record: VmRecord,
        ids: VolumeIds,
        prepared: PreparedDrive,
        failed: Callable[[str], Error] = CannotCreateVm,
    ) -> PreparedDrive:
        """after_disk_prepare, before the disk is used: hooks may put another path in its place.

        Raises: what `failed` makes, when a hook refuses or leaves no disk.
        """
        point = "after_disk_prepare"
        if not self._hooks.has(point):
            return prepared
        kind = "block" if prepared.block else "file"
        told = ids.named() | {"path": prepared.path, "format": prepared.format, "diskType": kind}
        try:
            left = self._hooks.json(point, told, environment(record))
        except HookFailed as error:
            raise failed(str(error)) from error
        path, form, kind = (str(left.get(key)) if isinstance(left, dict) else "" for key in _DISK)
        if not path.startswith("/") or form not in ("cow", "raw") or kind not in ("block", "file"):
            raise failed(f"the hooks of {point} left no disk: {str(left)[:200]}")
        return msgspec.structs.replace(prepared, path=path, format=form, block=kind == "block")

    def volume_prepared(
        self, record: VmRecord, ids: VolumeIds, prepared: PreparedDrive, failed: Callable[[str], Error]
    ) -> PreparedDrive:
        """The same for a volume that a running disk goes over to: what QEMU uses is told by the end of its path."""
        left = self.disk_prepared(record, ids, prepared, failed)
        if left.path.rpartition("/")[2] != prepared.path.rpartition("/")[2]:
            raise failed(f"the hooks of after_disk_prepare gave volume {ids.volume_id} another name: {left.path}")
        return left

    def disks_prepared(self, record: VmRecord, prepared: Mapping[str, PreparedDrive]) -> dict[str, PreparedDrive]:
        """The same for all disks of a VM, {target dev: drive}. Raises: CannotCreateVm."""
        ids = {drive.name: drive.ids for drive in record.devices.drives}
        return {
            name: one if (named := ids.get(name)) is None else self.disk_prepared(record, named, one)
            for name, one in prepared.items()
        }

    # -- around a change of one device

    def before(
        self,
        operation: str,
        record: VmRecord,
        device: ET.Element,
        custom: Custom,
        failed: Callable[[str], Error],
    ) -> ET.Element:
        """operation: "hotplug", "hotunplug", "update". The device as hooks leave it. Raises: what `failed` makes."""
        what = _POINTS.get((device.tag, operation))
        if what is None or not self._hooks.has(f"before_{what}"):
            return device
        try:
            text = self._hooks.xml(f"before_{what}", xml.dump(device), environment(record, custom))
            left = xml.parse(text)
        except Error as error:
            raise failed(str(error)) from error
        if left.tag != device.tag:
            raise failed(f"the hooks of before_{what} left a <{left.tag}>")
        return left

    def after(self, operation: str, record: VmRecord, device: ET.Element, custom: Custom, *, fine: bool) -> None:
        """Never raises. Only cards have points for a failure."""
        what = _POINTS.get((device.tag, operation))
        if what is None or (not fine and device.tag != "interface"):
            return
        point = f"after_{what}" if fine else f"after_{what}_fail"
        if self._hooks.has(point):
            self._hooks.xml(point, xml.dump(device), environment(record, custom), raises=False)


def environment(record: VmRecord, custom: Custom | None = None) -> dict[str, str]:
    return {**record.metadata.custom(), **(custom or {}), "vmId": record.vm_id}


def custom_of(data: Mapping[str, Any] | None) -> dict[str, str]:
    """The custom properties in the metadata of a device."""
    found = (data or {}).get("custom")
    return {name: str(value) for name, value in found.items()} if isinstance(found, Mapping) else {}


def _custom_devices(domain: ET.Element, metadata: Metadata) -> Iterator[tuple[ET.Element, Custom]]:
    """(device, its custom properties) of those that have any."""
    devices = domain.find("devices")
    for device in list(devices) if devices is not None else []:
        identity = _identity(device)
        custom = custom_of(metadata.device(**identity)) if identity else {}
        if custom:
            yield device, custom


def _identity(device: ET.Element) -> dict[str, str]:
    """How the metadata tell this device from others."""
    if device.tag == "interface":
        mac = xml.attributes(device.find("mac")).get("address", "").lower()
        return {"mac_address": mac} if mac else {}
    if device.tag == "disk":
        name = xml.attributes(device.find("target")).get("dev", "")
        return {"devtype": "disk", "name": name} if name else {}
    alias = xml.attributes(device.find("alias")).get("name", "")
    return {"alias": alias} if alias else {}
