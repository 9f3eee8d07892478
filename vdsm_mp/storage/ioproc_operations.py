# SPDX-License-Identifier: Apache-2.0
"""What an I/O child can do for its domain. Each function is one operation; arguments come from the request.

Paths are relative to the domain's root (`ioproc_paths`). Functions return bytes, or something JSON can carry, or
`Passed(fd)` for a descriptor that goes to the worker. Errors are OSErrors. Here nothing retries and nothing logs.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from vdsm_mp.storage.ioproc_paths import Root

#: Buffers and offsets of direct I/O are multiples of this; it suits 512-byte and 4K sectors.
_DIRECT = 4096
#: More entries than any sane directory; a listing stops being useful long before.
_MAX_ENTRIES = 500_000
_MAX_SCAN_BYTES = 256 * 2**20


class Passed(msgspec.Struct, frozen=True):
    """A descriptor that leaves with the answer."""

    fd: int


def stat_(root: Root, path: str) -> dict[str, Any]:
    return stat_fields(root.stat(path))


def statvfs(root: Root) -> dict[str, int]:
    found = root.statvfs()
    return {
        "total_bytes": found.f_frsize * found.f_blocks,
        "free_bytes": found.f_frsize * found.f_bavail,
        "block_bytes": found.f_bsize,
    }


def readdir(root: Root, path: str) -> list[tuple[str, str]]:
    """[(name, kind)], kind as in `_kind`; names that are not UTF-8 come with replacement characters."""
    with root.directory(path) as fd:
        return [(readable(entry.name), kind) for entry, kind in _entries(fd)]


def scan(root: Root, path: str, suffix: str, data_limit: int) -> list[dict[str, Any]]:
    """Regular files two levels below `path` (DIR/FILE) whose names end with `suffix`, with stat and content.

    data_limit: bytes read of each file; 0 = none. A file that vanishes meanwhile is left out.
    """
    found: list[dict[str, Any]] = []
    with root.directory(path) as top:
        subs = sorted(entry.name for entry, kind in _entries(top) if kind == "dir")
    size = 0
    for sub in subs:
        try:
            with root.directory(f"{path}/{sub}") as fd:
                names = sorted(e.name for e, kind in _entries(fd) if kind == "file" and e.name.endswith(suffix))
                for name in names:
                    row = _scanned(fd, name, data_limit)
                    if row is not None:
                        row["path"] = readable(f"{path}/{sub}/{name}")
                        found.append(row)
                        size += len(row.get("data", ""))
        except FileNotFoundError:
            continue
        if size > _MAX_SCAN_BYTES:
            raise OSError(errno.EFBIG, "the scan returns too much", path)
    return found


def _scanned(directory: int, name: str, data_limit: int) -> dict[str, Any] | None:
    """One file by its name in an open directory, None when it vanished. All are looked at, so each costs little."""
    try:
        row = stat_fields(os.stat(name, dir_fd=directory, follow_symlinks=False))
        if data_limit and row["kind"] == "file":
            # Not waiting and not following: what was a file a moment ago may be something else now.
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    return None
                row["data"] = os.pread(fd, data_limit, 0).decode("latin-1")
            finally:
                os.close(fd)
    except FileNotFoundError:
        return None
    return row if row["kind"] == "file" else None


def read(root: Root, path: str, offset: int, length: int, direct: bool) -> bytes:
    """Up to `length` bytes from `offset`. direct: past the page cache, where the file system can do that."""
    with root.file(path, os.O_RDONLY | (os.O_DIRECT if direct else 0)) as fd:
        if not direct:
            return _read_all(lambda n, at: os.pread(fd, n, at), offset, length)
        # Aligned around what is wanted, cut afterwards.
        start = offset - offset % _DIRECT
        wanted = -(-(offset + length - start) // _DIRECT) * _DIRECT
        view = _aligned(wanted)
        got = 0
        while got < wanted:
            count = os.preadv(fd, [view[got:wanted]], start + got)
            got += count
            if count == 0 or count % _DIRECT:
                break
        return bytes(view[offset - start : min(got, offset - start + length)])


def write(root: Root, path: str, offset: int, direct: bool, body: bytes) -> None:
    """Write in place; the file exists already and neither shrinks nor is created. On disk when it returns."""
    with root.file(path, os.O_WRONLY | (os.O_DIRECT if direct else 0)) as fd:
        if direct:
            view = _aligned(len(body))
            view[:] = body
            write_all(fd, view, offset)
        else:
            write_all(fd, memoryview(body), offset)
        os.fsync(fd)


def create(root: Root, path: str, mode: int, size: int, body: bytes) -> None:
    """A new file, exactly `mode`, `size` bytes long (sparse), beginning with the body. EEXIST when it is there."""
    with root.parent(path) as (above, name):
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
    sync_above(root, path)


def replace(root: Root, path: str, mode: int, body: bytes) -> None:
    """All or nothing: `PATH.new` is written, synced and renamed over PATH."""
    with root.parent(path) as (above, name):
        aside = f"{name}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=above)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(aside, flags, 0o600, dir_fd=above)
        try:
            os.fchmod(fd, mode)
            write_all(fd, memoryview(body), 0)
            os.fsync(fd)
        except OSError:
            os.unlink(aside, dir_fd=above)
            raise
        finally:
            os.close(fd)
        os.rename(aside, name, src_dir_fd=above, dst_dir_fd=above)
    sync_above(root, path)


def truncate(root: Root, path: str, size: int) -> None:
    with root.file(path, os.O_WRONLY) as fd:
        os.ftruncate(fd, size)
        os.fsync(fd)


def fallocate(root: Root, path: str, offset: int, length: int) -> None:
    with root.file(path, os.O_WRONLY) as fd:
        os.posix_fallocate(fd, offset, length)
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
            # rename(2) does nothing when both names are the same file already; the helper name then stays.
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
            inside = [(entry.name, kind) for entry, kind in _entries(fd)]
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


def access(root: Root) -> dict[str, bool]:
    """May this process read, write and search the root? Asked of the kernel (and of the server, on NFS)."""
    with root.directory(".") as fd:
        path = f"/proc/self/fd/{fd}"
        return {
            "read": os.access(path, os.R_OK, effective_ids=True),
            "write": os.access(path, os.W_OK, effective_ids=True),
            "search": os.access(path, os.X_OK, effective_ids=True),
        }


def open_locked(root: Root, path: str) -> Passed:
    """Take flock(LOCK_EX) without waiting and hand the descriptor over. EAGAIN when somebody else holds it."""
    fd = root.open_file(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return Passed(fd)


def probe_block_size(root: Root) -> int:
    """Smallest direct write the file system takes: 1 (no minimum), 512 or 4096. EINVAL: no direct I/O at all."""
    name = f".prob-{uuid.uuid4()}"
    with root.parent(name) as (above, _):
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, 0o600, dir_fd=above)
        except OSError:
            # Some file systems make the file and refuse the flag afterwards.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=above)
            raise
        try:
            os.unlink(name, dir_fd=above)
            view = _aligned(4096)
            for size in (1, 512):
                try:
                    os.pwritev(fd, [view[:size]], 0)
                except OSError as e:
                    if e.errno != errno.EINVAL:
                        raise
                else:
                    return size
            os.pwritev(fd, [view], 0)
            return 4096
        finally:
            os.close(fd)


def _entries(fd: int) -> Iterator[tuple[os.DirEntry[str], str]]:
    with os.scandir(fd) as listing:
        for count, entry in enumerate(listing):
            if count >= _MAX_ENTRIES:
                raise OSError(errno.EFBIG, "too many entries")
            yield entry, _entry_kind(entry)


def entry_names(fd: int) -> list[str]:
    return [entry.name for entry, _ in _entries(fd)]


def _entry_kind(entry: os.DirEntry[str]) -> str:
    if entry.is_dir(follow_symlinks=False):
        return "dir"
    if entry.is_file(follow_symlinks=False):
        return "file"
    return "link" if entry.is_symlink() else "other"


def _kind(mode: int) -> str:
    for name, test in (("file", stat.S_ISREG), ("dir", stat.S_ISDIR), ("link", stat.S_ISLNK)):
        if test(mode):
            return name
    return "other"


def stat_fields(found: os.stat_result) -> dict[str, Any]:
    return {
        "kind": _kind(found.st_mode),
        "size_bytes": found.st_size,
        "allocated_bytes": found.st_blocks * 512,
        "mode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "links": found.st_nlink,
        "inode": found.st_ino,
        "changed_at": found.st_ctime,
        "modified_at": found.st_mtime,
    }


def readable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "replace")


def _aligned(size: int) -> memoryview:
    """Zeroed memory that direct I/O accepts; freed with its last reference."""
    return memoryview(mmap.mmap(-1, max(size, 1)))[:size]


def _read_all(pread: Callable[[int, int], bytes], offset: int, length: int) -> bytes:
    parts = []
    while length > 0:
        part = pread(length, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(fd, view, offset)
        view = view[count:]
        offset += count


def sync_above(root: Root, path: str) -> None:
    """The name itself is durable only once its directory is."""
    with root.directory(path.rpartition("/")[0]) as fd:
        os.fsync(fd)


#: Operations that take the request's body as their last argument.
WITH_BODY: dict[str, Callable[..., Any]] = {"write": write, "create": create, "replace": replace}

OPERATIONS: dict[str, Callable[..., Any]] = {
    "stat": stat_,
    "statvfs": statvfs,
    "readdir": readdir,
    "scan": scan,
    "read": read,
    "truncate": truncate,
    "fallocate": fallocate,
    "mkdir": mkdir,
    "link": link,
    "rename": rename,
    "unlink": unlink,
    "rmdir": rmdir,
    "remove_tree": remove_tree,
    "fsync": fsync,
    "chmod": chmod,
    "access": access,
    "open_locked": open_locked,
    "probe_block_size": probe_block_size,
    **WITH_BODY,
}
