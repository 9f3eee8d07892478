# SPDX-License-Identifier: Apache-2.0
"""What a volume is, as clients read it: one request to the I/O child, one to sanlock where there are leases."""

import logging

from msgspec import UNSET, UnsetType

from vdsm_mp.api.errors_storage import LockNotInspected
from vdsm_mp.api.errors_volume import ImageIsNotLegalChain, VolumeMetadataBadValue
from vdsm_mp.api.volume_look import VolumeInfo, VolumeLease
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.locks import ClusterLock, Lease
from vdsm_mp.storage.volume_change import virtual_size
from vdsm_mp.storage.volume_file import LEASE, read_volume, volume_path

_log = logging.getLogger("storage.volume")


def lease_of(domain: FileDomain, image_id: str, volume_id: str) -> Lease | None:
    """Where the volume's lease is; None on a domain whose volumes have none."""
    if not domain.format.volume_leases:
        return None
    return Lease(volume_id, domain.io.path_of(volume_path(image_id, volume_id) + LEASE), 0)


def volume_info(domain: FileDomain, lock: ClusterLock, image_id: str, volume_id: str) -> VolumeInfo:
    """Volume.getInfo. Raises: VolumeDoesNotExist, VolumeMetadataInvalid, VolumeMetadataBadValue, storage errors."""
    metadata, file = read_volume(domain, image_id, volume_id)
    # Zero while a qcow2 volume grows, and after a death then until somebody puts it right.
    try:
        capacity = metadata.capacity or virtual_size(domain, image_id, volume_id, metadata, file)
    except ImageIsNotLegalChain as e:
        raise VolumeMetadataBadValue(volume_id, f"capacity is 0, and {e}") from e
    if capacity < 1:
        raise VolumeMetadataBadValue(volume_id, f"capacity is {capacity}")
    return VolumeInfo(
        uuid=volume_id,
        type=metadata.type,
        format=metadata.format,
        disktype=metadata.disk_type,
        voltype=metadata.voltype,
        capacity=str(capacity),
        parent=metadata.parent,
        description=metadata.description,
        domain=metadata.sd_id,
        image=metadata.image_id,
        ctime=str(metadata.ctime),
        legality=metadata.legality,
        generation=metadata.generation,
        sequence=metadata.sequence,
        apparentsize=str(file.size_bytes),
        truesize=str(file.allocated_bytes),
        status="OK" if metadata.legal else "ILLEGAL",
        children=[],
        lease=_lease(domain, lock, image_id, volume_id),
    )


def _lease(domain: FileDomain, lock: ClusterLock, image_id: str, volume_id: str) -> VolumeLease | UnsetType | None:
    lease = lease_of(domain, image_id, volume_id)
    if lease is None:
        return UNSET
    try:
        owner = lock.inspect(lease)
    except LockNotInspected as e:  # the lockspace is not joined yet, or the lease is damaged: the rest is still true
        _log.warning("volume %s: its lease is not known: %s", volume_id, e)
        return None
    if owner.host_id is None:
        return VolumeLease(path=lease.path, offset=lease.offset, owners=[], version=None)
    return VolumeLease(path=lease.path, offset=lease.offset, owners=[owner.host_id], version=owner.version)
