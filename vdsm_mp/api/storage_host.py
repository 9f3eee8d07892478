# SPDX-License-Identifier: Apache-2.0
"""Host.* answered by the storage worker: domains, devices, monitoring."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_storage import DomainTypeUnsupported
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb("Host.getConnectedStoragePools", owner="storage", reply=list[Uuid], safe=True, tier=2)
class GetConnectedStoragePools(Message, frozen=True, kw_only=True):
    """Id of the pool that this host is connected to, as a list of one or none."""


@verb("Host.getDeviceList", owner="storage", reply=list[dict[str, Any]], safe=True, tier=2, planned=True)
class GetDeviceList(Message, frozen=True, kw_only=True):
    """Block devices (LUNs) that this host sees."""

    storage_type: str | None = field(default=None, name="storageType")
    guids: list[str] | None = None
    check_status: bool | None = field(default=None, name="checkStatus")
    refresh: bool | None = None


@verb("Host.getDevicesVisibility", owner="storage", reply=dict[str, Any], safe=True, tier=2, planned=True)
class GetDevicesVisibility(Message, frozen=True, kw_only=True):
    """Which of the given LUNs this host sees."""

    guid_list: list[str] = field(name="guidList")


@verb("Host.getLVMVolumeGroups", owner="storage", reply=list[dict[str, Any]], safe=True, tier=3, planned=True)
class GetLvmVolumeGroups(Message, frozen=True, kw_only=True):
    """All volume groups that this host sees."""

    storage_type: str | None = field(default=None, name="storageType")


@verb("Host.getStorageDomains", owner="storage", reply=list[Uuid], safe=True, tier=2, raises=(DomainTypeUnsupported,))
class GetStorageDomains(Message, frozen=True, kw_only=True):
    """Ids of the domains on connected servers, for an import.

    Each parameter that is given narrows it; 0 and blank do not. Servers are looked at anew. A domain that cannot be
    read is left out, and named in the log.
    """

    pool_id: Uuid | None = field(default=None, name="storagepoolID")
    domain_class: int | None = field(default=None, name="domainClass")
    storage_type: int | None = field(default=None, name="storageType")
    remote_path: str | None = field(default=None, name="remotePath")


@verb("Host.getStorageRepoStats", owner="storage", reply=dict[str, Any], safe=True, tier=2)
class GetStorageRepoStats(Message, frozen=True, kw_only=True):
    """Health of the monitored domains, or of those in `domains`: as `storageDomains` of Host.getStats.

    Answered from the last checks; no storage is touched.
    """

    domains: list[Uuid] | None = None


@verb("Host.startMonitoringDomain", owner="storage", lane=Lane.KEYED, key="sd_id", tier=2)
class StartMonitoringDomain(Message, frozen=True, kw_only=True):
    """Monitor a domain and take its host id without a pool, as hosted-engine tools do.

    Returns when the monitor runs; whether the domain is well is told by Host.getStorageRepoStats. Asked again, it
    changes nothing.
    """

    sd_id: Uuid = field(name="sdUUID")
    host_id: int = field(name="hostID")


@verb("Host.stopMonitoringDomain", owner="storage", lane=Lane.KEYED, key="sd_id", tier=2)
class StopMonitoringDomain(Message, frozen=True, kw_only=True):
    """End what Host.startMonitoringDomain began, and give the host id back. A domain that is not monitored is fine.

    One that a connected pool needs is monitored on.
    """

    sd_id: Uuid = field(name="sdUUID")
