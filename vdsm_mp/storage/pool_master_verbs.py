# SPDX-License-Identifier: Apache-2.0
"""Handlers of StoragePool.* that move the master, change the format or the name of a pool."""

from msgspec.structs import replace

from vdsm_mp.api.errors_storage import DomainVersionUnsupported, PoolDescriptionTooLong, PoolError
from vdsm_mp.api.storage_pool import (
    ReconstructMaster,
    RefreshStoragePool,
    SetStoragePoolDescription,
    SwitchMaster,
    UpgradeStoragePool,
)
from vdsm_mp.api.verb import handles
from vdsm_mp.storage.domain_format import DESCRIPTION_CHARS, VERSIONS, check_description
from vdsm_mp.storage.domain_metadata import LeaseParameters, decode_pool, with_pool
from vdsm_mp.storage.pool import Pools
from vdsm_mp.storage.pool_master import MasterMoves
from vdsm_mp.storage.pool_state import PoolState, Wanted
from vdsm_mp.storage.pool_upgrade import Upgrades
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.spm import Spm
from vdsm_mp.tasks.registry import Tasks
from vdsm_mp.tasks.run import TaskRun


@handles(SwitchMaster)
def switch_master(ask: SwitchMaster, spm: Spm, masters: MasterMoves, tasks: Tasks, resources: Resources) -> str:
    def checked() -> PoolState:
        state = spm.require(ask.pool_id)
        if state.master_sd_id != ask.old_master_id:
            raise PoolError(ask.pool_id, f"its master is {state.master_sd_id}, not {ask.old_master_id}")
        return state

    def job(run: TaskRun) -> None:
        names = (("pool", ask.pool_id), ("domain", ask.old_master_id), ("domain", ask.new_master_id))
        with resources.claim("StoragePool.switchMaster", exclusive=names, progress=run.progress):
            masters.migrate(checked(), ask.new_master_id, ask.master_version)  # it may have moved meanwhile

    checked()

    return tasks.start("switchMaster", job, spm=True, key=f"master {ask.pool_id}")


@handles(ReconstructMaster)
def reconstruct(ask: ReconstructMaster, spm: Spm, pools: Pools, masters: MasterMoves, resources: Resources) -> None:
    spm.refuse_if_spm(ask.pool_id)
    if len(ask.name) > DESCRIPTION_CHARS:
        raise PoolDescriptionTooLong(ask.pool_id, f"its name has more than {DESCRIPTION_CHARS} characters")
    check_description(ask.master_sd_id, ask.name)
    names = (("pool", ask.pool_id), ("domain", ask.master_sd_id))
    with resources.claim("StoragePool.reconstructMaster", exclusive=names):
        spm.refuse_if_spm(ask.pool_id)  # it may have begun to be it while this waited
        before = pools.state
        connected = before if before is not None and before.pool_id == ask.pool_id else None
        state = PoolState(
            pool_id=ask.pool_id,
            host_id=connected.host_id if connected is not None else ask.host_id,
            master_sd_id=ask.master_sd_id,
            master_version=ask.master_version,
            domains={},
            memory=True,
        )
        lease = LeaseParameters(
            renewal_s=ask.lock_renewal_interval_s,
            lease_s=ask.lease_time_s,
            io_timeout_s=ask.io_op_timeout_s,
            retries=ask.lease_retries,
        )
        masters.reconstruct(state, ask.name, lease, ask.domain_dict)
        if connected is not None:
            _refresh(pools, connected, ask.master_sd_id, ask.master_version, dict(ask.domain_dict))


@handles(RefreshStoragePool)
def refresh(ask: RefreshStoragePool, pools: Pools, resources: Resources) -> None:
    with resources.claim("StoragePool.refresh", exclusive=(("pool", ask.pool_id),)):
        state = pools.require(ask.pool_id)
        _refresh(pools, state, ask.master_sd_id, ask.master_version, dict(state.domains))


def _refresh(pools: Pools, state: PoolState, master_sd_id: str, master_version: int, domains: dict[str, str]) -> None:
    pools.connect(
        Wanted(
            pool_id=state.pool_id,
            host_id=state.host_id,
            master_sd_id=master_sd_id,
            master_version=master_version,
            domains=domains if state.memory else None,
        )
    )


@handles(SetStoragePoolDescription)
def set_description(ask: SetStoragePoolDescription, spm: Spm, pools: Pools, resources: Resources) -> None:
    if len(ask.description) > DESCRIPTION_CHARS:
        raise PoolDescriptionTooLong(ask.pool_id, f"the name has more than {DESCRIPTION_CHARS} characters")
    with resources.claim("StoragePool.setDescription", exclusive=(("pool", ask.pool_id),)):
        state = spm.require(ask.pool_id)
        check_description(state.master_sd_id, ask.description)
        if state.memory:
            return  # the engine keeps the name; what the master says of it is not read
        pools.master(state).change(
            lambda meta: with_pool(meta, replace(decode_pool(meta.sd_id, meta.pairs), name=ask.description))
        )


@handles(UpgradeStoragePool)
def upgrade(ask: UpgradeStoragePool, spm: Spm, pools: Pools, upgrades: Upgrades, resources: Resources) -> str:
    master_sd_id = spm.require(ask.pool_id).master_sd_id
    if ask.target_dom_version not in VERSIONS:
        raise DomainVersionUnsupported(master_sd_id, f"version {ask.target_dom_version} is not supported")
    names = (("pool", ask.pool_id), ("domain", master_sd_id))
    with resources.claim("StoragePool.upgrade", exclusive=names):
        state = spm.require(ask.pool_id)
        if state.master_sd_id != master_sd_id:
            raise PoolError(ask.pool_id, f"its master is {state.master_sd_id} meanwhile")
        upgrades.refuse_while_pending(ask.pool_id)
        upgrades.master(pools.master(state), ask.target_dom_version)
        upgrades.begin(state, ask.target_dom_version)
    return "started"
