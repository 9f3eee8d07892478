# SPDX-License-Identifier: Apache-2.0
"""Cards that get a copy of all that passes some networks. Which networks stands in the metadata of the card.

The network worker is told of all such cards of this host, each time that one comes or goes, and after a restart of
either of us: what a death left behind goes away with that.
"""

import threading
from collections.abc import Callable
from typing import Any

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_virt import InvalidVmParameter
from vdsm_mp.api.internal import MirrorNetworks
from vdsm_mp.api.ports import Background, Caller
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt.machine import UNSTARTED, Do, VmStatus
from vdsm_mp.virt.patience import COMES_BACK_S, PEER_AWAY, patiently
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

#: The same key in the data of the card, and in what engines ask.
KEY = "portMirroring"
_ASK_S = 20.0
#: Others may be asking; each of them is over after _ASK_S.
_TURN_S = 40.0
_AGAIN_S = 2.0
_JOB = "mirror networks"
#: Its devices are known by the names they have on another host, or have none yet.
_NOT_HERE = {VmStatus.DOWN, VmStatus.MIGRATION_DESTINATION, *UNSTARTED}

Cards = dict[str, list[str]]


def wanted(given: Any) -> tuple[str, ...]:
    """Networks, from a client or from metadata. Raises: InvalidVmParameter."""
    if given is None:
        return ()
    if not isinstance(given, list | tuple) or not all(isinstance(name, str) and name for name in given):
        raise InvalidVmParameter(f"{KEY} {given!r} is no list of networks")
    return tuple(given)


class Mirrors:
    """Tells the network worker. Any thread that may wait; `performed` and `changed` never do."""

    def __init__(self, caller: Caller, vms: Vms, background: Background) -> None:
        self._caller = caller
        self._vms = vms
        self._background = background
        self._turn = threading.Lock()
        #: What the network worker knows; None = anything.
        self._told: Cards | None = None
        self._starting: set[str] = set()

    def performed(self, record: VmRecord, what: Do) -> None:
        """A VM has come or gone."""
        if what in (Do.TELL_RUNNING, Do.RELEASE):
            self._starting.discard(record.vm_id)
            self.changed()

    def network_is_back(self) -> None:
        """It has restarted, and knows nothing."""
        self._told = None
        self.changed()

    def changed(self) -> None:
        """Cards may have come or gone. Nothing to do on a host where none mirrors, and none did."""
        if self._told != self._cards():
            self._soon()

    def ensure(self, vm_id: str, failed: Callable[[str], Error]) -> None:
        """The cards of this VM have what they are to have when it returns. Raises: what `failed` makes.

        A network worker that is being replaced is waited for: no VM has to end for that.
        """
        record = self._vms.get(vm_id)
        cards = [nic for nic in record.devices.nics if nic.mirrors] if record is not None else []
        if blind := [nic.mac for nic in cards if not nic.name]:
            raise failed(f"card {blind[0]} is none that a network can be mirrored to")
        if cards:
            self._starting.add(vm_id)
        elif self._told == self._cards():
            return
        try:
            faults = patiently(self._tell, COMES_BACK_S, away=PEER_AWAY, hurry=lambda: self._background.draining)
        except Error as error:
            raise failed(f"its networks are not mirrored: {error}") from error
        for network in sorted({network for nic in cards for network in nic.mirrors}):
            if network in faults:
                raise failed(f"network {network} is not mirrored: {faults[network]}")

    def _cards(self) -> Cards:
        found: Cards = {}
        for record in self._vms.all():
            here = record.life.status not in _NOT_HERE or record.vm_id in self._starting
            if here and not record.external:
                for nic in record.devices.nics:
                    for network in nic.mirrors if nic.name else ():
                        found.setdefault(network, []).append(nic.name)
        return {network: sorted(set(names)) for network, names in found.items()}

    def _tell(self) -> dict[str, str]:
        if not self._turn.acquire(timeout=_TURN_S):
            raise Busy("the network worker")
        try:
            cards = self._cards()
            self._told = None
            faults: dict[str, str] = self._caller.ask(MirrorNetworks(cards=cards), deadline_s=_ASK_S)
            self._told = cards
            return faults
        finally:
            self._turn.release()

    def _soon(self) -> None:
        try:
            self._background.start(_JOB, self._again, key=_JOB)
        except Busy:
            self._background.later(_AGAIN_S, _JOB, self._again, key=_JOB)

    def _again(self) -> None:
        if self._told == self._cards():
            return
        try:
            self._tell()
        except Error as error:
            logger.info("the network worker is told of mirrors again: %s", error)
            if not self._background.draining:
                self._background.later(_AGAIN_S, _JOB, self._again, key=_JOB)
