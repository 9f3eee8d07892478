# SPDX-License-Identifier: Apache-2.0
"""Guests that stand still because their storage failed go on when it is back, as each VM's own rule says."""

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.events import DomainValidityChanged
from vdsm_mp.api.internal import EndPausedVms
from vdsm_mp.api.ports import Background
from vdsm_mp.api.verb import handles
from vdsm_mp.common import clock, log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import machine
from vdsm_mp.virt.machine import Do, Exit, ExitReason, VmStatus
from vdsm_mp.virt.power import Power
from vdsm_mp.virt.records import VmRecord

logger = log.named(__name__)

#: Pauses that end with the storage's return only; ENOSPC ends with more space.
_HOPELESS = {"EIO", "EOTHER"}
_ERRORS = {"EIO", "EOTHER", "EPERM", "ENOSPC"}


class Resumer:
    """pause_limit_s: a VM whose rule is `kill` may have stood still for so long and still go on.

    After that its lease may have been taken by another host, where it may run already.
    """

    def __init__(self, power: Power, background: Background, pause_limit_s: float) -> None:
        self._power = power
        self._background = background
        self._pause_limit_s = pause_limit_s

    def storage_changed(self, event: DomainValidityChanged) -> None:
        """On the loop: only starts the work."""
        if not event.valid:
            return
        for record in self._power.vms.all():
            if _waits_for(record, event.sd_id):
                try:
                    self._background.start(f"resume vm={record.vm_id}", lambda vm_id=record.vm_id: self._resume(vm_id))  # type: ignore[misc]
                except Busy as error:
                    logger.warning("vm=%s is not resumed: %s", record.vm_id, error)

    def beat(self) -> None:
        """Nobody may have to wait for the storage of a VM that could run elsewhere already."""
        for record in self._power.vms.all():
            failed = record.life.status is VmStatus.PAUSED and record.life.pause_code in _HOPELESS
            if failed and not record.external and self._too_long(record):
                self._end(record)

    def _too_long(self, record: VmRecord) -> bool:
        stood_s = clock.mono_s() - (record.life.paused_mono or clock.mono_s())
        return _rule(record) == "kill" and stood_s > self._pause_limit_s

    def _end(self, record: VmRecord) -> None:
        logger.warning("vm=%s stood still for more than %d s and ends", record.vm_id, self._pause_limit_s)
        end = Exit.because(ExitReason.DESTROYED_ON_PAUSE_TIMEOUT)
        self._power.vms.move(record.vm_id, lambda life: machine.go_down(life, end, (Do.DESTROY,)))

    def _resume(self, vm_id: str) -> None:
        record = self._power.vms.get(vm_id)
        if record is None or record.life.status is not VmStatus.PAUSED:
            return
        if _rule(record) == "leave_paused":
            return
        if self._too_long(record):
            self._end(record)
            return
        try:
            self._power.resume(vm_id)
        except Error as error:
            logger.warning("vm=%s could not be resumed: %s", vm_id, error)
        else:
            logger.info("vm=%s goes on, its storage is back", vm_id)


def _rule(record: VmRecord) -> str:
    return str(record.metadata.get("resumeBehavior", "auto_resume"))


def _waits_for(record: VmRecord, sd_id: str) -> bool:
    if record.life.status is not VmStatus.PAUSED or record.life.pause_code not in _ERRORS:
        return False
    return any(drive.ids is not None and drive.ids.sd_id == sd_id for drive in record.devices.drives)


@handles(EndPausedVms)
def end_paused_vms(resumer: Resumer, ask: EndPausedVms) -> None:
    resumer.beat()
