# SPDX-License-Identifier: Apache-2.0
"""LVMVolumeGroup.* and ISCSIConnection.*: block storage. Ids of volume groups are LVM's own, no UUIDs."""

from typing import Any

from msgspec import field

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Message, verb


@verb("ISCSIConnection.discoverSendTargets", owner="storage", reply=list[str], tier=2, planned=True)
class DiscoverSendTargets(Message, frozen=True, kw_only=True):
    """Ask an iSCSI portal for its targets."""

    host: str
    port: int
    user: str | None = None
    password: str | None = None
    ipv6_enabled: bool | None = None


@verb("LVMVolumeGroup.create", owner="storage", reply=str, tier=2, planned=True)
class CreateVolumeGroup(Message, frozen=True, kw_only=True):
    """Make a volume group of LUNs."""

    vg_id: str | None = field(default=None, name="lvmvolumegroupID")
    name: Uuid
    devlist: list[str]
    force: bool | None = None


@verb("LVMVolumeGroup.getInfo", owner="storage", reply=dict[str, Any], safe=True, tier=2, planned=True)
class GetVolumeGroupInfo(Message, frozen=True, kw_only=True):
    """A volume group and its physical volumes."""

    vg_id: str = field(name="lvmvolumegroupID")


@verb("LVMVolumeGroup.remove", owner="storage", tier=3, planned=True)
class RemoveVolumeGroup(Message, frozen=True, kw_only=True):
    """Remove a volume group."""

    vg_id: str = field(name="lvmvolumegroupID")
