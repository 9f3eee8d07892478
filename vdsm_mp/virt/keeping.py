# SPDX-License-Identifier: Apache-2.0
"""What must survive us is written into the domain, live and persistent definition alike, before it is acted upon."""

from collections.abc import Callable, Mapping
from typing import Any

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import VmNotResponding, VmOperationFailed
from vdsm_mp.common import xml
from vdsm_mp.virt import domxml_parse
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.metadata import VM_PREFIX, VM_URI, Data, Metadata, Scalar
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms

#: No domain has an element of this.
_NOBODYS_URI = f"{VM_URI}/nobody"
#: A call is under way in it, or even a command that QEMU has not answered.
_AT_SOMETHING = (libvirt.VIR_DOMAIN_CONTROL_JOB, libvirt.VIR_DOMAIN_CONTROL_OCCUPIED)
#: A libvirtd that stood still, or whose client died, may have read a question and not begun with it: on a busy machine
#: a write through a new connection can come first.
SETTLES_S = 2.0
#: Two writers at once are rare, three of them more so.
_ATTEMPTS = 10


class Keeper:
    """Writes metadata and reads devices again. VMs that are not ours are only read."""

    def __init__(self, connection: Connection, vms: Vms) -> None:
        self._connection = connection
        self._vms = vms

    def remember(self, vm_id: str, **values: Scalar | None) -> None:
        """Set flat values; None removes one. Raises: NoSuchVm, LibvirtUnavailable, VmOperationFailed."""
        self._write(vm_id, lambda metadata: metadata.with_values(**values))

    def remember_device(self, vm_id: str, identity: Mapping[str, str], data: Data | None) -> None:
        """Replace the data of a device; None forgets it."""
        self._write(vm_id, lambda metadata: metadata.with_device(identity, data))

    def take_turn(self, vm_id: str) -> None:
        """Return when libvirt is done with what it was asked before, by callers who are dead or gave up as well.

        It changes a VM in one call at a time, so a write that changes nothing comes back after them: only then does
        the domain tell whether they happened. It takes away what nobody wrote: our own metadata, written as they were
        when this was asked, would undo what is noted meanwhile. Raises: as `remember`; VmNotResponding at once while
        it is still at one: who asks comes again, and keeps no thread while QEMU hangs (`patience`).
        """
        record = self._vms.get(vm_id)
        if record is not None and not record.external:
            if self._connection.age_s < SETTLES_S:
                raise VmNotResponding("libvirt may be about to begin what it was asked before")
            if at_something(self._connection.domain(vm_id)):
                raise VmNotResponding("libvirt is at something else with it")
            self._set(vm_id, None, _NOBODYS_URI)

    def _write(self, vm_id: str, how: Callable[[Metadata], Metadata]) -> None:
        for _ in range(_ATTEMPTS):
            record = self._vms.get(vm_id)
            if record is None or record.external:
                return
            metadata = how(record.metadata)
            self._set(vm_id, metadata.dump_bare(), VM_URI)
            if self._exchange(vm_id, record.metadata, metadata):
                return
        raise VmOperationFailed("its metadata are changed by too many at once")

    def _set(self, vm_id: str, text: str | None, uri: str) -> None:
        dom = self._connection.domain(vm_id)
        with translated(vm_id):
            flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
            if dom.isActive():
                flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
            dom.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, VM_PREFIX, uri, flags)

    def _exchange(self, vm_id: str, old: Metadata, new: Metadata) -> bool:
        """False when another write came between: then libvirt has only one of the two."""
        fine = True

        def exchanged(now: VmRecord) -> VmRecord:
            nonlocal fine
            fine = now.metadata is old
            return replace(now, metadata=new) if fine else now

        self._vms.change(vm_id, exchanged)
        return fine

    def refresh(self, vm_id: str, *, tell: tuple[str, ...] = ()) -> VmRecord | None:
        """Read the live devices again; tell: statistics to publish afterwards, `hash` among them.

        Raises: NoSuchVm, LibvirtUnavailable.
        """
        dom = self._connection.domain(vm_id)
        with translated(vm_id):
            domain = xml.parse(dom.XMLDesc(0))
        return self._vms.change(vm_id, lambda record: with_devices(record, domain), tell=tell)


def at_something(dom: Any) -> bool:
    """Then one more question may wait for half a minute.

    libvirtd tells that from memory, also while QEMU hangs; of what does not run it tells nothing.
    """
    try:
        return int(dom.controlInfo()[0]) in _AT_SOMETHING
    except libvirt.libvirtError:
        return False


def is_backed_up(dom: Any) -> bool:
    """Then what writes its memory, or moves it, would wait half a minute for the end of that, and be refused then.

    libvirtd tells that from memory.
    """
    try:
        return bool(dom.backupGetXMLDesc(0))
    except libvirt.libvirtError:
        return False


def with_devices(record: VmRecord, domain: Any) -> VmRecord:
    """The record with what a live XML says."""
    return replace(record, devices=domxml_parse.devices(domain, record.metadata, record.devices))
