# SPDX-License-Identifier: Apache-2.0
"""Handlers that answer from memory, on the loop: health of the domains, status of the worker, the monitoring beat."""

from typing import Any

from vdsm_mp.api.internal import CheckStorage, GetDomainVitals, GetStorageStatus
from vdsm_mp.api.verb import handles
from vdsm_mp.storage.monitors import Monitors
from vdsm_mp.storage.pool import Pools
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.spm import Spm
from vdsm_mp.tasks.registry import Tasks


@handles(GetDomainVitals)
def vitals(ask: GetDomainVitals, monitors: Monitors) -> dict[str, dict[str, Any]]:
    return monitors.vitals()


@handles(CheckStorage)
def check(ask: CheckStorage, monitors: Monitors) -> None:
    monitors.beat()


@handles(GetStorageStatus)
def status(
    ask: GetStorageStatus,
    domains: Domains,
    monitors: Monitors,
    pools: Pools,
    spm: Spm,
    tasks: Tasks,
    resources: Resources,
) -> dict[str, Any]:
    """{"domains": {sd_id: vitals and I/O}, "pools": {pool_id: …}, "tasks": counts, "claims": {name: holders}}."""
    entries: dict[str, dict[str, Any]] = monitors.vitals()
    for domain in domains.all_known():
        entries.setdefault(domain.sd_id, {})["io"] = domain.io.health()
    pool = pools.state
    found: dict[str, Any] = {}
    if pool is not None:
        found[pool.pool_id] = {
            "spm": spm.state.value,
            "host_id": pool.host_id,
            "master": pool.master_sd_id,
            "master_version": pool.master_version,
            "domains": pool.domains,
        }
    return {"domains": entries, "pools": found, "tasks": tasks.vitals(), "claims": resources.holders()}
