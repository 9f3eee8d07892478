# SPDX-License-Identifier: Apache-2.0
"""Handlers of Host.* that are about storage domains: finding them, watching them, their health."""

from typing import Any

from vdsm_mp.api.storage_host import (
    GetConnectedStoragePools,
    GetStorageDomains,
    GetStorageRepoStats,
    StartMonitoringDomain,
    StopMonitoringDomain,
)
from vdsm_mp.api.types import BLANK
from vdsm_mp.api.verb import handles
from vdsm_mp.storage import each
from vdsm_mp.storage.domain_format import CLASS_BY_NUMBER, DomainType
from vdsm_mp.storage.domain_metadata import DomainMetadata
from vdsm_mp.storage.monitors import Monitors
from vdsm_mp.storage.mount import normalize
from vdsm_mp.storage.pool import Pools
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.resources import Resources


@handles(GetConnectedStoragePools)
def connected_pools(ask: GetConnectedStoragePools, pools: Pools) -> list[str]:
    state = pools.state
    return [] if state is None else [state.pool_id]


@handles(GetStorageDomains)
def storage_domains(ask: GetStorageDomains, domains: Domains) -> list[str]:
    """Every domain on connected storage that fits what was asked; one that cannot be read is left out and logged."""
    return each.which(domains, domains.scan(), lambda domain: _fits(ask, domain.meta))


def _fits(ask: GetStorageDomains, meta: DomainMetadata) -> bool:
    if ask.pool_id not in (None, BLANK) and ask.pool_id not in meta.pool_ids:
        return False
    if ask.domain_class not in (None, 0) and meta.cls is not CLASS_BY_NUMBER.get(ask.domain_class or 0):
        return False
    if ask.storage_type not in (None, 0) and meta.kind is not DomainType.of(ask.storage_type or 0):
        return False
    return not ask.remote_path or normalize(ask.remote_path) == normalize(meta.remote_path)


@handles(GetStorageRepoStats)
def repo_stats(ask: GetStorageRepoStats, monitors: Monitors) -> dict[str, Any]:
    found = monitors.vitals()
    if ask.domains:
        found = {sd_id: row for sd_id, row in found.items() if sd_id in ask.domains}
    return found


@handles(StartMonitoringDomain)
def start_monitoring(ask: StartMonitoringDomain, monitors: Monitors, resources: Resources) -> None:
    with resources.claim("Host.startMonitoringDomain", exclusive=(("monitor",),)):
        monitors.start(ask.sd_id, ask.host_id, holder="client")


@handles(StopMonitoringDomain)
def stop_monitoring(ask: StopMonitoringDomain, monitors: Monitors, resources: Resources) -> None:
    with resources.claim("Host.stopMonitoringDomain", exclusive=(("monitor",),)):
        monitors.stop([ask.sd_id], release=True, holder="client")
