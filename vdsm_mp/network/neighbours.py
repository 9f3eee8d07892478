# SPDX-License-Identifier: Apache-2.0
"""What the switches at the other ends of the wires say of themselves (Host.getLldp).

Listens when somebody asks, and remembers for as long as the neighbour said: most of them speak every thirty seconds.
A NIC on which nobody spoke is not listened to again at once.
"""

import base64
import threading
from collections.abc import Callable, Iterable
from typing import Any

from vdsm_mp.api.ports import Root
from vdsm_mp.common.clock import mono_s
from vdsm_mp.network.state import State
from vdsm_mp.network.tlvs import Heard, heard

#: A little more than the usual pause between two frames.
LISTEN_S = 32
_SILENT_S = 60.0
#: As many as root listens to at a time.
_AT_ONCE = 64


class Neighbours:
    """Any thread; who comes while somebody listens waits for what is heard."""

    def __init__(
        self, root: Root, *, enabled: bool, clock: Callable[[], float] = mono_s, listen_s: int = LISTEN_S
    ) -> None:
        self._root = root
        self._enabled = enabled
        self._clock = clock
        self._listen_s = listen_s
        self._lock = threading.Lock()
        #: {NIC: (until when it counts, what was heard)}; None = nobody spoke.
        self._known: dict[str, tuple[float, Heard | None]] = {}

    def tell(self, state: State, nics: Iterable[str]) -> dict[str, dict[str, Any]]:
        """{NIC: {"enabled", "tlvs"}}. Takes up to LISTEN_S. Raises: what ports.Root says."""
        nics = sorted(nics)
        if self._enabled:
            with self._lock:
                self._known = {nic: known for nic, known in self._known.items() if nic in state.links}
                deaf = [nic for nic in nics if state.links[nic].carrier and not self._fresh(nic)]
                for at in range(0, len(deaf), _AT_ONCE):
                    self._listen(deaf[at : at + _AT_ONCE])
        return {nic: {"enabled": self._enabled, "tlvs": self._tlvs(nic)} for nic in nics}

    def _fresh(self, nic: str) -> bool:
        until, _ = self._known.get(nic, (0.0, None))
        return self._clock() < until

    def _tlvs(self, nic: str) -> list[dict[str, Any]]:
        _, what = self._known.get(nic, (0.0, None))
        return what.tlvs if what is not None and self._enabled and self._fresh(nic) else []

    def _listen(self, nics: list[str]) -> None:
        frames = self._root.do("lldp-hear", deadline_s=self._listen_s + 5, names=",".join(nics), seconds=self._listen_s)
        now = self._clock()
        for nic in nics:
            what = heard(base64.b64decode(frames[nic])) if nic in frames else None
            self._known[nic] = (now + (max(1, what.ttl_s) if what is not None else _SILENT_S), what)
