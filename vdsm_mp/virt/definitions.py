# SPDX-License-Identifier: Apache-2.0
"""The definition of a VM in libvirt: it is there before the VM is, and until somebody destroys the VM."""

from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import CannotCreateVm, VmExists
from vdsm_mp.common import log, xml
from vdsm_mp.virt import domxml_build
from vdsm_mp.virt.calling import under_way
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.records import VmRecord

logger = log.named(__name__)

UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)


def define_placeholder(connection: Connection, record: VmRecord, memory_kib: int) -> None:
    """What survives us from the answer to VM.create on. Raises: VmExists, CannotCreateVm, LibvirtUnavailable."""
    conn = connection.get()
    with translated(record.vm_id, CannotCreateVm):
        for dom in _same(conn, record):
            if dom.isActive():
                raise VmExists(record.vm_id)
            dom.undefineFlags(UNDEFINE)
        holder = domxml_build.placeholder(
            record.vm_id, record.name, memory_kib, kvm=record.devices.kvm, metadata=record.metadata.element()
        )
        conn.defineXML(xml.dump(holder))


def _same(conn: Any, record: VmRecord) -> list[Any]:
    """Domains left behind under the same id or name."""
    found: list[Any] = []
    for look, what in ((conn.lookupByUUIDString, record.vm_id), (conn.lookupByName, record.name)):
        try:
            dom = look(what)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
        else:
            if all(dom.UUIDString() != other.UUIDString() for other in found):
                found.append(dom)
    return found


def end_domain(connection: Connection, vm_id: str) -> None:
    """Destroy if it runs, undefine if it is defined. What is gone already is fine."""
    try:
        with under_way():
            dom = connection.get().lookupByUUIDString(vm_id)
            if dom.isActive():
                dom.destroy()
            if dom.isPersistent():
                dom.undefineFlags(UNDEFINE)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            logger.warning("vm=%s could not be cleaned up: %s", vm_id, error)
