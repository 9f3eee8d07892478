# SPDX-License-Identifier: Apache-2.0
"""The frame around every data operation of a job: the volume's lease, its generation, and its legality.

A job whose host dies tells nothing. Whoever asks reads the volume: same generation and LEGAL = not begun (or it does
not mark), same generation and ILLEGAL = began and did not end, next generation = done.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from vdsm_mp.api.errors_storage import PoolNotConnected
from vdsm_mp.api.errors_volume import GenerationMismatch
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.volume_access import Volumes
from vdsm_mp.storage.volume_file import change_metadata, read_volume
from vdsm_mp.storage.volume_info import lease_of
from vdsm_mp.storage.volume_metadata import VolumeMetadata, next_generation


@contextmanager
def operation(
    volumes: Volumes,
    domain: FileDomain,
    image_id: str,
    volume_id: str,
    *,
    generation: int | None,
    set_illegal: bool,
    raise_generation: bool = True,
) -> Iterator[VolumeMetadata]:
    """Inside, the volume is this host's. The caller holds the image exclusively; no program runs on it when it ends.

    set_illegal: the data is not usable while the operation runs, nor after it failed.
    Raises: GenerationMismatch (911), LockNotAcquired (another host has the volume), PoolNotConnected (309): nothing has
    changed then.
    """
    with _lease(volumes, domain, image_id, volume_id):
        metadata, _ = read_volume(domain, image_id, volume_id)
        if generation is not None and metadata.generation != generation:
            raise GenerationMismatch(volume_id, generation, metadata.generation)
        if set_illegal:
            change_metadata(domain, image_id, volume_id, legality="ILLEGAL")
        yield metadata
        if raise_generation:
            changes = {"generation": next_generation(metadata.generation)}
            if set_illegal:
                changes["legality"] = "LEGAL"  # type: ignore[assignment]
            change_metadata(domain, image_id, volume_id, **changes)


@contextmanager
def _lease(volumes: Volumes, domain: FileDomain, image_id: str, volume_id: str) -> Iterator[None]:
    lease = lease_of(domain, image_id, volume_id)
    lock, state = volumes.leases_of(domain), volumes.pools.state
    if lease is None or lock is None:
        yield
        return
    if state is None:  # and so no host id, without which nobody else is kept off
        raise PoolNotConnected("-", f"volume {volume_id} is written under its lease only")
    lock.acquire(lease, state.host_id)
    try:
        yield
    finally:
        lock.release(lease)
