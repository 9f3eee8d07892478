# SPDX-License-Identifier: Apache-2.0
"""Errors of the storage room that cross a boundary, with VDSM's codes: access, domains, pools, the SPM role, locks.

Codes 304, 307, 310, 324, 355 make an engine reconstruct the master and 654 makes it elect a new SPM: they mean
exactly that here and are used for nothing else. Those of volumes, images and tasks are in `errors_volume.py`.
"""

from vdsm_mp.common.errors import Failed, Unavailable


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
