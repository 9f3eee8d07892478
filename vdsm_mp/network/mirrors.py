# SPDX-License-Identifier: Apache-2.0
"""Networks whose traffic guests' cards get a copy of. Which cards, the virt worker says, all of them each time.

What is in force is read from the kernel, so nothing is lost or left behind by whoever died. A bridge that was made anew
gets its copies again with the next look.
"""

import json
import threading
from collections.abc import Iterable, Mapping

from vdsm_mp.api.ports import Root
from vdsm_mp.common import command, log
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.errors import Error
from vdsm_mp.network.state import State
from vdsm_mp.priv.mirror import DIRECTIONS, copies, queued, shows

logger = log.named(__name__)

_TC = "/usr/sbin/tc"
_READ_S = 5.0
_SET_S = 20.0
#: What could not be done may have been root's death, or a card that is not there yet.
_AGAIN_S = 5.0


class Mirrors:
    """Any thread; one change at a time."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._wanted: dict[str, frozenset[str]] = {}
        self._seen: State | None = None
        self._faults: dict[str, str] = {}
        self._again_mono = 0.0

    def problems(self) -> list[str]:
        """What an operator should look at."""
        return [f"network {name} is not mirrored: {why}" for name, why in sorted(self._faults.items())]

    def want(self, state: State, cards: Mapping[str, Iterable[str]]) -> dict[str, str]:
        """cards: {network: tap devices}; all others get nothing from now on. Returns {network: why it is not so}.

        Raises: CommandFailed, CommandOverdue; what has been done by then stays.
        """
        with self._lock:
            self._wanted = {network: frozenset(names) for network, names in cards.items() if names}
            out = command.run([_TC, "qdisc", "show"], deadline_s=_READ_S).out.decode(errors="replace")
            return self._bring(state, self._wanted.keys() | (queued(out) & state.links.keys()))

    def look(self, state: State) -> None:
        """One beat; `state` is the same object as long as the kernel told of no change."""
        again = self._faults and mono_s() >= self._again_mono
        if (state is self._seen and not again) or not self._lock.acquire(blocking=False):
            return
        try:
            self._bring(state, self._wanted.keys() | self._faults.keys())
        finally:
            self._lock.release()

    def _bring(self, state: State, networks: Iterable[str]) -> dict[str, str]:
        faults = {}
        for network in sorted(networks):
            cards = self._wanted.get(network, frozenset())
            there = frozenset(card for card in cards if card in state.links)
            if network not in state.links:
                if cards:
                    faults[network] = "it does not exist on this host"
                continue
            if missing := sorted(cards - there):
                faults[network] = f"there is no card {', '.join(missing)}"
            try:
                if _copied(network) != [there] * len(DIRECTIONS):
                    self._root.do("mirror-set", deadline_s=_SET_S, bridge=network, cards=",".join(sorted(there)))
                    logger.info("network %s is mirrored to %s", network, ", ".join(sorted(there)) or "nobody")
            except Error as error:
                faults[network] = str(error)
        for network in faults.keys() - self._faults.keys():
            logger.error("network %s is not mirrored: %s", network, faults[network])
        self._faults, self._seen, self._again_mono = faults, state, mono_s() + _AGAIN_S
        return faults


def _copied(network: str) -> list[frozenset[str]]:
    """Cards that have a copy, for each direction; "*" for one that is gone."""
    found = []
    for direction in DIRECTIONS:
        out = command.run(shows(network, direction), deadline_s=_READ_S).out
        found.append(frozenset(copies(row for row in json.loads(out or b"[]") if row).values()))
    return found
