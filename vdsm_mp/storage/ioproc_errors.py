# SPDX-License-Identifier: Apache-2.0
"""What an errno of an I/O child means to those who asked."""

import errno

from vdsm_mp.api.errors_storage import (
    NoSpaceLeft,
    StaleHandle,
    StorageAccessFailed,
    StorageFileExists,
    StorageFileMissing,
    StorageLockHeld,
    StoragePermissionDenied,
    StorageReadOnly,
    UnsafePath,
)

_BY_ERRNO: dict[int, type[StorageAccessFailed]] = {
    errno.ENOENT: StorageFileMissing,
    errno.ENOTDIR: StorageFileMissing,
    errno.EEXIST: StorageFileExists,
    errno.ENOTEMPTY: StorageFileExists,
    errno.EROFS: StorageReadOnly,
    errno.EACCES: StoragePermissionDenied,
    errno.EPERM: StoragePermissionDenied,
    errno.EAGAIN: StorageLockHeld,
    errno.ELOOP: UnsafePath,
    errno.EXDEV: UnsafePath,
    errno.ESTALE: StaleHandle,
    errno.ENOSPC: NoSpaceLeft,
    errno.EDQUOT: NoSpaceLeft,
}


def by_errno(error: OSError, op: str, path: str) -> StorageAccessFailed:
    """The error of the tree for what the kernel said. op: the child's operation; path: absolute."""
    number = error.errno or errno.EIO
    cls = _BY_ERRNO.get(number, StorageAccessFailed)
    return cls(path, op, number, error.strerror or str(error))
