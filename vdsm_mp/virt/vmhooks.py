# SPDX-License-Identifier: Apache-2.0
"""Hook points around the life of a VM and its devices: which document and environment each gets, and what a no means.

A hook of a `before_` point that fails refuses the operation, except before a destroy: that is the way out, and hooks
must not close it. What an `after_` hook says is logged. Hooks belong to the administrator of the host, so what they
make of a document is used as it is. Their environment: `vmId`, and the custom properties of the VM and the device.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import replace

import libvirt

from vdsm_mp.api.errors_virt import CannotCreateVm, VmOperationFailed
from vdsm_mp.common import log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.common.hooks import HookFailed, Hooks
from vdsm_mp.virt import domxml_parse
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.records import VmRecord

logger = log.named(__name__)

#: A destroy waits at most so long for each of its hooks, because somebody may have to fence the VM.
_DESTROY_S = 10.0
#: (tag, operation) -> the middle of the point's name. Only cards have points for a failure.
_DEVICES = {
    ("interface", "hotplug"): "nic_hotplug",
    ("interface", "hotunplug"): "nic_hotunplug",
    ("disk", "hotplug"): "disk_hotplug",
    ("disk", "hotunplug"): "disk_hotunplug",
    ("memory", "hotplug"): "memory_hotplug",
}


class VmHooks:
    """Runs hooks in the caller's thread. Reads a VM's XML only for points that have hooks."""

    def __init__(self, hooks: Hooks, connection: Connection) -> None:
        self._hooks = hooks
        self._connection = connection
        self._destroy = replace(hooks, deadline_s=min(hooks.deadline_s, _DESTROY_S))
        #: XML of VMs that are being destroyed, for the hooks that run when they are gone.
        self._last: dict[str, str] = {}

    def prepare(self) -> None:
        self._hooks.prepare()

    # -- life

    def shape(self, point: str, record: VmRecord, domain: ET.Element) -> ET.Element:
        """point: "before_vm_start" or "before_vm_dehibernate". The domain to start, as its hooks leave it.

        Raises: HookFailed, BadXml, CannotCreateVm.
        """
        if not self._hooks.has(point):
            return domain
        left = xml.parse(self._hooks.xml(point, xml.dump(domain), _environment(record)))
        if domxml_parse.identity(left).vm_id != record.vm_id:
            raise CannotCreateVm(f"the hooks of {point} made another virtual machine of it")
        return left

    def before(self, what: str, record: VmRecord) -> None:
        """what: "vm_pause", "vm_cont", … Raises: VmOperationFailed when a hook refuses; then nothing was done."""
        if not self._hooks.has(f"before_{what}"):
            return
        try:
            self._hooks.xml(f"before_{what}", self._live(record.vm_id), _environment(record))
        except HookFailed as error:
            raise VmOperationFailed(str(error)) from error

    def after(self, what: str, record: VmRecord) -> None:
        """Never raises: what is done is done."""
        if not self._hooks.has(f"after_{what}"):
            return
        try:
            self._hooks.xml(f"after_{what}", self._live(record.vm_id), _environment(record), raises=False)
        except Error as error:
            logger.warning("vm=%s the hooks of after_%s do not run: %s", record.vm_id, what, error)

    def before_destroy(self, record: VmRecord) -> None:
        """Never raises."""
        if not (self._hooks.has("before_vm_destroy") or self._hooks.has("after_vm_destroy")):
            return
        try:
            document = self._live(record.vm_id)
        except Error as error:
            logger.warning("vm=%s its hooks do not see it before it is destroyed: %s", record.vm_id, error)
            return
        self._last[record.vm_id] = document
        self._destroy.xml("before_vm_destroy", document, _environment(record), raises=False)

    def after_destroy(self, record: VmRecord) -> None:
        """However it ended. Never raises."""
        document = self._last.pop(record.vm_id, "")
        if not self._hooks.has("after_vm_destroy"):
            return
        try:
            document = document or self._live(record.vm_id)
        except Error as error:
            logger.warning("vm=%s the hooks of after_vm_destroy do not run: %s", record.vm_id, error)
        else:
            self._destroy.xml("after_vm_destroy", document, _environment(record), raises=False)

    # -- devices

    def before_device(
        self,
        operation: str,
        record: VmRecord,
        device: ET.Element,
        custom: Mapping[str, str],
        failed: Callable[[str], Error],
    ) -> ET.Element:
        """operation: "hotplug" or "hotunplug". The device as the hooks leave it. Raises: what `failed` makes."""
        what = _DEVICES.get((device.tag, operation))
        if what is None or not self._hooks.has(f"before_{what}"):
            return device
        try:
            text = self._hooks.xml(f"before_{what}", xml.dump(device), _environment(record, custom))
            left = xml.parse(text)
        except Error as error:
            raise failed(str(error)) from error
        if left.tag != device.tag:
            raise failed(f"the hooks of before_{what} left a <{left.tag}>")
        return left

    def after_device(
        self, operation: str, record: VmRecord, device: ET.Element, custom: Mapping[str, str], *, fine: bool
    ) -> None:
        """Never raises."""
        what = _DEVICES.get((device.tag, operation))
        if what is None or (not fine and device.tag != "interface"):
            return
        point = f"after_{what}" if fine else f"after_{what}_fail"
        if self._hooks.has(point):
            self._hooks.xml(point, xml.dump(device), _environment(record, custom), raises=False)

    def _live(self, vm_id: str) -> str:
        with translated(vm_id):
            dom = self._connection.domain(vm_id)
            flags = 0 if dom.isActive() else libvirt.VIR_DOMAIN_XML_INACTIVE
            return str(dom.XMLDesc(flags))


def _environment(record: VmRecord, custom: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**record.metadata.custom(), **(custom or {}), "vmId": record.vm_id}
