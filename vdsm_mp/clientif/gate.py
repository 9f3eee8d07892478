# SPDX-License-Identifier: Apache-2.0
"""May this call go in? Not while the house starts (code 99), and only from whom it is allowed.

The house has started when every worker that owns verbs has been ready once; virt is ready when its VMs are
recovered. From then on a worker that is down keeps out only the calls that need it.
"""

import asyncio
from collections.abc import Collection

from vdsm_mp.api.errors import NotAllowed, StillStarting
from vdsm_mp.api.verb import VerbSpec
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.wire.tls import Peer, is_loopback

logger = log.named(__name__)

#: What a host asks of the other end of a migration.
PEER_VERBS = frozenset(
    {"Host.ping2", "Host.ping", "Host.getVMFullList", "VM.migrationCreate", "VM.destroy", "VM.refresh_disk"}
)


class Authorisation:
    """Optional: everything from the engine and from this host, migration's verbs from other hosts.

    engine_names: common names of the engine's certificate; empty = everybody may do everything, as in VDSM.
    """

    def __init__(self, engine_names: Collection[str] = ()) -> None:
        self._engine_names = frozenset(name.lower() for name in engine_names)

    def trusts(self, peer: Peer, address: str) -> bool:
        """Is it the engine, this host, or is nobody restricted?"""
        return not self._engine_names or is_loopback(address) or peer.common_name.lower() in self._engine_names


class Gate:
    """On the loop only. needed: the workers without which the house has not started."""

    def __init__(self, needed: Collection[str]) -> None:
        self._missing = set(needed)
        self._up: dict[str, int] = {}
        self._changed: dict[str, asyncio.Event] = {}

    @property
    def started(self) -> bool:
        return not self._missing

    @property
    def missing(self) -> Collection[str]:
        """Workers that have not been ready since the door opened."""
        return sorted(self._missing)

    def peer_changed(self, worker: str, up: bool) -> None:
        """The master's note."""
        if not up:
            self._up[worker] = -abs(self._up.get(worker, 0))
            return
        self._up[worker] = abs(self._up.get(worker, 0)) + 1
        if (waiting := self._changed.pop(worker, None)) is not None:
            waiting.set()
        if self._missing:
            self._missing.discard(worker)
            if not self._missing:
                logger.info("every worker is ready: calls are served")

    def refuses(self) -> Error | None:
        """Why no call at all goes in now; None when they do."""
        return StillStarting() if self._missing else None

    def forbids(self, spec: VerbSpec, trusted: bool, who: str) -> Error | None:
        """Why this caller may not call this verb; None when it may."""
        return None if trusted or spec.name in PEER_VERBS else NotAllowed(who, spec.name)

    def is_up(self, worker: str) -> bool:
        return self._up.get(worker, 0) > 0

    async def comes_back(self, worker: str, within_s: float) -> bool:
        """Wait until a worker becomes ready (again). False when it did not in time."""
        event = self._changed.setdefault(worker, asyncio.Event())
        try:
            async with asyncio.timeout(within_s):
                await event.wait()
        except TimeoutError:
            return False
        return True
