# SPDX-License-Identifier: Apache-2.0
"""Which domains belong to a pool: create and destroy a pool, attach, detach, activate, deactivate. SPM work.

What a domain itself says (POOL_UUID, ROLE) is changed while its SDM lease is held, so that two hosts never give one
domain to two pools. The caller holds the claims on the pool and the domains.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_storage import (
    BackupCannotBeMaster,
    DomainAttachedElsewhere,
    DomainNotInPool,
    DomainStateWrong,
    DomainVersionsMixed,
    IsoCannotBeMaster,
    MasterCannotBeDetached,
    PoolDescriptionTooLong,
    TooManyDomains,
)
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import DESCRIPTION_CHARS, DomainClass, Role, check_description, check_version
from vdsm_mp.storage.domain_metadata import (
    DomainMetadata,
    LeaseParameters,
    PoolMetadata,
    with_pool,
    without_pool,
)
from vdsm_mp.storage.locks import TEMPORARY_HOST_ID, Locks
from vdsm_mp.storage.pool import Pools
from vdsm_mp.storage.pool_state import ACTIVE, ATTACHED, PoolState
from vdsm_mp.storage.pool_upgrade import Upgrades
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.sdm_lease import sdm_held

_log = logging.getLogger("storage.pool")

MAX_DOMAINS = 100


class NewPool(msgspec.Struct, frozen=True):
    pool_id: str
    name: str
    master_sd_id: str
    master_version: int
    domains: tuple[str, ...]
    lease: LeaseParameters


class Members:
    def __init__(self, domains: Domains, locks: Locks, pools: Pools, upgrades: Upgrades) -> None:
        self._domains = domains
        self._locks = locks
        self._pools = pools
        self._upgrades = upgrades

    def create_pool(self, new: NewPool) -> None:
        """Make the first domain master of a new pool and attach the others. This host need not be connected.

        Raises: PoolDescriptionTooLong, TooManyDomains, IsoCannotBeMaster, BackupCannotBeMaster, DomainVersionsMixed,
        DomainAttachedElsewhere (nothing has changed); lock and storage errors (attached ones are detached again).
        """
        if len(new.name) > DESCRIPTION_CHARS:
            raise PoolDescriptionTooLong(new.pool_id, f"its name has more than {DESCRIPTION_CHARS} characters")
        check_description(new.master_sd_id, new.name)
        ids = dict.fromkeys((new.master_sd_id, *new.domains))
        if len(ids) > MAX_DOMAINS:
            raise TooManyDomains(new.pool_id, f"more than {MAX_DOMAINS} domains")
        domains = [self._domains.find(sd_id) for sd_id in ids]
        master, others = domains[0], domains[1:]
        check_can_be_master(new.pool_id, master.refresh())
        for domain in domains:
            _check_attachable(domain.refresh(), new.pool_id, master.meta.version)
        statuses = {master.sd_id: ACTIVE, **{d.sd_id: ATTACHED for d in others}}
        pool = PoolMetadata(name=new.name, domains=statuses, master_version=new.master_version)
        strangers = {domain.sd_id for domain in domains if new.pool_id not in domain.meta.pool_ids}
        begun: list[FileDomain] = []
        with self._sdm_held(master, TEMPORARY_HOST_ID):
            try:
                for domain in others:
                    with self._sdm_held(domain, TEMPORARY_HOST_ID):
                        begun.append(domain)
                        domain.change(lambda meta: _attached(meta, new.pool_id))
                # Last: without it nobody is master and there is no pool.
                begun.append(master)
                master.change(
                    lambda meta: with_pool(
                        replace(meta, role=Role.MASTER, pool_ids=(new.pool_id,), lease=new.lease), pool
                    )
                )
            except Error:
                self._undo_attach([domain for domain in begun if domain.sd_id in strangers], new.pool_id)
                raise
        _log.info("pool %s: created, master is %s", new.pool_id, master.sd_id)

    def _undo_attach(self, begun: list[FileDomain], pool_id: str) -> None:
        """Also of the last one: it may say that it is of the pool, although that was told as failed."""
        for domain in reversed(begun):
            try:
                domain.change(lambda meta: without_pool(meta) if meta.role is Role.MASTER else _detached(meta, pool_id))
            except Error as e:
                _log.error("domain %s stays attached to pool %s, which does not exist: %s", domain.sd_id, pool_id, e)

    def destroy_pool(self, state: PoolState) -> None:
        """Detach every domain, the master last. The caller is SPM and disconnects afterwards."""
        others = [sd_id for sd_id in state.domains if sd_id != state.master_sd_id]
        for domain in [self._domains.find(sd_id) for sd_id in others]:
            domain.change(lambda meta: _detached(meta, state.pool_id))
        self._pools.master(state).change(without_pool)
        _log.info("pool %s: destroyed", state.pool_id)

    def attach(self, state: PoolState, sd_id: str) -> None:
        """Being attached already is fine.

        Raises: TooManyDomains, DomainAttachedElsewhere, DomainVersionsMixed, DomainVersionUnsupported, lock errors;
        nothing has changed then.
        """
        if sd_id in state.domains:
            return
        if len(state.domains) >= MAX_DOMAINS:
            raise TooManyDomains(state.pool_id, f"more than {MAX_DOMAINS} domains")
        domain = self._domains.find(sd_id)
        master_version = self._pools.master(state).meta.version
        _check_attachable(domain.refresh(), state.pool_id, master_version)
        with self._sdm_held(domain, state.host_id):
            # Looked at again: another host may have attached it while we waited for the lease.
            domain.change(lambda meta: _attached(_check_attachable(meta, state.pool_id, master_version), state.pool_id))
        self._pools.set_status(sd_id, ATTACHED)
        _log.info("pool %s: domain %s attached", state.pool_id, sd_id)

    def detach(self, state: PoolState, sd_id: str) -> None:
        """Raises: DomainNotInPool, MasterCannotBeDetached, DomainStateWrong (it is active)."""
        status = _status(state, sd_id)
        if sd_id == state.master_sd_id:
            raise MasterCannotBeDetached(sd_id, "it is the master of the pool")
        if status != ATTACHED:
            raise DomainStateWrong(sd_id, f"it is {status}, deactivate it first")
        domain = self._domains.find(sd_id)
        with self._sdm_held(domain, state.host_id):
            domain.change(lambda meta: _detached(meta, state.pool_id))
        self._pools.set_status(sd_id, None)
        _log.info("pool %s: domain %s detached", state.pool_id, sd_id)

    def force_detach(self, pool_id: str, sd_id: str, *, is_spm: bool) -> None:
        """Take the pool out of a domain whose pool is gone, without locks or the SPM role.

        Is this host in that pool after all, it knows the domain as one of it no more. is_spm: of it.
        Raises: MasterCannotBeDetached (of the pool this host is in), DomainNotFound, storage errors.
        """
        state = self._pools.state
        here = state if state is not None and state.pool_id == pool_id and sd_id in state.domains else None
        if here is not None and sd_id == here.master_sd_id:
            raise MasterCannotBeDetached(sd_id, "it is the master of the pool that this host is connected to")
        self._domains.find(sd_id).change(lambda meta: _detached(meta, pool_id))
        if here is not None and (here.memory or is_spm):  # else the list is the SPM's, and read with the next refresh
            self._pools.set_status(sd_id, None)

    def activate(self, state: PoolState, sd_id: str) -> None:
        """Raises: DomainNotInPool, storage errors (it stays attached)."""
        _status(state, sd_id)
        domain = self._domains.find(sd_id)
        meta = domain.refresh()
        if state.pool_id not in meta.pool_ids:
            raise DomainNotInPool(sd_id, f"it says it belongs to {meta.pool_ids or 'no pool'}")
        master_version = self._pools.master(state).meta.version
        if meta.cls is DomainClass.DATA and meta.version < master_version:
            with self._sdm_held(domain, state.host_id):
                self._upgrades.now_or_later(domain, state, master_version)
        if meta.cls is DomainClass.BACKUP:
            domain.make_master_tree()
        self._pools.set_status(sd_id, ACTIVE)
        _log.info("pool %s: domain %s is active", state.pool_id, sd_id)

    def deactivate(self, state: PoolState, sd_id: str) -> None:
        """Raises: DomainNotInPool."""
        _status(state, sd_id)
        self._pools.set_status(sd_id, ATTACHED)
        _log.info("pool %s: domain %s is not active any more", state.pool_id, sd_id)

    @contextmanager
    def _sdm_held(self, domain: FileDomain, host_id: int) -> Iterator[None]:
        """Inside the block nobody else changes the domain's membership."""
        lock = self._locks.of(domain)
        if lock.holds(lock.sdm):  # the master's, which is the SPM role itself
            yield
            return
        with sdm_held(lock, host_id, partial(self._pools.watches, domain.sd_id)):
            yield


def _status(state: PoolState, sd_id: str) -> str:
    try:
        return state.domains[sd_id]
    except KeyError:
        raise DomainNotInPool(sd_id, f"it is not attached to pool {state.pool_id}") from None


def check_can_be_master(pool_id: str, meta: DomainMetadata) -> None:
    """Raises: IsoCannotBeMaster, BackupCannotBeMaster."""
    if meta.cls is DomainClass.ISO:
        raise IsoCannotBeMaster(pool_id, f"{meta.sd_id} is an ISO domain")
    if meta.cls is DomainClass.BACKUP:
        raise BackupCannotBeMaster(pool_id, f"{meta.sd_id} is an export domain")


def _check_attachable(meta: DomainMetadata, pool_id: str, master_version: int) -> DomainMetadata:
    check_version(meta.sd_id, meta.version, meta.cls)
    if meta.cls is DomainClass.DATA and meta.version > master_version:
        raise DomainVersionsMixed(meta.sd_id, f"version {meta.version} is newer than the master's {master_version}")
    others = [p for p in meta.pool_ids if p != pool_id]
    if others and meta.cls is not DomainClass.ISO:
        raise DomainAttachedElsewhere(meta.sd_id, f"it is attached to pool {others[0]}")
    return meta


def _attached(meta: DomainMetadata, pool_id: str) -> DomainMetadata:
    return replace(meta, pool_ids=(*(p for p in meta.pool_ids if p != pool_id), pool_id))


def _detached(meta: DomainMetadata, pool_id: str) -> DomainMetadata:
    left = tuple(p for p in meta.pool_ids if p != pool_id)
    return replace(meta, role=Role.REGULAR, pool_ids=left)
