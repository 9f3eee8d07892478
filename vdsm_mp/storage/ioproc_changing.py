# SPDX-License-Identifier: Apache-2.0
"""Operations of an I/O child that change files and directories: on disk when they return.

Rules of all operations: `ioproc_operations.py`.
"""

import contextlib
import errno
import os
import stat

from vdsm_mp.storage.ioproc_direct import aligned
from vdsm_mp.storage.ioproc_facts import entries
from vdsm_mp.storage.ioproc_paths import Root


def write(root: Root, path: str, offset: int, direct: bool, body: bytes) -> None:
    """Write in place; the file exists already and neither shrinks nor is created. On disk when it returns."""
    with root.file(path, os.O_WRONLY | (os.O_DIRECT if direct else 0)) as fd:
        if direct:
            view = aligned(len(body))
            view[:] = body
            write_all(fd, view, offset)
        else:
            write_all(fd, memoryview(body), offset)
        os.fsync(fd)


def create(root: Root, path: str, mode: int, size: int, body: bytes) -> None:
    """A new file, exactly `mode`, `size` bytes long (sparse), beginning with the body. EEXIST when it is there."""
    with root.parent(path) as (above, name):
        _make(above, name, mode, size, body)
    sync_above(root, path)


def replace(root: Root, path: str, mode: int, body: bytes) -> None:
    """All or nothing: `PATH.new` is written, synced and renamed over PATH."""
    with root.parent(path) as (above, name):
        aside = f"{name}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=above)
        _make(above, aside, mode, 0, body)
        os.rename(aside, name, src_dir_fd=above, dst_dir_fd=above)
    sync_above(root, path)


def _make(above: int, name: str, mode: int, size: int, body: bytes) -> None:
    """A new file in an open directory, at least `size` bytes long; none when that fails. Its name is not synced."""
    fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=above)
    try:
        os.fchmod(fd, mode)
        write_all(fd, memoryview(body), 0)
        if size > len(body):
            os.ftruncate(fd, size)
        os.fsync(fd)
    except OSError:
        os.unlink(name, dir_fd=above)
        raise
    finally:
        os.close(fd)


def truncate(root: Root, path: str, size: int) -> None:
    with root.file(path, os.O_WRONLY) as fd:
        os.ftruncate(fd, size)
        os.fsync(fd)


def mkdir(root: Root, path: str, mode: int, parents: bool, exist_ok: bool) -> None:
    """mode is exact for the last directory; those above it that are made too get 0755."""
    parts = path.split("/")
    first = 1 if parents else len(parts)
    for count in range(first, len(parts) + 1):
        where = "/".join(parts[:count])
        last = count == len(parts)
        with root.parent(where) as (above, name):
            try:
                os.mkdir(name, 0o700, dir_fd=above)
            except FileExistsError:
                if (last and not exist_ok) or not stat.S_ISDIR(root.stat(where).st_mode):
                    raise
                continue
        with root.directory(where) as fd:
            os.fchmod(fd, mode if last else 0o755)
        sync_above(root, where)


def link(root: Root, source: str, target: str, overwrite: bool) -> None:
    """Hard link; overwrite: an existing target is replaced in one step (its new name is `TARGET.new` meanwhile)."""
    with root.parent(source) as (from_fd, from_name), root.parent(target) as (to_fd, to_name):
        if not stat.S_ISREG(os.stat(from_name, dir_fd=from_fd, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, "not a regular file", source)
        try:
            os.link(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)
        except FileExistsError:
            if not overwrite:
                raise
            aside = f"{to_name}.new"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=to_fd)
            os.link(from_name, aside, src_dir_fd=from_fd, dst_dir_fd=to_fd, follow_symlinks=False)
            os.rename(aside, to_name, src_dir_fd=to_fd, dst_dir_fd=to_fd)
            # rename(2) does nothing when both names are the same file already; the name aside then stays.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=to_fd)
    sync_above(root, target)


def rename(root: Root, source: str, target: str) -> None:
    with root.parent(source) as (from_fd, from_name), root.parent(target) as (to_fd, to_name):
        os.rename(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
    sync_above(root, target)
    if source.rpartition("/")[0] != target.rpartition("/")[0]:
        sync_above(root, source)


def unlink(root: Root, path: str) -> None:
    with root.parent(path) as (above, name):
        os.unlink(name, dir_fd=above)
    sync_above(root, path)


def rmdir(root: Root, path: str) -> None:
    with root.parent(path) as (above, name):
        os.rmdir(name, dir_fd=above)
    sync_above(root, path)


def remove_tree(root: Root, path: str) -> None:
    """Remove a directory and all in it; links are removed, not followed. Absent is fine."""
    try:
        with root.directory(path) as fd:
            inside = [(entry.name, kind) for entry, kind in entries(fd)]
            for name, kind in inside:
                if kind != "dir":
                    os.unlink(name, dir_fd=fd)
        for name, kind in inside:
            if kind == "dir":
                remove_tree(root, f"{path}/{name}")
        rmdir(root, path)
    except FileNotFoundError:
        return


def fsync(root: Root, path: str) -> None:
    """A regular file or a directory."""
    if stat.S_ISDIR(root.stat(path).st_mode):
        with root.directory(path) as fd:
            os.fsync(fd)
    else:
        with root.file(path, os.O_RDONLY) as fd:
            os.fsync(fd)


def chmod(root: Root, path: str, mode: int) -> None:
    if stat.S_ISDIR(root.stat(path).st_mode):
        with root.directory(path) as fd:
            os.fchmod(fd, mode)
    else:
        with root.file(path, os.O_RDONLY) as fd:
            os.fchmod(fd, mode)


def write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(fd, view, offset)
        view = view[count:]
        offset += count


def sync_above(root: Root, path: str) -> None:
    """The name itself is durable only once its directory is."""
    with root.directory(path.rpartition("/")[0]) as fd:
        os.fsync(fd)
