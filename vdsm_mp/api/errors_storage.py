# SPDX-License-Identifier: Apache-2.0
"""Errors of the storage room that cross a boundary, with VDSM's codes: access, domains, pools, the SPM role, locks.

Codes 304, 307, 310, 324, 355 make an engine reconstruct the master and 654 makes it elect a new SPM: they mean
exactly that here and are used for nothing else. Those of volumes, images and tasks are in files of their own.
"""

from vdsm_mp.common.errors import BadRequest, Conflict, Failed, NotFound, Unavailable


class IoTimedOut(Unavailable):
    """A request to an I/O child missed its deadline; it may still be carried out."""

    code = 379
    msg = "Storage path {self.path} did not answer {self.op} within {self.seconds:g} s"

    def __init__(self, path: str, op: str, seconds: float) -> None:
        super().__init__(path, op, seconds)
        self.path = path
        self.op = op
        self.seconds = float(seconds)


class IoChildDied(Unavailable):
    """The process that did the I/O ended; whether the operation was carried out is not known."""

    code = 379
    msg = "The I/O process of {self.path} died during {self.op}"

    def __init__(self, path: str, op: str) -> None:
        super().__init__(path, op)
        self.path = path
        self.op = op


class StoragePathBlocked(Unavailable):
    """Nothing was tried: earlier requests to the same path hang."""

    code = 379
    msg = "Storage path {self.path} is blocked: {self.reason}"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason


class StorageAccessFailed(Failed):
    """The operating system or the server refused an operation on a path of a domain. errno: as errno(3)."""

    code = 379
    msg = "{self.op} of {self.path} failed: {self.reason}"

    def __init__(self, path: str, op: str, errno: int, reason: str) -> None:
        super().__init__(path, op, errno, reason)
        self.path = path
        self.op = op
        self.errno = int(errno)
        self.reason = reason


class StorageFileMissing(StorageAccessFailed):
    """ENOENT, ENOTDIR."""


class StorageFileExists(StorageAccessFailed):
    """EEXIST, ENOTEMPTY."""


class StorageReadOnly(StorageAccessFailed):
    """EROFS."""


class StoragePermissionDenied(StorageAccessFailed):
    """EACCES, EPERM."""

    code = 385


class StorageLockHeld(StorageAccessFailed):
    """EAGAIN of a lock: somebody else holds it."""

    code = 651


class UnsafePath(StorageAccessFailed):
    """A symbolic link, device, FIFO or the like stands where a file or directory belongs, or a path leads outside."""


class StaleHandle(StorageAccessFailed):
    """ESTALE, and again after looking the root up anew."""

    code = 384


class NoSpaceLeft(StorageAccessFailed):
    """ENOSPC, EDQUOT."""

    code = 397


# --- domains


class DomainError(Failed):
    """Says which domain and why."""

    msg = "Storage domain {self.sd_id}: {self.reason}"

    def __init__(self, sd_id: str, reason: str) -> None:
        super().__init__(sd_id, reason)
        self.sd_id = sd_id
        self.reason = reason


class DomainNotFound(NotFound):
    code = 358
    msg = "Storage domain does not exist: {self.sd_id}"

    def __init__(self, sd_id: str) -> None:
        super().__init__(sd_id)
        self.sd_id = sd_id


class DomainExists(DomainError, Conflict):
    code = 365


class DomainTwice(DomainError, Conflict):
    """Connected storage holds it and a copy of it, and nobody can tell which is meant."""

    code = 371


class DomainNotEmpty(DomainError, Conflict):
    """The target holds a domain already; `reason` names it."""

    code = 361


class DomainMetadataInvalid(DomainError):
    """A file or a key that cannot be what it should; nothing is repaired."""

    code = 751


class DomainSealBroken(DomainError):
    """Nothing is repaired."""

    code = 752


class DomainMetadataRefused(DomainError):
    """A value that may not be written or used."""

    code = 753


class DomainStateWrong(DomainError, Conflict):
    code = 347


class DomainNotActive(DomainError, Conflict):
    code = 369


class DomainNotInPool(DomainError, Conflict):
    code = 353


class DomainAttachedElsewhere(DomainError, Conflict):
    code = 380


class MasterCannotBeDetached(DomainError, Conflict):
    code = 383


class DomainAttached(DomainError, Conflict):
    """An attached domain is not formatted."""

    code = 391


class DomainPoolConnected(DomainError, Conflict):
    """A domain of the pool this host is connected to is not formatted."""

    code = 392


class DomainTypeUnsupported(DomainError, BadRequest):
    code = 372
    msg = "Storage type is not supported: {self.reason}"


class DomainClassWrong(DomainError, BadRequest):
    code = 386


class DomainVersionUnsupported(DomainError, BadRequest):
    code = 394


class NotAscii(DomainError, BadRequest):
    """Old formats have no other letters."""

    code = 4900


class DomainVersionTooNew(DomainError, Conflict):
    code = 395


class DomainVersionsMixed(DomainError, Conflict):
    code = 398


class DomainTargetUnsupported(DomainError):
    """The file system cannot do direct I/O."""

    code = 399


class BlockSizeMismatch(DomainError, Conflict):
    code = 348


class RemotePathIllegal(DomainError, BadRequest):
    code = 390


class DomainNotMounted(DomainError, Conflict):
    code = 360


# --- pools and the SPM role


class PoolError(Failed):
    """Says which pool and why; nothing has changed."""

    code = 300
    msg = "Storage pool {self.pool_id}: {self.reason}"

    def __init__(self, pool_id: str, reason: str) -> None:
        super().__init__(pool_id, reason)
        self.pool_id = pool_id
        self.reason = reason


class PoolNotConnected(PoolError, NotFound):
    """An engine then sends StoragePool.connect and asks again."""

    code = 309


class MasterNotFound(PoolError):
    """The master domain cannot be found; makes an engine reconstruct."""

    code = 304


class WrongMaster(PoolError, Conflict):
    """Master id, role or version differ; makes an engine reconstruct."""

    code = 324


class ConnectedElsewhere(PoolError, Conflict):
    code = 323


class PoolIsConnected(PoolError, Conflict):
    code = 325


class IsoCannotBeMaster(PoolError, BadRequest):
    code = 317


class BackupCannotBeMaster(PoolError, BadRequest):
    code = 319


class OvfMissing(NotFound):
    code = 320
    msg = "Storage domain {self.sd_id} has no OVF of VM {self.vm_id}: {self.reason}"

    def __init__(self, sd_id: str, vm_id: str, reason: str) -> None:
        super().__init__(sd_id, vm_id, reason)
        self.sd_id = sd_id
        self.vm_id = vm_id
        self.reason = reason


class OvfDirectoryMissing(NotFound):
    """Only a master and an active export domain have one."""

    code = 322
    msg = "Storage domain {self.sd_id} has no directory for OVFs: {self.path}"

    def __init__(self, sd_id: str, path: str) -> None:
        super().__init__(sd_id, path)
        self.sd_id = sd_id
        self.path = path


class TooManyDomains(PoolError, Conflict):
    code = 328


class PoolDescriptionTooLong(PoolError, BadRequest):
    code = 327


class PoolUpgradeInProgress(PoolError, Conflict):
    code = 396


class NotSpm(PoolError, Conflict):
    """An engine elects a new SPM, or takes it as the answer to "are you?"."""

    code = 654


class IsSpm(PoolError, Conflict):
    code = 656


# --- cluster locks


class LockError(Failed):
    msg = "{self.what} on storage domain {self.sd_id}: {self.reason}"

    def __init__(self, sd_id: str, what: str, reason: str) -> None:
        super().__init__(sd_id, what, reason)
        self.sd_id = sd_id
        self.what = what
        self.reason = reason


class LockNotAcquired(LockError, Conflict):
    code = 651


class LockNotReleased(LockError):
    code = 660


class HostIdNotAcquired(LockError, Unavailable):
    """The host has none on this domain; it is tried again by the monitor."""

    code = 661


class HostIdNotReleased(LockError):
    code = 662


class HostIdDiffers(LockError, Conflict):
    code = 700


class LockInitFailed(LockError):
    """The lock cannot be used."""

    code = 701


class LockNotInspected(LockError, Unavailable):
    """Nothing was changed; who holds the lock is not known."""

    code = 702


# --- storage servers


class ServerConnectionFailed(Failed):
    code = 451
    msg = "Cannot connect {self.what}: {self.reason}"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason


class ServerDisconnectFailed(ServerConnectionFailed):
    code = 452


class ServerParametersInvalid(ServerConnectionFailed):
    """Nothing was connected."""

    code = 453


class ServerAccessDenied(ServerConnectionFailed):
    """The agent's user cannot use what was mounted."""

    code = 469


class GlusterReplicaRefused(ServerConnectionFailed):
    """Nothing was mounted."""

    code = 480


class MountFailed(ServerConnectionFailed):
    code = 477


class MountTypeInvalid(ServerConnectionFailed):
    code = 470


class ClaimTimedOut(Unavailable):
    """A storage object is held by another operation for too long."""

    code = 851
    msg = "{self.what} is still in use by {self.holder} after {self.seconds:g} s"

    def __init__(self, what: str, holder: str, seconds: float) -> None:
        super().__init__(what, holder, seconds)
        self.what = what
        self.holder = holder
        self.seconds = float(seconds)


#: What every verb of the SPM may answer before it begins.
SPM_ROLE = (PoolNotConnected, NotSpm)
#: The same for those that work on one domain of the pool.
SPM_ON_DOMAIN = (*SPM_ROLE, DomainNotInPool, DomainNotFound, DomainClassWrong)
#: Of work on a volume that is kept off others by its lease.
VOLUME_LEASE = (PoolNotConnected, LockNotAcquired)
#: For verbs that any host of the pool serves.
HOST_ON_DOMAIN = (PoolNotConnected, DomainNotFound)
DOMAIN_UNREADABLE = (DomainMetadataInvalid, DomainSealBroken, DomainVersionUnsupported)
NEW_MASTER = (IsoCannotBeMaster, BackupCannotBeMaster)
#: Storage that does not answer, refuses, is damaged, full or in use: of any verb that works on a domain.
STORAGE_ACCESS = (
    IoTimedOut,
    IoChildDied,
    StoragePathBlocked,
    StorageAccessFailed,
    StaleHandle,
    StoragePermissionDenied,
    NoSpaceLeft,
    ClaimTimedOut,
    *DOMAIN_UNREADABLE,
    DomainTwice,
)
