# SPDX-License-Identifier: Apache-2.0
"""Freeze and thaw the guest's file systems, by its agent."""

import libvirt

from vdsm_mp.api.errors_virt import FreezeFailed, NoGuestAgent, ThawFailed
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_blocks import FreezeVm, ThawVm
from vdsm_mp.common import log
from vdsm_mp.virt.connection import Connection, translate
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

_NO_AGENT = (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED, libvirt.VIR_ERR_OPERATION_UNSUPPORTED)


def freeze(connection: Connection, vm_id: str) -> None:
    """Raises: NoGuestAgent (nothing is frozen), FreezeFailed."""
    try:
        count = connection.domain(vm_id).fsFreeze()
    except libvirt.libvirtError as error:
        if error.get_error_code() in _NO_AGENT or "agent is not" in str(error):
            raise NoGuestAgent(error.get_error_message() or "") from error
        raise translate(error, vm_id, FreezeFailed) from error
    logger.info("vm=%s %d file systems are frozen", vm_id, count)


def thaw(connection: Connection, vm_id: str) -> None:
    """Raises: NoGuestAgent, ThawFailed (they may be frozen still)."""
    try:
        connection.domain(vm_id).fsThaw()
    except libvirt.libvirtError as error:
        if error.get_error_code() in _NO_AGENT or "agent is not" in str(error):
            raise NoGuestAgent(error.get_error_message() or "") from error
        raise translate(error, vm_id, ThawFailed) from error
    logger.info("vm=%s its file systems are thawed", vm_id)


@handles(FreezeVm)
def freeze_vm(connection: Connection, vms: Vms, ask: FreezeVm) -> None:
    vms.running(ask.vm_id, "freeze")
    freeze(connection, ask.vm_id)


@handles(ThawVm)
def thaw_vm(connection: Connection, vms: Vms, ask: ThawVm) -> None:
    vms.running(ask.vm_id, "thaw")
    thaw(connection, ask.vm_id)
