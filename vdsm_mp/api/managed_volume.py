# SPDX-License-Identifier: Apache-2.0
"""ManagedVolume.*: volumes managed by os-brick."""

from typing import Any

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Message, verb


@verb("ManagedVolume.attach_volume", owner="storage", reply=dict[str, Any], tier=3, planned=True)
class AttachManagedVolumeVolume(Message, frozen=True, kw_only=True):
    """Attach a volume of Cinderlib through os-brick."""

    vol_id: Uuid
    connection_info: dict[str, Any]
    sd_id: Uuid | None = None


@verb("ManagedVolume.detach_volume", owner="storage", tier=3, planned=True)
class DetachManagedVolumeVolume(Message, frozen=True, kw_only=True):
    """Detach a volume of Cinderlib."""

    vol_id: Uuid
    sd_id: Uuid | None = None


@verb("ManagedVolume.volumes_info", owner="storage", reply=list[dict[str, Any]], safe=True, tier=3, planned=True)
class ListManagedVolumes(Message, frozen=True, kw_only=True):
    """Volumes of Cinderlib that are attached."""

    vol_ids: list[Uuid] | None = None
