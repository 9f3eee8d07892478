# SPDX-License-Identifier: Apache-2.0
"""Opening things below a domain's root so that nothing planted there can lead outside. Used by the I/O child only.

Every path is relative and is resolved by openat2(2) beneath the root, through no symbolic link at all; what is
opened for data must be a regular file, checked on the descriptor before anything with a side effect is done to it.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE = _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
#: BENEATH answers EAGAIN when a rename raced with the walk.
_RACES = 16


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _openat2(dir_fd: int, path: str, flags: int, mode: int = 0) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, mode, _RESOLVE)
    raw = os.fsencode(path)
    for _ in range(_RACES):
        fd = _libc.syscall(_SYS_OPENAT2, dir_fd, raw, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return int(fd)
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            raise OSError(number, os.strerror(number), path)
    raise OSError(errno.EAGAIN, "the path changed all the time while it was resolved", path)


class Root:
    """A directory everything else is looked up beneath. Reopened when the server says that the handle is stale."""

    def __init__(self, path: str, beneath: str = "") -> None:
        """path: absolute, trusted (it comes from a connection of ours). beneath: untrusted part below it, or ""."""
        self._path = path
        self._beneath = beneath
        self._fd = self._open()

    def _open(self) -> int:
        top = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if not self._beneath:
            return top
        try:
            return _openat2(top, self._beneath, os.O_PATH | os.O_DIRECTORY)
        finally:
            os.close(top)

    def reopen(self) -> None:
        """Look it up once more by name. In one step: other threads are looking things up beneath the old one.

        Raises: as `follow`.
        """
        fresh = self._named_now()
        try:
            os.dup2(fresh, self._fd, inheritable=False)
        finally:
            os.close(fresh)

    def follow(self) -> None:
        """Go over to what has the root's name now. Raises: OSError, ESTALE when nothing has it.

        A directory that was moved away, or over which something is mounted, can still be used by who has it open.
        Guests go by the name: both must not be in different places.
        """
        fresh = self._named_now()
        try:
            if not self._is(fresh):
                os.dup2(fresh, self._fd, inheritable=False)
        finally:
            os.close(fresh)

    def _named_now(self) -> int:
        try:
            return self._open()
        except (FileNotFoundError, NotADirectoryError) as error:
            # Not ENOENT: nobody may take a file for removed because the way to it is gone.
            raise OSError(errno.ESTALE, "the directory is not there any more", self._path) from error

    def _is(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.fstat(self._fd))
        except OSError:  # the handle is stale
            return False

    @contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """A readable descriptor of a directory."""
        fd = _openat2(self._fd, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """(descriptor of the directory that holds `path`, last name of `path`)."""
        above, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            raise OSError(errno.EINVAL, "not a name of a file", path)
        fd = _openat2(self._fd, above or ".", os.O_PATH | os.O_DIRECTORY)
        try:
            yield fd, name
        finally:
            os.close(fd)

    @contextmanager
    def file(self, path: str, flags: int) -> Iterator[int]:
        """A descriptor of an existing regular file, opened with `flags`."""
        fd = self.open_file(path, flags)
        try:
            yield fd
        finally:
            os.close(fd)

    def open_file(self, path: str, flags: int) -> int:
        """Like `file`, but the caller closes. A FIFO, device, socket, directory or link is refused unopened."""
        look = _openat2(self._fd, path, os.O_PATH | os.O_NOFOLLOW)
        try:
            if not stat.S_ISREG(os.fstat(look).st_mode):
                raise OSError(errno.ELOOP, "not a regular file", path)
            # Through the descriptor that was looked at: whatever takes its name meanwhile does not matter.
            return os.open(f"/proc/self/fd/{look}", flags | os.O_CLOEXEC)
        finally:
            os.close(look)

    def stat(self, path: str) -> os.stat_result:
        """Of the thing itself; a link is not followed."""
        if path in ("", "."):
            return os.fstat(self._fd)
        with self.parent(path) as (above, name):
            return os.stat(name, dir_fd=above, follow_symlinks=False)

    def statvfs(self) -> os.statvfs_result:
        with self.directory(".") as fd:
            return os.fstatvfs(fd)
