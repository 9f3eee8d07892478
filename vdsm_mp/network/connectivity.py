# SPDX-License-Identifier: Apache-2.0
"""Tells engines that the host's way out has changed by itself: a bond failed over, a dynamic address came or went.

Engines read the capabilities again then, so it is told only for what they would see, once for each change.
"""

import threading
from typing import Any

from vdsm_mp.api.events import HostConnectivityChanged
from vdsm_mp.api.ports import Publisher
from vdsm_mp.common.clock import notify_time
from vdsm_mp.network.state import State


class Connectivity:
    def __init__(self, publish: Publisher) -> None:
        self._publish = publish
        self._lock = threading.Lock()
        self._seen: Any = None

    def look(self, state: State) -> None:
        """Compare with the last look; the first one only remembers."""
        now = summary(state)
        with self._lock:
            before, self._seen = self._seen, now
        if before is not None and before != now:
            self._publish.publish(HostConnectivityChanged(notify_time=notify_time()))


def summary(state: State) -> Any:
    """What counts: the active port of each bond, and the addresses of devices that get them from a server."""
    bonds = {n: str(link.options.get("active_slave", "")) for n, link in state.links.items() if link.kind == "bond"}
    dynamic = {n: sorted(link.addresses) for n, link in state.links.items() if "4" in link.dynamic}
    return bonds, dynamic
