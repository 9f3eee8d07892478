# SPDX-License-Identifier: Apache-2.0
"""ManagedVolume.*: volumes managed by os-brick."""

from typing import Any

from vdsm_mp.api.errors_managed import (
    ManagedVolumeAlreadyAttached,
    ManagedVolumeConnectionMismatch,
    ManagedVolumeHelperFailed,
    ManagedVolumeNotSupported,
    ManagedVolumeUnsupportedDevice,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb

#: A target that does not answer costs the initiator's own patience; engines wait three minutes for a verb.
_PATIENCE_S = 150.0


@verb(
    "ManagedVolume.attach_volume",
    owner="storage",
    lane=Lane.KEYED,
    key="vol_id",
    reply=dict[str, Any],
    deadline_s=_PATIENCE_S,
    tier=3,
    raises=(
        ManagedVolumeNotSupported,
        ManagedVolumeHelperFailed,
        ManagedVolumeAlreadyAttached,
        ManagedVolumeUnsupportedDevice,
        ManagedVolumeConnectionMismatch,
    ),
)
class AttachManagedVolumeVolume(Message, frozen=True, kw_only=True):
    """Attach a volume of Cinderlib through os-brick; answers vol_id, attachment, path and managed_path.

    connection_info: {driver_volume_type: rbd, iscsi, lightos, local or storpool, data, adapter?}. The device belongs to
    the agent's user and is open to guests by managed_path. One whose attaching was cut short may be asked again.
    """

    vol_id: Uuid
    connection_info: dict[str, Any]
    sd_id: Uuid | None = None


@verb(
    "ManagedVolume.detach_volume",
    owner="storage",
    lane=Lane.KEYED,
    key="vol_id",
    deadline_s=_PATIENCE_S,
    tier=3,
    raises=(ManagedVolumeNotSupported, ManagedVolumeHelperFailed),
)
class DetachManagedVolumeVolume(Message, frozen=True, kw_only=True):
    """Detach a volume of Cinderlib; not attached is fine. When it fails it stays recorded, and may be asked again."""

    vol_id: Uuid
    sd_id: Uuid | None = None


@verb(
    "ManagedVolume.volumes_info",
    owner="storage",
    reply=list[dict[str, Any]],
    safe=True,
    tier=3,
    raises=(ManagedVolumeHelperFailed,),
)
class ListManagedVolumes(Message, frozen=True, kw_only=True):
    """Volumes of Cinderlib that are recorded here: vol_id, connection_info, and once attached path, attachment, exists.

    vol_ids: only these; one that is not recorded is left out.
    """

    vol_ids: list[Uuid] | None = None


@verb("internal.connector_info", owner="storage", reply=dict[str, Any], safe=True, internal=True, deadline_s=40)
class GetConnectorInfo(Message, frozen=True, kw_only=True):
    """What os-brick tells of this host as an initiator; empty without os-brick."""
