# SPDX-License-Identifier: Apache-2.0
"""The frame around every data operation of a job: the volume's lease, its generation, and its legality.

A job whose host dies tells nothing. Whoever asks reads the volume: same generation and LEGAL = not begun (or it does
not mark), same generation and ILLEGAL = began and did not end, next generation = done.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from vdsm_mp.api.errors_storage import LockNotAcquired, LockNotInspected, LockNotReleased, PoolNotConnected
from vdsm_mp.api.errors_volume import GenerationMismatch
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.locks import Lease
from vdsm_mp.storage.sanlock import SanlockLock
from vdsm_mp.storage.volume_access import Volumes
from vdsm_mp.storage.volume_file import change_metadata, read_volume
from vdsm_mp.storage.volume_info import lease_of
from vdsm_mp.storage.volume_metadata import VolumeMetadata, next_generation

_log = logging.getLogger("storage.volume")


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
    changed then. LockNotAcquired also when the lease was lost meanwhile: then it tells of no success.
    """
    with _lease(volumes, domain, image_id, volume_id) as require_lease:
        metadata, _ = read_volume(domain, image_id, volume_id)
        if generation is not None and metadata.generation != generation:
            raise GenerationMismatch(volume_id, generation, metadata.generation)
        if set_illegal:
            change_metadata(domain, image_id, volume_id, legality="ILLEGAL")
        yield metadata
        require_lease()
        if raise_generation:
            changes = {"generation": next_generation(metadata.generation)}
            if set_illegal:
                changes["legality"] = "LEGAL"  # type: ignore[assignment]
            change_metadata(domain, image_id, volume_id, **changes)


@contextmanager
def _lease(volumes: Volumes, domain: FileDomain, image_id: str, volume_id: str) -> Iterator[Callable[[], None]]:
    """Yields what refuses when the lease is ours no more: then another host may be at work on the volume."""
    lease = lease_of(domain, image_id, volume_id)
    lock, state = volumes.leases_of(domain), volumes.pools.state
    if lease is None or lock is None:
        yield lambda: None
        return
    if state is None:  # and so no host id, without which nobody else is kept off
        raise PoolNotConnected("-", f"volume {volume_id} is written under its lease only")
    lock.acquire(lease, state.host_id)
    try:
        yield partial(_require, domain.sd_id, lock, lease)
    finally:
        try:
            lock.release(lease)
        except LockNotReleased as e:  # it goes with its connection; what was done, or why not, is told
            _log.error("%s", e)


def _require(sd_id: str, lock: SanlockLock, lease: Lease) -> None:
    """Raises: LockNotAcquired."""
    try:
        held = lock.holds(lease)
    except LockNotInspected as e:  # nobody is given it for minutes after a host falls silent
        _log.warning("whether lease %s is still held is not known: %s", lease.name, e)
        return
    if not held:
        raise LockNotAcquired(sd_id, lease.name, "it was lost while the volume was worked on")
