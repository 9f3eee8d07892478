# SPDX-License-Identifier: Apache-2.0
"""Operations of an I/O child that are several steps on storage but one request: task directories, image directories.

The steps and their order are what a crash between them must not spoil; they stand here, next to each other.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from vdsm_mp.storage.ioproc_changing import remove_tree, sync_above, write_all
from vdsm_mp.storage.ioproc_facts import entry_names, readable, stat_fields
from vdsm_mp.storage.ioproc_paths import Root
from vdsm_mp.storage.ioproc_reading import read


def save_directory(root: Root, path: str, files: dict[str, str]) -> None:
    """`path` has exactly these files, or is as it was. Written to PATH.temp; the old one is PATH.backup meanwhile.

    A reader after a crash takes PATH, else PATH.temp, else PATH.backup; the last of `files` completes the directory.
    """
    temp, backup = f"{path}.temp", f"{path}.backup"
    try:
        _make_directory(root, temp)
    except FileExistsError:
        remove_tree(root, temp)
        _make_directory(root, temp)
    with root.directory(temp) as fd:
        written = []
        try:
            for name, text in files.items():
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                written.append(os.open(name, flags, 0o600, dir_fd=fd))
                os.fchmod(written[-1], 0o644)
                write_all(written[-1], memoryview(text.encode()), 0)
            sync_all([*written, fd])
        finally:
            for one in written:
                os.close(one)
    replaced = _swap_in(root, path)
    if replaced:
        # It is saved. What is left of the old one counts for nothing and goes with the next save.
        with contextlib.suppress(OSError):
            _remove_flat(root, backup)


def _swap_in(root: Root, path: str) -> bool:
    """PATH.temp becomes PATH, and PATH, if there is one, PATH.backup (then True). What fails leaves PATH as it was."""
    with root.parent(path) as (above, name):
        temp, backup, replaced = f"{name}.temp", f"{name}.backup", True
        try:
            os.rename(name, backup, src_dir_fd=above, dst_dir_fd=above)
        except FileNotFoundError:
            replaced = False
        except OSError:  # an older backup is in the way
            remove_tree(root, f"{path}.backup")
            os.rename(name, backup, src_dir_fd=above, dst_dir_fd=above)
        try:
            os.rename(temp, name, src_dir_fd=above, dst_dir_fd=above)
            sync_above(root, path)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                os.rename(name, temp, src_dir_fd=above, dst_dir_fd=above)
            if replaced:
                os.rename(backup, name, src_dir_fd=above, dst_dir_fd=above)
            raise
    return replaced


def drop_directory(root: Root, path: str, last: str) -> None:
    """Remove a directory that `save_directory` made; without its file `last` it counts as removed already.

    What readers believe least goes first: an old one that a save could not remove must not be believed once more.
    """
    for form in (".backup", ".temp", ""):
        try:
            with root.directory(path + form) as fd, contextlib.suppress(FileNotFoundError):  # cut short before
                os.unlink(last, dir_fd=fd)
                os.fsync(fd)
            _remove_flat(root, path + form)
        except FileNotFoundError:
            continue


def begin_volume(root: Root, image: str, volume: str, mode: int, size: int, pieces: dict[str, str]) -> None:
    """The image's directory, and a file in it: `size` bytes, sparse but for `pieces`, {offset: content as Latin-1}.

    Not synced: before `finish_volume` a volume is nothing that has to last. EEXIST when the file is there.
    """
    try:
        _make_directory(root, image)
    except FileExistsError:
        if not stat.S_ISDIR(root.stat(image).st_mode):
            raise
    with root.directory(image) as above:
        fd = os.open(volume, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=above)
        try:
            os.fchmod(fd, mode)
            for offset, text in pieces.items():
                write_all(fd, memoryview(text.encode("latin-1")), int(offset))
            if size > os.fstat(fd).st_size:
                os.ftruncate(fd, size)
        except OSError:
            os.unlink(volume, dir_fd=above)
            raise
        finally:
            os.close(fd)


def empty_volume(root: Root, path: str, size: int, pieces: dict[str, str]) -> None:
    """A file that is there, as `begin_volume` would make it; it keeps its inode. Not synced."""
    with root.file(path, os.O_WRONLY | os.O_TRUNC) as fd:
        for offset, text in pieces.items():
            write_all(fd, memoryview(text.encode("latin-1")), int(offset))
        os.ftruncate(fd, size)


def finish_volume(root: Root, image: str, volume: str, metadata: str, text: str) -> None:
    """The volume's content, its metadata (written aside, renamed) and both their names are on disk when it returns."""
    aside = f"{metadata}.new"
    with root.directory(image) as above, root.directory(image.rpartition("/")[0]) as images:
        # Never over what has that name: it may be a link to another volume's metadata.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=above)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(aside, flags, 0o600, dir_fd=above)
        try:
            os.fchmod(fd, 0o644)
            write_all(fd, memoryview(text.encode()), 0)
            with root.file(f"{image}/{volume}", os.O_RDONLY) as data:
                sync_all([data, fd, images])
        finally:
            os.close(fd)
        os.rename(aside, metadata, src_dir_fd=above, dst_dir_fd=above)
        os.fsync(above)


def sync_all(fds: Sequence[int]) -> None:
    """Side by side: a journal commits once for all who wait for it at the same time."""
    for _ in _syncers(os.getpid()).map(os.fsync, fds):
        pass


@cache
def _syncers(pid: int) -> ThreadPoolExecutor:
    """Of this process: threads do not follow a fork."""
    return ThreadPoolExecutor(8, thread_name_prefix="sync")


def read_directory(root: Root, path: str, suffix: str, limit: int) -> list[dict[str, Any]]:
    """Entries of one directory, [{"name", stat fields…, "data" of those that end with suffix}], in no order."""
    found: list[dict[str, Any]] = []
    with root.directory(path) as fd:
        names = entry_names(fd)
        for name in names:
            try:
                row = {"name": readable(name), **stat_fields(os.stat(name, dir_fd=fd, follow_symlinks=False))}
                if suffix and name.endswith(suffix) and row["kind"] == "file":
                    row["data"] = read(root, f"{path}/{name}", 0, limit, direct=False).decode("latin-1")
            except FileNotFoundError:
                continue
            found.append(row)
    return found


def read_volume(root: Root, volume: str, metadata: str, limit: int) -> dict[str, Any]:
    """{"metadata": content, past the page cache where that is possible, "stat": {…} of the volume or None}."""
    try:
        data = read(root, metadata, 0, limit, direct=True)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        data = read(root, metadata, 0, limit, direct=False)
    try:
        found = stat_fields(root.stat(volume))
    except FileNotFoundError:
        found = None
    return {"metadata": data.decode("latin-1"), "stat": found}


def wipe(root: Root, path: str, offset: int, limit: int) -> int:
    """Overwrite with zeros what is allocated from `offset` on, about `limit` bytes; returns where to go on.

    Holes stay holes. The size of the file when it is done. On disk when it returns.
    """
    with root.file(path, os.O_RDWR) as fd:
        size = os.fstat(fd).st_size
        zeros = bytes(2**20)
        while limit > 0 and offset < size:
            try:
                offset = os.lseek(fd, offset, os.SEEK_DATA)
            except OSError as e:
                if e.errno != errno.ENXIO:
                    raise
                offset = size
                break
            end = min(os.lseek(fd, offset, os.SEEK_HOLE), offset + limit)
            while offset < end:
                count = os.pwrite(fd, zeros[: min(len(zeros), end - offset)], offset)
                offset += count
                limit -= count
        os.fdatasync(fd)
        return offset


def _make_directory(root: Root, path: str) -> None:
    with root.parent(path) as (above, name):
        os.mkdir(name, 0o755, dir_fd=above)
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            os.fchmod(fd, 0o755)
        finally:
            os.close(fd)


def _remove_flat(root: Root, path: str) -> None:
    """A directory of files. Its return to life after a power cut would be harmless, so nothing waits for the disk."""
    with root.directory(path) as fd:
        for name in entry_names(fd):
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                remove_tree(root, path)
                return
            os.unlink(name, dir_fd=fd)
    with root.parent(path) as (above, name):
        os.rmdir(name, dir_fd=above)


COMPOUND: dict[str, Callable[..., Any]] = {
    "save_directory": save_directory,
    "read_directory": read_directory,
    "read_volume": read_volume,
    "wipe": wipe,
    "drop_directory": drop_directory,
    "begin_volume": begin_volume,
    "empty_volume": empty_volume,
    "finish_volume": finish_volume,
}
