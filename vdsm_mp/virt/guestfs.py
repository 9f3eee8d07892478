# SPDX-License-Identifier: Apache-2.0
"""Freeze and thaw the guest's file systems, by its agent."""

from collections.abc import Callable
from typing import Any

import libvirt

from vdsm_mp.api.errors_virt import FreezeFailed, NoGuestAgent, ThawFailed
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_blocks import FreezeVm, ThawVm
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.connection import translate
from vdsm_mp.virt.devices import Devices

logger = log.named(__name__)

_NO_AGENT = (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_AGENT_UNSYNCED, libvirt.VIR_ERR_OPERATION_UNSUPPORTED)
#: Freezing waits for what the guest has to write.
_FREEZE_S = 60
_UNDO_S = 5


def freeze(devices: Devices, vm_id: str, within_s: int = _FREEZE_S) -> None:
    """Raises: NoGuestAgent, FreezeFailed; then nothing is frozen, unless the agent died over it. LibvirtUnavailable
    does not tell.
    """
    with devices.turns.turn(devices.connection, vm_id, within_s) as dom:
        try:
            count = dom.fsFreeze()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_AGENT_UNRESPONSIVE:
                _take_back(dom, vm_id)
            raise _ours(error, vm_id, FreezeFailed) from error
    logger.info("vm=%s %d file systems are frozen", vm_id, count)


def thaw(devices: Devices, vm_id: str, within_s: int = _FREEZE_S) -> None:
    """Raises: NoGuestAgent, ThawFailed (they may be frozen still)."""
    with devices.turns.turn(devices.connection, vm_id, within_s) as dom:
        try:
            dom.fsThaw()
        except libvirt.libvirtError as error:
            raise _ours(error, vm_id, ThawFailed) from error
    logger.info("vm=%s its file systems are thawed", vm_id)


def _take_back(dom: Any, vm_id: str) -> None:
    """An agent that answers too late may have frozen them all the same, and nobody would thaw them."""
    try:
        dom.agentSetResponseTimeout(_UNDO_S, 0)
        dom.fsThaw()
    except libvirt.libvirtError as error:
        logger.info("vm=%s a freeze without answer is not taken back: %s", vm_id, error)


def _ours(error: libvirt.libvirtError, vm_id: str, failed: Callable[[str], Error]) -> Error:
    if error.get_error_code() in _NO_AGENT or "agent is not" in str(error):
        return NoGuestAgent(error.get_error_message() or "")
    return translate(error, vm_id, failed)


@handles(FreezeVm)
def freeze_vm(devices: Devices, ask: FreezeVm) -> None:
    devices.vms.running(ask.vm_id, "freeze", even_busy=True)
    freeze(devices, ask.vm_id)


@handles(ThawVm)
def thaw_vm(devices: Devices, ask: ThawVm) -> None:
    devices.vms.running(ask.vm_id, "thaw", even_busy=True)
    thaw(devices, ask.vm_id)
