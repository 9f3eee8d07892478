# SPDX-License-Identifier: Apache-2.0
"""Handlers of ManagedVolume.*."""

from typing import Any

from vdsm_mp.api.managed_volume import (
    AttachManagedVolumeVolume,
    DetachManagedVolumeVolume,
    GetConnectorInfo,
    ListManagedVolumes,
)
from vdsm_mp.api.verb import handles
from vdsm_mp.storage.managed import ManagedVolumes


@handles(AttachManagedVolumeVolume)
def attach_volume(managed: ManagedVolumes, ask: AttachManagedVolumeVolume) -> dict[str, Any]:
    return managed.attach(ask.vol_id, ask.sd_id, ask.connection_info)


@handles(DetachManagedVolumeVolume)
def detach_volume(managed: ManagedVolumes, ask: DetachManagedVolumeVolume) -> None:
    managed.detach(ask.vol_id)


@handles(ListManagedVolumes)
def volumes_info(managed: ManagedVolumes, ask: ListManagedVolumes) -> list[dict[str, Any]]:
    return managed.infos(ask.vol_ids or [])


@handles(GetConnectorInfo)
def connector_info(managed: ManagedVolumes, ask: GetConnectorInfo) -> dict[str, Any]:
    return managed.connector_info()
