# SPDX-License-Identifier: Apache-2.0
"""What happens when somebody leaves a VM's console: nothing, or what the engine said with the ticket.

A guest is shut down or rebooted; its screen is locked or its user logged off by the old oVirt agent, where it still has
one. Whoever is back within a moment, after a viewer was resized for example, changes nothing.
"""

from collections.abc import Callable

from vdsm_mp.api.ports import Background
from vdsm_mp.api.vm import ShutdownVm
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import viewers
from vdsm_mp.virt.graphics import DELAY_MIN, ON_DISCONNECT
from vdsm_mp.virt.power import Power, shutdown

logger = log.named(__name__)

_BACK_S = 2.0
#: What the agent is told.
_MESSAGES = {"LOCK_SCREEN": "lock-screen", "LOGOUT": "log-off"}
_LONGEST_MIN = 24 * 60


class Consoles:
    """In libvirt's event thread: only starts the work. tell(vm_id, message): to the old agent."""

    def __init__(self, power: Power, background: Background, tell: Callable[[str, str], None]) -> None:
        self._power = power
        self._background = background
        self._tell = tell

    def left(self, vm_id: str) -> None:
        """The last that was known is gone."""
        record = self._power.vms.get(vm_id)
        if record is not None and record.metadata.get(ON_DISCONNECT) in ("SHUTDOWN", "REBOOT", *_MESSAGES):
            self._background.later(_BACK_S, f"console of {vm_id} was left", lambda: self._act(vm_id))

    def _act(self, vm_id: str) -> None:
        record = self._power.vms.get(vm_id)
        if record is None or viewers.watched(record):
            return
        action = record.metadata.get(ON_DISCONNECT)
        delay_s = 60 * min(_LONGEST_MIN, int(record.metadata.number(DELAY_MIN) or 0))
        logger.info("vm=%s its console was left: %s", vm_id, action)
        try:
            if action in _MESSAGES:
                self._tell(vm_id, _MESSAGES[str(action)])
                return
            shutdown(self._power, ShutdownVm(vm_id=vm_id, delay=delay_s, message="", reboot=action == "REBOOT"))
        except Error as error:
            say = logger.info if action in _MESSAGES else logger.warning
            say("vm=%s what was to follow does not: %s", vm_id, error)
