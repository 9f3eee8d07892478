# SPDX-License-Identifier: Apache-2.0
"""Cluster locks of a domain as the rest of the room sees them, and the local one of a local domain.

Three kinds share one face (`ClusterLock`): `sanlock.SanlockLock` for domains that several hosts see, `StampLock` for
such ones of old versions, `LocalLock` here.
A host id is this host's seat in a domain's lockspace: taken once, kept over restarts of the agent, given back only
when the domain is left. A lease is held by this process and gone with it.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Protocol

import msgspec

from vdsm_mp.api.errors_storage import HostIdDiffers, LockNotAcquired, StorageFileMissing, StorageLockHeld
from vdsm_mp.storage.domain_file import IDS, FileDomain

#: Written on storage by every host.
SDM = "SDM"
#: For moments before a pool exists; never given to a host.
TEMPORARY_HOST_ID = 250


class Lease(msgspec.Struct, frozen=True):
    """One resource: its name, the file that holds it and where in it."""

    name: str
    path: str
    offset: int


class Owner(msgspec.Struct, frozen=True):
    """Who holds a lease. version: counts its holders; host_id: None = nobody."""

    version: int
    host_id: int | None


class ClusterLock(Protocol):
    @property
    def sdm(self) -> Lease:
        """The lease of the SPM role, on a master, and of changing membership, on any domain."""
        ...

    def initialize(self) -> None:
        """Write lockspace and SDM lease of a new domain. Raises: LockInitFailed."""
        ...

    def request_host_id(self, host_id: int) -> None:
        """Begin to take the host id; returns at once. Having it, or being about to, is fine."""
        ...

    def wait_host_id(self, host_id: int, *, within_s: float = 180.0, wanted: Callable[[], bool] = lambda: True) -> None:
        """Take it and wait. wanted: asked when it comes only after the wait; unless it is, it is given back then.

        Raises: HostIdNotAcquired, HostIdDiffers.
        """
        ...

    def has_host_id(self, host_id: int) -> bool:
        """True only when it is ours for sure. Quick, never raises."""
        ...

    def release_host_id(self, host_id: int) -> None:
        """Give it back; not having it is fine. Raises: HostIdNotReleased."""
        ...

    def acquire(self, lease: Lease, host_id: int) -> None:
        """Hold a lease. Raises: LockNotAcquired (somebody else has it, or it cannot be told)."""
        ...

    def release(self, lease: Lease) -> None:
        """Let it go; not holding it is fine. Raises: LockNotReleased."""
        ...

    def holds(self, lease: Lease) -> bool:
        """Is it ours, by the facts of the lock manager? Raises: LockNotInspected (cannot be told now)."""
        ...

    def inspect(self, lease: Lease) -> Owner:
        """Who has it, by what is on storage. Raises: LockNotInspected."""
        ...


class LocalLock:
    """A local domain has one host: an flock on `ids`, held as long as the descriptor is open, so gone with us."""

    def __init__(self, domain: FileDomain) -> None:
        self._domain = domain
        self._lock = threading.Lock()
        self._host_id: int | None = None
        self._fd: int | None = None
        self._holder: int | None = None

    @property
    def sdm(self) -> Lease:
        return Lease(SDM, self._domain.io.path_of(IDS), 0)

    def initialize(self) -> None:
        """Nothing is on storage: `ids` and `leases` stay empty."""

    def request_host_id(self, host_id: int) -> None:
        self._host_id = host_id

    def wait_host_id(self, host_id: int, *, within_s: float = 180.0, wanted: Callable[[], bool] = lambda: True) -> None:
        if self._host_id not in (None, host_id):
            raise HostIdDiffers(self._domain.sd_id, f"host id {host_id}", f"host id {self._host_id} is in use")
        self._host_id = host_id

    def has_host_id(self, host_id: int) -> bool:
        return self._host_id == host_id

    def release_host_id(self, host_id: int) -> None:
        self._host_id = None

    def acquire(self, lease: Lease, host_id: int) -> None:
        with self._lock:
            if self._fd is None:
                self._fd = self._open()
            self._holder = host_id

    def _open(self) -> int:
        try:
            return self._domain.io.open_locked(IDS)
        except StorageLockHeld:
            raise LockNotAcquired(self._domain.sd_id, SDM, "another process of this host has it") from None
        except StorageFileMissing:
            raise LockNotAcquired(self._domain.sd_id, SDM, f"{IDS} is missing") from None

    def release(self, lease: Lease) -> None:
        with self._lock:
            fd, self._fd, self._holder = self._fd, None, None
        if fd is not None:
            with contextlib.suppress(OSError):  # closing tells of errors of a file we never wrote
                os.close(fd)

    def holds(self, lease: Lease) -> bool:
        return self._fd is not None

    def inspect(self, lease: Lease) -> Owner:
        return Owner(0, self._holder)


class Locks:
    """The lock of each domain. A lock outlives the domain's record here: what it holds is not read from storage."""

    def __init__(self, make: Callable[[FileDomain], ClusterLock]) -> None:
        """make: a new lock for a domain; reads the domain's metadata."""
        self.make = make
        self._lock = threading.Lock()
        self._locks: dict[str, ClusterLock] = {}

    def of(self, domain: FileDomain) -> ClusterLock:
        """Raises: what reading the domain's metadata raises, the first time."""
        known = self._locks.get(domain.sd_id)
        if known is None:
            made = self.make(domain)
            with self._lock:
                known = self._locks.setdefault(domain.sd_id, made)
        return known

    def drop(self, sd_id: str) -> None:
        """The domain left this host (or was destroyed); its host id was given back before."""
        with self._lock:
            self._locks.pop(sd_id, None)
