# SPDX-License-Identifier: Apache-2.0
"""Moving the master role of a pool to another domain: with a living SPM (migrate), and without one (reconstruct).

A migration copies `master/` first, then makes the new domain master in one write, the point of no return, and only
then demotes the old one. Interrupted before it, the old one is still master; after it, the old one is repaired by
the next SPM (`repair_roles`).
"""

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_storage import (
    DomainNotActive,
    DomainNotInPool,
    NotSpm,
    WrongMaster,
)
from vdsm_mp.api.ports import Background
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import Role
from vdsm_mp.storage.domain_metadata import (
    DomainMetadata,
    LeaseParameters,
    PoolMetadata,
    decode_pool,
    status_word,
    with_pool,
    without_pool_keys,
)
from vdsm_mp.storage.domain_upgrade import upgrade
from vdsm_mp.storage.locks import ClusterLock, Locks
from vdsm_mp.storage.master_tree import copy, empty
from vdsm_mp.storage.pool import Pools
from vdsm_mp.storage.pool_members import check_can_be_master
from vdsm_mp.storage.pool_state import ACTIVE, PoolState
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.sdm_lease import sdm_held
from vdsm_mp.storage.spm import TASKS_PATH
from vdsm_mp.tasks.registry import Tasks
from vdsm_mp.tasks.store import TaskStore

_log = logging.getLogger("storage.pool")

VMS_PATH = "master/vms"
_REPAIR_AFTER_S = 10.0


class MasterMoves:
    def __init__(
        self,
        domains: Domains,
        locks: Locks,
        pools: Pools,
        tasks: Tasks,
        background: Background,
        is_spm: Callable[[], bool],
        follow: Callable[[FileDomain], None],
    ) -> None:
        """follow: called when the master has moved, while this host has the leases of both."""
        self._domains = domains
        self._locks = locks
        self._pools = pools
        self._tasks = tasks
        self._background = background
        self._is_spm = is_spm
        self._follow = follow
        #: {sd_id: its lock, this host's id} of those that were master, or were about to be, and have not been left in
        #: order yet.
        self._unfinished: dict[str, tuple[ClusterLock, int]] = {}
        #: No domain is left in order while it is made master.
        self._moving = threading.Lock()

    def migrate(self, state: PoolState, new_master_id: str, master_version: int) -> PoolState:
        """This host is SPM and stays it. The caller holds the pool and both domains.

        Raises: DomainNotInPool, DomainNotActive, IsoCannotBeMaster, BackupCannotBeMaster, lock and storage errors;
        the old master is still master then.
        """
        with self._moving:
            return self._migrate(state, new_master_id, master_version)

    def _migrate(self, state: PoolState, new_master_id: str, master_version: int) -> PoolState:
        status = state.domains.get(new_master_id)
        if status is None:
            raise DomainNotInPool(new_master_id, f"it is not attached to pool {state.pool_id}")
        if status != ACTIVE:
            raise DomainNotActive(new_master_id, f"it is {status} and cannot become master")
        old, new = self._pools.master(state), self._domains.find(new_master_id)
        check_can_be_master(state.pool_id, new.refresh())
        version = old.refresh().version
        lock = self._acquire(state, old, new)
        try:
            upgrade(new, version)
            self._copy_tree(old, new)
            self._tasks.begin_move(TaskStore(new.io, TASKS_PATH, store=new.io.path_of(TASKS_PATH)))
            self._require_lease(state, old)
            new.change(lambda meta: self._promoted(meta, old.meta, state, master_version))
        except Error:
            self._tasks.cancel_move()
            # It may say Master, with tasks of today, although writing that failed: who made it master some day, because
            # the old one is lost, would undo what is done by then.
            self._demote(new, state.host_id)
            if lock.holds(lock.sdm):
                lock.release(lock.sdm)
            raise
        self._unfinished.pop(new.sd_id, None)
        after = self._become(state, new, master_version)
        self._follow(new)
        self._demote(old, state.host_id)
        return after

    def _acquire(self, state: PoolState, old: FileDomain, new: FileDomain) -> ClusterLock:
        """Take the lease of the new master.

        Meanwhile another host may have been SPM, and made it master before us: then nothing of it may be touched.
        """
        lock = self._locks.of(new)
        lock.wait_host_id(state.host_id)
        lock.acquire(lock.sdm, state.host_id)
        try:
            self._require_lease(state, old)
        except Error:
            lock.release(lock.sdm)
            raise
        return lock

    def _require_lease(self, state: PoolState, old: FileDomain) -> None:
        """What we know of the role, and another lease, prove nothing: it may have gone. Raises: NotSpm, …"""
        lock = self._locks.of(old)
        if not lock.holds(lock.sdm):
            raise NotSpm(state.pool_id, f"the lease of domain {old.sd_id} is lost")

    def _become(self, state: PoolState, new: FileDomain, master_version: int) -> PoolState:
        after = msgspec.structs.replace(state, master_sd_id=new.sd_id, master_version=master_version)
        self._pools.replace_state(after)
        self._tasks.end_move()
        _log.info("pool %s: master is %s, version %d", state.pool_id, new.sd_id, master_version)
        return after

    def _promoted(
        self, meta: DomainMetadata, old: DomainMetadata, state: PoolState, master_version: int
    ) -> DomainMetadata:
        meta = replace(meta, role=Role.MASTER, lease=old.lease)
        if state.memory:
            return meta
        return with_pool(meta, replace(decode_pool(old.sd_id, old.pairs), master_version=master_version))

    def _demote(self, old: FileDomain, host_id: int) -> None:
        """What fails here is done later; the role has moved already."""
        self._unfinished[old.sd_id] = self._locks.of(old), host_id
        try:
            self._leave(old)
        except Error as e:
            _log.error("domain %s is not demoted from master yet: %s", old.sd_id, e)
            self._repair_later(old.sd_id)

    def _leave(self, old: FileDomain) -> None:
        """Its tasks are those of the new master: left behind they would be undone by whoever makes it master again."""
        _make_regular(old)
        for path in (VMS_PATH, TASKS_PATH):
            empty(old, path)
        lock = self._locks.of(old)
        if lock.holds(lock.sdm):
            lock.release(lock.sdm)
        self._unfinished.pop(old.sd_id, None)

    def _repair_later(self, sd_id: str) -> None:
        self._background.later(_REPAIR_AFTER_S, f"demote {sd_id}", lambda: self._repair(sd_id))

    def _copy_tree(self, old: FileDomain, new: FileDomain) -> None:
        """All but the tasks that are known, which change meanwhile."""
        new.make_master_tree()
        if not new.meta.kind.is_local:
            new.make_mailboxes()
        for path in (VMS_PATH, TASKS_PATH):
            empty(new, path)
        copy(old, new, VMS_PATH)
        aside = self._tasks.set_aside()
        if aside:
            copy(old, new, TASKS_PATH, aside)

    def repair_roles(self, state: PoolState) -> None:
        """As the SPM: an active domain that still says Master, and is not, says Regular again."""
        for sd_id, status in state.domains.items():
            if status != ACTIVE or sd_id == state.master_sd_id:
                continue
            self._repair(sd_id)

    def on_verdict(self, sd_id: str, valid: bool) -> None:
        """A domain came back: it may have missed that it is master no more."""
        state = self._pools.state
        if valid and self._is_spm() and state is not None and sd_id != state.master_sd_id:
            # Not `start`: a check whose listener fails would call the domain invalid.
            name = f"look at the role of {sd_id}"
            self._background.later(0.0, name, lambda: self._repair(sd_id), key=f"role {sd_id}")

    def _repair(self, sd_id: str) -> None:
        # Not waited for: a move may wait minutes for a host id, and as many threads as domains come back meanwhile.
        if not self._moving.acquire(blocking=False):
            self._repair_later(sd_id)
            return
        try:
            self._repair_now(sd_id)
        finally:
            self._moving.release()

    def _repair_now(self, sd_id: str) -> None:
        state = self._pools.state
        if not self._is_spm():
            self._let_go(sd_id, state)
            return
        if state is None or sd_id not in state.domains or sd_id == state.master_sd_id:
            return
        active = state.domains[sd_id] == ACTIVE
        try:
            if sd_id in self._unfinished:
                domain = self._domains.find(sd_id)
                self._require_lease(state, self._pools.master(state))
                self._leave(domain)
                if not active:  # its monitor could not give it back
                    self._locks.of(domain).release_host_id(state.host_id)
            elif not active or not self._made_regular(state, sd_id):
                return
            _log.warning("domain %s: role repaired to Regular", sd_id)
        except Error as e:
            _log.warning("domain %s: its role is not known yet: %s", sd_id, e)
            if sd_id in self._unfinished:
                self._repair_later(sd_id)

    def _let_go(self, sd_id: str, state: PoolState | None) -> None:
        """The role is gone, and what is left to do the next SPM's, who needs the lease of the domain for it."""
        if sd_id not in self._unfinished or (state is not None and sd_id == state.master_sd_id):
            return
        lock, host_id = self._unfinished[sd_id]
        try:
            if lock.holds(lock.sdm):
                lock.release(lock.sdm)
            if not self._pools.watches(sd_id):  # its monitor could not give it back
                lock.release_host_id(host_id)
        except Error as e:
            _log.warning("domain %s: its lease is not given back yet: %s", sd_id, e)
            self._repair_later(sd_id)
            return
        del self._unfinished[sd_id]

    def _made_regular(self, state: PoolState, sd_id: str) -> bool:
        domain = self._domains.find(sd_id)
        if domain.refresh().role is not Role.MASTER:
            return False
        # The role may have gone and we not know it yet: another host has made it master then.
        self._require_lease(state, self._pools.master(state))
        _make_regular(domain)
        return True

    def reconstruct(
        self,
        state: PoolState,
        name: str,
        lease: LeaseParameters,
        domain_dict: Mapping[str, str],
    ) -> None:
        """Make a domain master although the old one is lost. This host is not SPM and need not be connected.

        state: with the new master and its version. Raises: IsoCannotBeMaster, BackupCannotBeMaster, WrongMaster
        (not of this pool, or not in the list), lock and storage errors; nothing has changed then.
        """
        new = self._domains.find(state.master_sd_id)
        _check_member(state.pool_id, new.refresh())
        words = {sd_id: word for sd_id, text in domain_dict.items() if (word := status_word(text))}
        if new.sd_id not in words:
            raise WrongMaster(state.pool_id, f"domain {new.sd_id} is not in the list of domains")
        pool = PoolMetadata(name=name, domains={**words, new.sd_id: ACTIVE}, master_version=state.master_version)
        watched = partial(self._pools.watches, new.sd_id)
        with self._moving, sdm_held(self._locks.of(new), state.host_id, watched):
            # Looked at again: another host may have made it master while we waited, and tasks are there since.
            meta = _check_member(state.pool_id, new.refresh())
            new.make_master_tree()
            if meta.role is not Role.MASTER:
                empty(new, TASKS_PATH)  # of a time when it was; whoever comes next would undo what is done
            new.change(lambda m: with_pool(replace(m, role=Role.MASTER, lease=lease), pool))
        _log.warning("pool %s: reconstructed, master is %s", state.pool_id, new.sd_id)


def _check_member(pool_id: str, meta: DomainMetadata) -> DomainMetadata:
    """Raises: IsoCannotBeMaster, BackupCannotBeMaster, WrongMaster (not of this pool)."""
    check_can_be_master(pool_id, meta)
    if pool_id not in meta.pool_ids:
        raise WrongMaster(pool_id, f"domain {meta.sd_id} belongs to {meta.pool_ids or 'no pool'}")
    return meta


def _make_regular(domain: FileDomain) -> None:
    domain.change(lambda meta: without_pool_keys(replace(meta, role=Role.REGULAR)))
