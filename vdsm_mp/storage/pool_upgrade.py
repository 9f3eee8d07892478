# SPDX-License-Identifier: Apache-2.0
"""Bringing the domains of a pool to one format: the master at once, the others each when it is seen to be valid.

Work of the SPM; ends with the role. A domain that fails stays pending and is tried again when its monitor next says
that it is valid.
"""

import logging
import threading
from functools import partial

from vdsm_mp.api.errors_storage import PoolUpgradeInProgress
from vdsm_mp.api.ports import Background
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import DomainClass
from vdsm_mp.storage.domain_upgrade import upgrade
from vdsm_mp.storage.locks import Locks
from vdsm_mp.storage.monitors import Monitors
from vdsm_mp.storage.pool_state import ACTIVE, PoolState
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.sdm_lease import sdm_held

_log = logging.getLogger("storage.upgrade")


class Upgrades:
    def __init__(
        self, domains: Domains, locks: Locks, monitors: Monitors, resources: Resources, background: Background
    ) -> None:
        self._domains = domains
        self._locks = locks
        self._monitors = monitors
        self._resources = resources
        self._background = background
        self._lock = threading.Lock()
        self._pending: dict[str, tuple[int, int]] = {}
        monitors.on_verdict.append(self._on_verdict)

    def master(self, master: FileDomain, target: int) -> None:
        """Its SDM lease is ours. Raises: what upgrading raises."""
        upgrade(master, target)

    def refuse_while_pending(self, pool_id: str) -> None:
        """Raises: PoolUpgradeInProgress."""
        pending = self.pending()
        if pending:
            raise PoolUpgradeInProgress(pool_id, f"{len(pending)} domains are still being upgraded")

    def begin(self, state: PoolState, target: int) -> None:
        """Upgrade the other active domains in the background. Raises: PoolUpgradeInProgress."""
        self.refuse_while_pending(state.pool_id)
        with self._lock:
            for sd_id, status in state.domains.items():
                if status == ACTIVE and sd_id != state.master_sd_id:
                    self._pending[sd_id] = (state.host_id, target)
            begun = list(self._pending)
        for sd_id in begun:
            watch = self._monitors.watch_of(sd_id)
            if watch is not None and watch.last is not None and watch.valid:
                self._on_verdict(sd_id, True)

    def cancel(self) -> None:
        """The role is gone; what runs ends at its own pace, under the lease of its own domain."""
        with self._lock:
            self._pending.clear()

    def pending(self) -> list[str]:
        """One that was deactivated meanwhile is upgraded by whatever activates it."""
        return sorted(sd_id for sd_id in list(self._pending) if self._is_watched(sd_id))

    def _is_watched(self, sd_id: str) -> bool:
        return self._monitors.watch_of(sd_id) is not None

    def _on_verdict(self, sd_id: str, valid: bool) -> None:
        if valid and sd_id in self._pending:
            # Not `start`: a check whose listener fails would call the domain invalid, and begin comes here, too.
            self._background.later(0.0, f"upgrade {sd_id}", lambda: self._one(sd_id), key=f"upgrade {sd_id}")

    def _one(self, sd_id: str) -> None:
        found = self._pending.get(sd_id)
        if found is None:
            return
        try:
            self._upgrade(sd_id, *found)
        except Error as e:
            _log.error("domain %s is not upgraded: %s", sd_id, e)
            return
        with self._lock:
            self._pending.pop(sd_id, None)

    def _upgrade(self, sd_id: str, host_id: int, target: int) -> None:
        domain = self._domains.find(sd_id)
        if domain.refresh().version == target or domain.meta.cls is not DomainClass.DATA:
            return
        with self._resources.claim("StoragePool.upgrade", exclusive=(("domain", sd_id),)):
            if self._is_watched(sd_id):  # else it was deactivated meanwhile, and is upgraded when that ends
                with sdm_held(self._locks.of(domain), host_id, partial(self._is_watched, sd_id)):
                    upgrade(domain, target)
        self._monitors.check_soon(sd_id)
