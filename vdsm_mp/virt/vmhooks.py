# SPDX-License-Identifier: Apache-2.0
"""Hook points around the life of a VM: which document and environment each gets, and what a no means.

A hook of a `before_` point that fails refuses the operation, except before a destroy and a ticket: the one is the way
out, and hooks must not close it. What an `after_` hook says is logged. Hooks belong to the administrator of the host,
so what they make of a document is used as it is. Their environment: `vmId`, and the VM's custom properties.
"""

import contextlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import CannotCreateVm, VmOperationFailed
from vdsm_mp.common import clock, log, xml
from vdsm_mp.common.digits import whole
from vdsm_mp.common.errors import Error
from vdsm_mp.common.hooks import HookFailed, Hooks
from vdsm_mp.virt import domxml_parse
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.devicehooks import DeviceHooks, environment
from vdsm_mp.virt.records import VmRecord

logger = log.named(__name__)

#: A destroy waits at most so long for all of its hooks, because somebody may have to fence the VM.
_DESTROY_S = 10.0
#: What hooks may ask of a start; anything else changes who ends the VM, or is not known here.
_LAUNCH_FLAGS = (
    libvirt.VIR_DOMAIN_START_PAUSED
    | libvirt.VIR_DOMAIN_START_BYPASS_CACHE
    | libvirt.VIR_DOMAIN_START_FORCE_BOOT
    | libvirt.VIR_DOMAIN_START_RESET_NVRAM
)


class VmHooks:
    """Runs hooks in the caller's thread. Reads a VM's XML only for points that have hooks.

    run_dir: `<run_dir>/<vm id>/launchflags` is where hooks find, and change, the flags of a start.
    """

    def __init__(self, hooks: Hooks, connection: Connection, run_dir: str) -> None:
        self.hooks = hooks
        self.devices = DeviceHooks(hooks)
        self._connection = connection
        self._run_dir = Path(run_dir)
        #: XML of VMs that are being destroyed, for the hooks that run when they are gone.
        self._last: dict[str, str] = {}

    def prepare(self) -> None:
        self.hooks.prepare()

    # -- a start

    def start(self, record: VmRecord, domain: ET.Element, flags: int) -> tuple[ET.Element, int]:
        """The domain to start and the flags to do it with, as the hooks of before_device_create and before_vm_start
        leave both. Raises: HookFailed, BadXml, CannotCreateVm.
        """
        domain = self.devices.shape(record, domain)
        if not self.hooks.has("before_vm_start"):
            return domain, flags
        with self._launch_flags(record.vm_id, flags) as path:
            return self.shape("before_vm_start", record, domain), _read_flags(path)

    def shape(self, point: str, record: VmRecord, domain: ET.Element) -> ET.Element:
        """point: "before_vm_start" or "before_vm_dehibernate". The domain to start, as its hooks leave it.

        Raises: HookFailed, BadXml, CannotCreateVm.
        """
        if not self.hooks.has(point):
            return domain
        left = xml.parse(self.hooks.xml(point, xml.dump(domain), environment(record)))
        if domxml_parse.identity(left).vm_id != record.vm_id:
            raise CannotCreateVm(f"the hooks of {point} made another virtual machine of it")
        return left

    def started(self, record: VmRecord, domain: ET.Element, *, woken: bool) -> None:
        """domain: live. Never raises."""
        if not woken:
            self.devices.each("after_device_create", record, domain)
        self.after("vm_dehibernate" if woken else "vm_start", record)

    @contextlib.contextmanager
    def _launch_flags(self, vm_id: str, flags: int) -> Iterator[Path]:
        folder = self._run_dir / vm_id
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / "launchflags").write_text(f"{flags}\n")
            yield folder / "launchflags"
        except OSError as error:
            raise CannotCreateVm(f"launch flags for its hooks: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                (folder / "launchflags").unlink(missing_ok=True)
                folder.rmdir()  # hooks may keep things of their own in it

    # -- a life

    def before(self, what: str, record: VmRecord) -> None:
        """what: "vm_pause", "vm_cont", … Raises: VmOperationFailed when a hook refuses; then nothing was done."""
        if not self.hooks.has(f"before_{what}"):
            return
        try:
            self.hooks.xml(f"before_{what}", self._live(record.vm_id), environment(record))
        except HookFailed as error:
            raise VmOperationFailed(str(error)) from error

    def after(self, what: str, record: VmRecord, more: Mapping[str, str] | None = None) -> None:
        """more: goes into the environment. Never raises: what is done is done."""
        self._told(f"after_{what}", record, more)

    def before_ticket(self, record: VmRecord, more: Mapping[str, str]) -> None:
        """more: who gets it, as the client says; never the password. Never raises: nobody is kept from a console."""
        self._told("before_vm_set_ticket", record, more)

    def _told(self, point: str, record: VmRecord, more: Mapping[str, str] | None = None) -> None:
        if not self.hooks.has(point):
            return
        try:
            self.hooks.xml(point, self._live(record.vm_id), environment(record, more), raises=False)
        except Error as error:
            logger.warning("vm=%s the hooks of %s do not run: %s", record.vm_id, point, error)

    # -- a migration

    def before_leaving(self, record: VmRecord) -> None:
        """At the source. Raises: VmOperationFailed when a hook refuses."""
        self.before("vm_migrate_source", record)
        self._leaving("before_device_migrate_source", record, raises=True)

    def after_leaving(self, record: VmRecord, description: str) -> None:
        """At the source, when it is gone. description: its last XML. Never raises."""
        self.hooks.xml("after_vm_migrate_source", description, environment(record), raises=False)
        self.devices.each("after_device_migrate_source", record, xml.parse(description))

    def before_arriving(self, record: VmRecord, domain: ET.Element) -> None:
        """At the destination, when its disks are prepared. Raises: CannotCreateVm when a hook refuses."""
        point = "before_vm_migrate_destination"
        try:
            if self.hooks.has(point):
                self.hooks.xml(point, xml.dump(domain), environment(record))
            self.devices.each("before_device_migrate_destination", record, domain, raises=True)
        except HookFailed as error:
            raise CannotCreateVm(str(error)) from error

    def after_arriving(self, record: VmRecord, domain: ET.Element) -> None:
        """At the destination, when it is here. Never raises."""
        self._told("after_vm_migrate_destination", record)
        self.devices.each("after_device_migrate_destination", record, domain)

    def _leaving(self, point: str, record: VmRecord, *, raises: bool) -> None:
        if not self.hooks.has(point):
            return
        try:
            self.devices.each(point, record, xml.parse(self._live(record.vm_id)), raises=raises)
        except HookFailed as error:
            raise VmOperationFailed(str(error)) from error

    # -- an end

    def before_destroy(self, record: VmRecord) -> None:
        """Never raises."""
        points = ("before_vm_destroy", "after_vm_destroy", "before_device_destroy", "after_device_destroy")
        if not any(map(self.hooks.has, points)):
            return
        try:
            document = self._live(record.vm_id)
        except Error as error:
            logger.warning("vm=%s its hooks do not see it before it is destroyed: %s", record.vm_id, error)
            return
        self._last[record.vm_id] = document
        self._ending("before", record, document)

    def after_destroy(self, record: VmRecord) -> None:
        """However it ended. Never raises."""
        document = self._last.pop(record.vm_id, "")
        if not (self.hooks.has("after_vm_destroy") or self.hooks.has("after_device_destroy")):
            return
        try:
            document = document or self._live(record.vm_id)
        except Error as error:
            logger.warning("vm=%s the hooks of after_vm_destroy do not run: %s", record.vm_id, error)
        else:
            self._ending("after", record, document)

    def _ending(self, when: str, record: VmRecord, document: str) -> None:
        until_mono = clock.mono_s() + min(self.hooks.deadline_s, _DESTROY_S)
        hooks = replace(self.hooks, until_mono=until_mono)
        hooks.xml(f"{when}_vm_destroy", document, environment(record), raises=False)
        DeviceHooks(hooks).each(f"{when}_device_destroy", record, xml.parse(document))

    def _live(self, vm_id: str) -> str:
        with translated(vm_id):
            dom = self._connection.domain(vm_id)
            flags = 0 if dom.isActive() else libvirt.VIR_DOMAIN_XML_INACTIVE
            return str(dom.XMLDesc(flags))


def _read_flags(path: Path) -> int:
    text = path.read_text()[:20].strip()
    flags = whole(text)
    if flags is None or flags & ~_LAUNCH_FLAGS:
        raise CannotCreateVm(f"its hooks left launch flags that cannot be: {text!r}")
    return flags
