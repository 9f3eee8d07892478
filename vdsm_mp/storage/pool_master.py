# SPDX-License-Identifier: Apache-2.0
"""Moving the master role of a pool to another domain: with a living SPM (migrate), and without one (reconstruct).

A migration copies `master/` first, then makes the new domain master in one write, the point of no return, and only
then demotes the old one. Interrupted before it, the old one is still master; after it, the old one is repaired by
the next SPM (`repair_roles`).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import msgspec

from vdsm_mp.api.errors_storage import (
    DomainNotActive,
    DomainNotInPool,
    StorageFileMissing,
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
from vdsm_mp.storage.locks import Locks
from vdsm_mp.storage.pool import ACTIVE, Pools, PoolState
from vdsm_mp.storage.pool_members import check_can_be_master
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.spm import TASKS_PATH
from vdsm_mp.tasks.registry import Tasks
from vdsm_mp.tasks.store import TaskStore

_log = logging.getLogger("storage.pool")

VMS_PATH = "master/vms"
_REPAIR_AFTER_S = 10.0
#: An OVF of the largest VM is far below.
_FILE_LIMIT = 16 * 2**20


class MasterMoves:
    def __init__(
        self,
        domains: Domains,
        locks: Locks,
        pools: Pools,
        tasks: Tasks,
        background: Background,
        is_spm: Callable[[], bool],
    ) -> None:
        self._domains = domains
        self._locks = locks
        self._pools = pools
        self._tasks = tasks
        self._background = background
        self._is_spm = is_spm

    def migrate(self, state: PoolState, new_master_id: str, master_version: int) -> PoolState:
        """This host is SPM and stays it. The caller holds the pool and both domains.

        Raises: DomainNotInPool, DomainNotActive, IsoCannotBeMaster, BackupCannotBeMaster, lock and storage errors;
        the old master is still master then.
        """
        status = state.domains.get(new_master_id)
        if status is None:
            raise DomainNotInPool(new_master_id, f"it is not attached to pool {state.pool_id}")
        if status != ACTIVE:
            raise DomainNotActive(new_master_id, f"it is {status} and cannot become master")
        old, new = self._pools.master(state), self._domains.find(new_master_id)
        check_can_be_master(state.pool_id, new.refresh())
        upgrade(new, old.refresh().version)
        lock = self._locks.of(new)
        lock.wait_host_id(state.host_id)
        lock.acquire(lock.sdm, state.host_id)
        try:
            self._copy_tree(old, new)
            new.change(lambda meta: self._promoted(meta, old.meta, state, master_version))
        except Error:
            lock.release(lock.sdm)
            raise
        after = self._become(state, new, master_version)
        self._demote(old)
        return after

    def _become(self, state: PoolState, new: FileDomain, master_version: int) -> PoolState:
        after = msgspec.structs.replace(state, master_sd_id=new.sd_id, master_version=master_version)
        self._pools.replace_state(after)
        self._tasks.move_to(TaskStore(new.io, TASKS_PATH, store=new.io.path_of(TASKS_PATH)))
        _log.info("pool %s: master is %s, version %d", state.pool_id, new.sd_id, master_version)
        return after

    def _promoted(
        self, meta: DomainMetadata, old: DomainMetadata, state: PoolState, master_version: int
    ) -> DomainMetadata:
        meta = replace(meta, role=Role.MASTER, lease=old.lease)
        if state.memory:
            return meta
        return with_pool(meta, replace(decode_pool(old.sd_id, old.pairs), master_version=master_version))

    def _demote(self, old: FileDomain) -> None:
        """What fails here is repaired by `repair_roles`; the role has moved already."""
        try:
            _make_regular(old)
            for path in (VMS_PATH, TASKS_PATH):
                for entry in old.io.readdir(path):
                    old.io.remove_tree(f"{path}/{entry.name}")
            lock = self._locks.of(old)
            lock.release(lock.sdm)
        except Error as e:
            _log.error("domain %s is not demoted from master yet: %s", old.sd_id, e)
            self._background.later(_REPAIR_AFTER_S, f"demote {old.sd_id}", lambda: self._repair(old.sd_id))

    def _copy_tree(self, old: FileDomain, new: FileDomain) -> None:
        new.make_master_tree()
        if not new.meta.kind.is_local:
            new.make_mailboxes()
        for path in (VMS_PATH, TASKS_PATH):
            for entry in new.io.readdir(path):
                new.io.remove_tree(f"{path}/{entry.name}")
            _copy(old, new, path)

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
            self._background.start(f"look at the role of {sd_id}", lambda: self._repair(sd_id), key=f"role {sd_id}")

    def _repair(self, sd_id: str) -> None:
        state = self._pools.state
        if not self._is_spm() or state is None or state.domains.get(sd_id) != ACTIVE or sd_id == state.master_sd_id:
            return
        try:
            domain = self._domains.find(sd_id)
            if domain.refresh().role is Role.MASTER:
                _make_regular(domain)
                _log.warning("domain %s: role repaired to Regular", sd_id)
        except Error as e:
            _log.warning("domain %s: its role is not known yet: %s", sd_id, e)

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
        meta = new.refresh()
        check_can_be_master(state.pool_id, meta)
        if state.pool_id not in meta.pool_ids:
            raise WrongMaster(state.pool_id, f"domain {meta.sd_id} belongs to {meta.pool_ids or 'no pool'}")
        words = {sd_id: word for sd_id, text in domain_dict.items() if (word := status_word(text))}
        if meta.sd_id not in words:
            raise WrongMaster(state.pool_id, f"domain {meta.sd_id} is not in the list of domains")
        pool = PoolMetadata(name=name, domains={**words, meta.sd_id: ACTIVE}, master_version=state.master_version)
        lock = self._locks.of(new)
        had = lock.has_host_id(state.host_id)
        lock.wait_host_id(state.host_id)
        try:
            lock.acquire(lock.sdm, state.host_id)
            try:
                new.change(lambda m: with_pool(replace(m, role=Role.MASTER, lease=lease), pool))
                new.make_master_tree()
            finally:
                lock.release(lock.sdm)
        finally:
            if not had:
                lock.release_host_id(state.host_id)
        _log.warning("pool %s: reconstructed, master is %s", state.pool_id, meta.sd_id)


def _make_regular(domain: FileDomain) -> None:
    domain.change(lambda meta: without_pool_keys(replace(meta, role=Role.REGULAR)))


def _copy(old: FileDomain, new: FileDomain, path: str) -> None:
    """Files two levels below `path`, as tasks and OVFs are; each whole or not at all."""
    try:
        found = old.io.scan(path)
    except StorageFileMissing:  # a master that never had an SPM
        return
    for one in found:
        new.io.mkdir(one.path.rpartition("/")[0], exist_ok=True)
        new.io.replace(one.path, old.io.read(one.path, limit=_FILE_LIMIT), mode=one.stat.mode)
