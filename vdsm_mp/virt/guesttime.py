# SPDX-License-Identifier: Apache-2.0
"""The clock of a guest that stood still: set to the host's by its agent, as soon as that answers."""

from vdsm_mp.api.ports import Background
from vdsm_mp.common import clock, log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.agent import Turns
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

_ANSWER_S = 5
#: A guest that slept for long has to find itself first.
_TRIES = 12
_AGAIN_S = 5.0


class GuestTime:
    """Any thread."""

    def __init__(self, connection: Connection, vms: Vms, turns: Turns, background: Background) -> None:
        self._connection = connection
        self._vms = vms
        self._turns = turns
        self._background = background

    def set_soon(self, vm_id: str, tries: int = _TRIES) -> None:
        """A guest without an agent keeps the time it has."""
        record = self._vms.get(vm_id)
        if record is not None and record.devices.agent_channel and not record.external:
            self._background.later(
                _AGAIN_S if tries < _TRIES else 0.0, f"set the time of vm={vm_id}", lambda: self._set(vm_id, tries)
            )

    def _set(self, vm_id: str, tries: int) -> None:
        record = self._vms.get(vm_id)
        if record is None or record.life.status is not VmStatus.UP:
            return
        why = "its agent is not there"
        if record.devices.agent_connected:
            try:
                with self._turns.turn(self._connection, vm_id, _ANSWER_S) as dom, translated(vm_id):
                    dom.setTime(_now(), 0)
            except Error as error:
                why = str(error)
            else:
                logger.info("vm=%s its clock is set", vm_id)
                return
        if tries > 1:
            self.set_soon(vm_id, tries - 1)
        else:
            logger.warning("vm=%s its clock is not set: %s", vm_id, why)


def _now() -> dict[str, int]:
    seconds, rest = divmod(clock.wall_s(), 1)
    return {"seconds": int(seconds), "nseconds": int(rest * 1e9)}
