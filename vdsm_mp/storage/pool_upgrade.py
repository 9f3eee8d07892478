# SPDX-License-Identifier: Apache-2.0
"""Bringing the domains of a pool to one format: the master at once, the others each when it is seen to be valid.

Work of the SPM; ends with the role. A domain that fails keeps its old version, in which it can be used, and stays
pending: it is tried again every minute, and when its monitor next says that it is valid.
"""

import logging
import threading
from functools import partial

from vdsm_mp.api.errors_storage import PoolUpgradeInProgress, StorageAccessFailed
from vdsm_mp.api.ports import Background, Timer
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

#: A file that cannot be read is no verdict about its domain, which may be valid all the time.
_AGAIN_S = 60.0


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
        #: {sd_id: (pool id, host id, version)}
        self._pending: dict[str, tuple[str, int, int]] = {}
        self._timers: dict[str, Timer] = {}
        monitors.on_verdict.append(self._on_verdict)

    def master(self, master: FileDomain, target: int) -> None:
        """Its SDM lease is ours. Raises: what upgrading raises."""
        upgrade(master, target)

    def now_or_later(self, domain: FileDomain, state: PoolState, target: int) -> None:
        """A file that cannot be read keeps nobody from using the rest of the domain: it is upgraded later then.

        Its SDM lease is ours. Raises: what upgrading raises otherwise.
        """
        try:
            upgrade(domain, target)
        except StorageAccessFailed as e:
            _log.error("domain %s is used with its old version: %s", domain.sd_id, e)
            with self._lock:
                self._pending[domain.sd_id] = (state.pool_id, state.host_id, target)
            self._again(domain.sd_id)

    def refuse_while_pending(self, pool_id: str) -> None:
        """Raises: PoolUpgradeInProgress."""
        pending = self.pending()
        if pending:
            raise PoolUpgradeInProgress(pool_id, f"{len(pending)} domains are still being upgraded")

    def begin(self, state: PoolState, target: int) -> None:
        """Upgrade the other active domains in the background."""
        with self._lock:
            for sd_id, status in state.domains.items():
                if status == ACTIVE and sd_id != state.master_sd_id:
                    self._pending[sd_id] = (state.pool_id, state.host_id, target)
            begun = list(self._pending)
        for sd_id in begun:
            watch = self._monitors.watch_of(sd_id)
            if watch is not None and watch.last is not None and watch.valid:
                self._on_verdict(sd_id, True)

    def cancel(self) -> None:
        """The role is gone; what runs ends at its own pace, under the lease of its own domain."""
        with self._lock:
            self._pending.clear()
            timers, self._timers = list(self._timers.values()), {}
        for timer in timers:
            timer.cancel()

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
            self._again(sd_id)
            return
        with self._lock:
            if self._pending.get(sd_id) == found:
                del self._pending[sd_id]

    def _again(self, sd_id: str) -> None:
        with self._lock:
            if sd_id not in self._pending:  # the role has gone meanwhile
                return
            if (before := self._timers.pop(sd_id, None)) is not None:
                before.cancel()
            name = f"upgrade {sd_id}"
            self._timers[sd_id] = self._background.later(_AGAIN_S, name, lambda: self._one(sd_id), key=name)

    def _upgrade(self, sd_id: str, pool_id: str, host_id: int, target: int) -> None:
        domain = self._domains.find(sd_id)
        if domain.refresh().version >= target or domain.meta.cls is not DomainClass.DATA:
            return
        lock = self._locks.of(domain)
        # The master's, which is the role itself: it is not given up, and moves nowhere, while the pool is claimed.
        is_master = lock.holds(lock.sdm)
        pool = (("pool", pool_id),) if is_master else ()
        with self._resources.claim("StoragePool.upgrade", exclusive=(*pool, ("domain", sd_id))):
            if sd_id not in self._pending or lock.holds(lock.sdm) != is_master:
                raise PoolUpgradeInProgress(pool_id, f"the role of domain {sd_id} has changed")
            if is_master:
                upgrade(domain, target)
            elif self._is_watched(sd_id):  # else it was deactivated meanwhile, and is upgraded when that ends
                with sdm_held(lock, host_id, partial(self._is_watched, sd_id)):
                    upgrade(domain, target)
        self._monitors.check_soon(sd_id)
