# SPDX-License-Identifier: Apache-2.0
"""Handlers of StoragePool.*: connections to storage servers, the pool, the SPM role."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msgspec.structs import replace

from vdsm_mp.api.errors_storage import PoolError, ServerDisconnectFailed
from vdsm_mp.api.spm import GetSpmStatus, SpmStatus, StartSpm, StopSpm
from vdsm_mp.api.storage_pool import (
    ConnectStoragePool,
    CreateStoragePool,
    DestroyStoragePool,
    DisconnectStoragePool,
    DomainInPool,
    GetStoragePoolInfo,
    PoolInfo,
    PoolReport,
)
from vdsm_mp.api.storage_server import ConnectStorageServer, DisconnectStorageServer, ServerStatus
from vdsm_mp.api.verb import handles
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.connections import Connections, Server, status_of
from vdsm_mp.storage.domain_format import DomainClass, DomainType
from vdsm_mp.storage.domain_metadata import LeaseParameters, decode_pool
from vdsm_mp.storage.locks import Locks
from vdsm_mp.storage.monitors import Monitors
from vdsm_mp.storage.pool import Pools
from vdsm_mp.storage.pool_members import Members, NewPool
from vdsm_mp.storage.pool_state import ACTIVE, PoolState, Wanted
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.spm import Spm
from vdsm_mp.tasks.registry import Tasks

_log = logging.getLogger("storage.pool")

#: Servers that are connected at the same time.
_PARALLEL = 8


# --- storage servers


@handles(ConnectStorageServer)
def connect_server(ask: ConnectStorageServer, connections: Connections, domains: Domains) -> list[ServerStatus]:
    kind = DomainType.of(ask.domain_type)

    def one(server: Server) -> None:
        with connections.turn(connections.root_of(kind, server)):
            root = connections.connect(kind, server)
            try:
                domains.learn_root(root)
            except Error as e:  # connected all the same; its domains are looked for again when they are needed
                _log.warning("domains of %s are not seen: %s", server.connection, e)

    return _each(ask.connection_params, one)


@handles(DisconnectStorageServer)
def disconnect_server(
    ask: DisconnectStorageServer, connections: Connections, domains: Domains, monitors: Monitors, locks: Locks
) -> list[ServerStatus]:
    kind = DomainType.of(ask.domain_type)

    def one(server: Server) -> None:
        with connections.turn(connections.root_of(kind, server)):
            root = connections.root_to_leave(kind, server)
            if root is not None:
                below = domains.on_root(root)
                used = sorted(set(below) & set(monitors.watched()))
                if used:
                    raise ServerDisconnectFailed(server.connection, f"storage domain {used[0]} is in use")
                domains.forget_root(root)
                for sd_id in below:
                    locks.drop(sd_id)
            connections.disconnect(kind, server)

    return _each(ask.connection_params, one)


def _each(rows: Sequence[dict[str, Any]], work: Callable[[Server], None]) -> list[ServerStatus]:
    """One status for every row, in order; one that fails does not stop the others."""

    def one(row: dict[str, Any]) -> ServerStatus:
        server = Server(id=str(row.get("id", "")), connection=str(row.get("connection", ""))[:200])
        try:
            server = Server.of(row)
            work(server)
        except Error as e:
            return ServerStatus(id=server.id, status=status_of(e, server))
        return ServerStatus(id=server.id, status=0)

    if len(rows) <= 1:
        return [one(row) for row in rows]
    with ThreadPoolExecutor(min(_PARALLEL, len(rows)), thread_name_prefix="connect") as pool:
        return list(pool.map(one, rows))


# --- the pool


@handles(CreateStoragePool)
def create(ask: CreateStoragePool, members: Members, resources: Resources) -> None:
    names = (("pool", ask.pool_id), *(("domain", sd_id) for sd_id in {ask.master_sd_id, *ask.domain_list}))
    with resources.claim("StoragePool.create", exclusive=names):
        members.create_pool(
            NewPool(
                pool_id=ask.pool_id,
                name=ask.name,
                master_sd_id=ask.master_sd_id,
                master_version=ask.master_version,
                domains=tuple(ask.domain_list),
                lease=LeaseParameters(
                    renewal_s=ask.lock_renewal_interval_s,
                    lease_s=ask.lease_time_s,
                    io_timeout_s=ask.io_op_timeout_s,
                    retries=ask.lease_retries,
                ),
            )
        )


@handles(DestroyStoragePool)
def destroy(
    ask: DestroyStoragePool, pools: Pools, spm: Spm, members: Members, tasks: Tasks, resources: Resources
) -> None:
    state = spm.require(ask.pool_id)
    names = (("pool", ask.pool_id), *(("domain", sd_id) for sd_id in state.domains))
    with resources.claim("StoragePool.destroy", exclusive=names):
        now = spm.require(ask.pool_id)
        if not set(now.domains) <= set(state.domains):
            raise PoolError(ask.pool_id, "a domain was attached to it meanwhile")
        for sd_id in now.domains:
            tasks.refuse_while_about(sd_id)
        members.destroy_pool(now)
        spm.stop_now("the pool is destroyed")
        pools.disconnect()


@handles(ConnectStoragePool)
def connect(ask: ConnectStoragePool, pools: Pools, resources: Resources) -> None:
    with resources.claim("StoragePool.connect", exclusive=(("pool", ask.pool_id),)):
        pools.connect(
            Wanted(
                pool_id=ask.pool_id,
                host_id=ask.host_id,
                master_sd_id=ask.master_sd_id,
                master_version=ask.master_version,
                domains=ask.domain_dict,
            )
        )


@handles(DisconnectStoragePool)
def disconnect(ask: DisconnectStoragePool, pools: Pools, spm: Spm, resources: Resources) -> None:
    with resources.claim("StoragePool.disconnect", exclusive=(("pool", ask.pool_id),)):
        state = pools.state
        if state is None or state.pool_id != ask.pool_id:
            return
        spm.refuse_if_spm(ask.pool_id)
        pools.disconnect()


@handles(GetStoragePoolInfo)
def get_info(ask: GetStoragePoolInfo, pools: Pools, domains: Domains, monitors: Monitors, spm: Spm) -> PoolReport:
    """Complete or an error: an engine forgets a domain that is not in the answer."""
    state = pools.require(ask.pool_id)
    meta = pools.master(state).meta
    role = spm.status(ask.pool_id)
    dominfo = {sd_id: _member(state, sd_id, domains, monitors) for sd_id in state.domains}
    info = PoolInfo(
        domains=",".join(f"{sd_id}:{status}" for sd_id, status in state.domains.items()),
        isoprefix=next((row.isoprefix for row in dominfo.values() if row.isoprefix), ""),
        lver=role.lver,
        master_uuid=state.master_sd_id,
        master_ver=state.master_version,
        name="No Description" if state.memory else decode_pool(meta.sd_id, meta.pairs).name,
        spm_id=role.spm_id,
        type=meta.kind.value,
        version=str(meta.version),
    )
    return PoolReport(info=info, dominfo=dominfo)


def _member(state: PoolState, sd_id: str, domains: Domains, monitors: Monitors) -> DomainInPool:
    """One entry of dominfo, from memory."""
    row = DomainInPool(status=state.domains[sd_id], alerts=[], isoprefix="")
    watch = monitors.watch_of(sd_id)
    if row.status != ACTIVE or watch is None or watch.last is None:
        return row
    last = watch.last
    if last.total_bytes is not None and last.free_bytes is not None:
        row = replace(row, disktotal=str(last.total_bytes), diskfree=str(last.free_bytes), version=watch.version)
    domain = domains.known(sd_id)
    if domain is not None and domain.meta.cls is DomainClass.ISO:
        row = replace(row, isoprefix=domain.iso_path)
    return row


# --- the SPM role


@handles(GetSpmStatus)
def get_spm_status(ask: GetSpmStatus, spm: Spm) -> SpmStatus:
    return spm.status(ask.pool_id)


@handles(StartSpm)
def spm_start(ask: StartSpm, spm: Spm) -> str:
    version = ask.dom_version
    wanted = int(version) if version is not None and version.isdigit() else None
    return spm.start(ask.pool_id, wanted, ask.max_host_id)


@handles(StopSpm)
def spm_stop(ask: StopSpm, spm: Spm, resources: Resources) -> None:
    with resources.claim("StoragePool.spmStop", exclusive=(("pool", ask.pool_id),)):
        spm.stop(ask.pool_id)
