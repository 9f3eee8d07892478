# SPDX-License-Identifier: Apache-2.0
"""Handlers of StorageDomain.*: what an engine may do with one domain. The work itself is done elsewhere."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from vdsm_mp.api.errors_storage import (
    DomainAttached,
    DomainClassWrong,
    DomainExists,
    DomainNotFound,
    DomainNotMounted,
    DomainPoolConnected,
    DomainTypeUnsupported,
    DomainVersionUnsupported,
    RemotePathIllegal,
    ServerParametersInvalid,
)
from vdsm_mp.api.storage_domain import (
    ActivateStorageDomain,
    AttachStorageDomain,
    CreateStorageDomain,
    DeactivateStorageDomain,
    DetachStorageDomain,
    FormatStorageDomain,
    GetStorageDomainInfo,
    GetStorageDomainStats,
    StorageDomainInfo,
    StorageDomainStats,
)
from vdsm_mp.api.types import BLANK
from vdsm_mp.api.verb import handles
from vdsm_mp.storage import domain_file
from vdsm_mp.storage.connections import Connections
from vdsm_mp.storage.domain_file import DomainSpec
from vdsm_mp.storage.domain_format import CLASS_BY_NUMBER, LATEST, DomainType, NewDomains
from vdsm_mp.storage.locks import Locks
from vdsm_mp.storage.pool import Pools
from vdsm_mp.storage.pool_master import MasterMoves
from vdsm_mp.storage.pool_members import Members
from vdsm_mp.storage.pool_state import PoolState
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.spm import Spm
from vdsm_mp.tasks.registry import Tasks

_log = logging.getLogger("storage.domain")


@handles(CreateStorageDomain)
def create(
    ask: CreateStorageDomain,
    connections: Connections,
    domains: Domains,
    locks: Locks,
    resources: Resources,
    allow: NewDomains,
) -> None:
    kind = DomainType.of(ask.domain_type)
    cls = CLASS_BY_NUMBER.get(ask.domain_class)
    if cls is None:
        raise DomainClassWrong(ask.sd_id, f"class {ask.domain_class} is not one of 1, 2, 3")
    spec = DomainSpec(
        sd_id=ask.sd_id,
        kind=kind,
        cls=cls,
        version=_version(ask),
        name=ask.name,
        remote_path=ask.remote_path(),
        block_size=512 if ask.block_size is None else ask.block_size,
        max_hosts=250 if ask.max_hosts is None else ask.max_hosts,
        allow=allow,
    )
    if not connections.supports(kind):
        raise DomainTypeUnsupported(ask.sd_id, kind.value)
    try:
        root = connections.root_for(kind, spec.remote_path)
    except ServerParametersInvalid as error:
        raise RemotePathIllegal(ask.sd_id, error.reason) from error
    if root is None:
        raise DomainNotMounted(ask.sd_id, f"{spec.remote_path} is not connected")
    with resources.claim("StorageDomain.create", exclusive=(("domain", ask.sd_id), ("root", root))):
        _refuse_known(domains, ask.sd_id)
        with domains.mount_io(root) as mount:
            domain_file.create(mount, spec, lambda directory: _write_locks(domains, locks, ask.sd_id, root, directory))
            domains.learn(ask.sd_id, root)
    _log.info("domain %s: created on %s", ask.sd_id, spec.remote_path)


def _write_locks(domains: Domains, locks: Locks, sd_id: str, root: str, directory: str) -> None:
    with domains.unborn(sd_id, root, directory) as domain:
        locks.make(domain).initialize()


def _version(ask: CreateStorageDomain) -> int:
    if ask.version is None:
        return LATEST
    try:
        return int(ask.version)
    except ValueError:
        raise DomainVersionUnsupported(ask.sd_id, f"version {ask.version!r} is not a number") from None


def _refuse_known(domains: Domains, sd_id: str) -> None:
    try:
        domains.find(sd_id)
    except DomainNotFound:
        return
    raise DomainExists(sd_id, "a domain of this id is connected already")


@handles(GetStorageDomainInfo)
def get_info(ask: GetStorageDomainInfo, domains: Domains) -> StorageDomainInfo:
    domain = domains.find(ask.sd_id)
    domain.refresh()
    return domain.info()


@handles(GetStorageDomainStats)
def get_stats(ask: GetStorageDomainStats, domains: Domains) -> StorageDomainStats:
    return domains.find(ask.sd_id).stats()


@handles(AttachStorageDomain)
def attach(ask: AttachStorageDomain, spm: Spm, members: Members, resources: Resources) -> None:
    with _changing(ask, "attach", spm, resources) as state:
        members.attach(state, ask.sd_id)


@handles(DetachStorageDomain)
def detach(ask: DetachStorageDomain, spm: Spm, members: Members, tasks: Tasks, resources: Resources) -> None:
    if ask.force:
        with resources.claim("StorageDomain.detach", exclusive=(("pool", ask.pool_id),)):
            members.force_detach(ask.pool_id, ask.sd_id, is_spm=spm.ours)
        return
    with _changing(ask, "detach", spm, resources) as state:
        tasks.refuse_while_about(ask.sd_id)  # afterwards it is not this pool's to be put in order
        members.detach(state, ask.sd_id)


@handles(ActivateStorageDomain)
def activate(ask: ActivateStorageDomain, spm: Spm, members: Members, resources: Resources) -> None:
    with _changing(ask, "activate", spm, resources) as state:
        members.activate(state, ask.sd_id)


@handles(DeactivateStorageDomain)
def deactivate(
    ask: DeactivateStorageDomain, spm: Spm, members: Members, masters: MasterMoves, resources: Resources
) -> None:
    moves = ask.master_sd_id != BLANK
    with _changing(ask, "deactivate", spm, resources, *((ask.master_sd_id,) if moves else ())) as state:
        if ask.sd_id == state.master_sd_id:
            if not moves:
                return  # the last domain: the pool itself goes to maintenance next
            masters.migrate(state, ask.master_sd_id, ask.master_version)
        members.deactivate(spm.require(ask.pool_id), ask.sd_id)


@contextmanager
def _changing(
    ask: AttachStorageDomain | DetachStorageDomain | ActivateStorageDomain | DeactivateStorageDomain,
    what: str,
    spm: Spm,
    resources: Resources,
    *more: str,
) -> Iterator[PoolState]:
    """The pool, claimed together with the domain (and more domains), while this host is SPM."""
    spm.require(ask.pool_id)
    names = (("pool", ask.pool_id), ("domain", ask.sd_id), *(("domain", sd_id) for sd_id in more))
    with resources.claim(f"StorageDomain.{what}", exclusive=names):
        yield spm.require(ask.pool_id)


@handles(FormatStorageDomain)
def format_(
    ask: FormatStorageDomain, domains: Domains, locks: Locks, pools: Pools, members: Members, resources: Resources
) -> None:
    with resources.claim("StorageDomain.format", exclusive=(("domain", ask.sd_id),)):
        state = pools.state
        if state is not None and ask.sd_id in state.domains:
            raise DomainPoolConnected(ask.sd_id, f"it belongs to pool {state.pool_id}, which is connected")
        meta = domains.find(ask.sd_id).refresh()
        if meta.pool_ids and not ask.auto_detach:
            raise DomainAttached(ask.sd_id, f"it is attached to pool {meta.pool_ids[0]}")
        root = domains.root_of(ask.sd_id)
        domains.forget(ask.sd_id)
        locks.drop(ask.sd_id)
        with domains.mount_io(root) as mount:
            domain_file.destroy(mount, ask.sd_id)
    _log.info("domain %s: destroyed", ask.sd_id)
