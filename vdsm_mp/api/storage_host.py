# SPDX-License-Identifier: Apache-2.0
"""Host.* answered by the storage worker: domains, devices, monitoring."""

from typing import Any

from msgspec import field

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb("Host.getConnectedStoragePools", owner="storage", reply=list[Uuid], safe=True, tier=2)
class GetConnectedStoragePools(Message, frozen=True, kw_only=True):
    """Ids of connected pools."""


@verb("Host.getDeviceList", owner="storage", reply=list[dict[str, Any]], safe=True, tier=2, planned=True)
class GetDeviceList(Message, frozen=True, kw_only=True):
    """Visible block devices (LUNs)."""

    storage_type: str | None = field(default=None, name="storageType")
    guids: list[str] | None = None
    check_status: bool | None = field(default=None, name="checkStatus")
    refresh: bool | None = None


@verb("Host.getDevicesVisibility", owner="storage", reply=dict[str, Any], safe=True, tier=2, planned=True)
class GetDevicesVisibility(Message, frozen=True, kw_only=True):
    """Which of the given LUNs are visible."""

    guid_list: list[Uuid] = field(name="guidList")


@verb("Host.getLVMVolumeGroups", owner="storage", reply=list[dict[str, Any]], safe=True, tier=3, planned=True)
class GetLvmVolumeGroups(Message, frozen=True, kw_only=True):
    """All volume groups."""

    storage_type: str | None = field(default=None, name="storageType")


@verb("Host.getStorageDomains", owner="storage", reply=list[Uuid], safe=True, tier=2)
class GetStorageDomains(Message, frozen=True, kw_only=True):
    """Ids of domains found (import flow)."""

    pool_id: Uuid | None = field(default=None, name="storagepoolID")
    domain_class: int | None = field(default=None, name="domainClass")
    storage_type: int | None = field(default=None, name="storageType")
    remote_path: str | None = field(default=None, name="remotePath")


@verb("Host.getStorageRepoStats", owner="storage", reply=dict[str, Any], safe=True, tier=2)
class GetStorageRepoStats(Message, frozen=True, kw_only=True):
    """Health of the monitored domains only."""

    domains: list[Uuid] | None = None


@verb("Host.startMonitoringDomain", owner="storage", lane=Lane.KEYED, key="sd_id", tier=2)
class StartMonitoringDomain(Message, frozen=True, kw_only=True):
    """Monitor a domain (and take its host id) without a pool."""

    sd_id: Uuid = field(name="sdUUID")
    host_id: int = field(name="hostID")


@verb("Host.stopMonitoringDomain", owner="storage", lane=Lane.KEYED, key="sd_id", tier=2)
class StopMonitoringDomain(Message, frozen=True, kw_only=True):
    """Undo startMonitoringDomain."""

    sd_id: Uuid = field(name="sdUUID")
