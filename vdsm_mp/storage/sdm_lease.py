# SPDX-License-Identifier: Apache-2.0
"""The SDM lease of a domain for as long as one change of its membership, role or format takes."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vdsm_mp.api.errors_storage import HostIdNotReleased, LockNotReleased
from vdsm_mp.storage.locks import ClusterLock

_log = logging.getLogger("storage.sanlock")


@contextmanager
def sdm_held(lock: ClusterLock, host_id: int, watched: Callable[[], bool]) -> Iterator[None]:
    """Inside the block nobody else makes such a change. The host id is given back afterwards.

    watched: does this host keep its id in that domain? Asked when the block ends: what the lock manager says before
    does not tell, when it is silent, or when an earlier life of this worker died in such a block.
    What cannot be given back now is logged: the change was made, or failed for another reason, and the lease is dropped
    with its connection. Raises: HostIdNotAcquired, HostIdDiffers, LockNotAcquired.
    """
    lock.wait_host_id(host_id, wanted=watched)
    try:
        lock.acquire(lock.sdm, host_id)
        try:
            yield
        finally:
            with _logged():
                lock.release(lock.sdm)
    finally:
        if not watched():
            with _logged():
                lock.release_host_id(host_id)


@contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except (LockNotReleased, HostIdNotReleased) as e:
        _log.error("%s", e)
