# SPDX-License-Identifier: Apache-2.0
"""`DomainIO`: the only way this worker touches files of a file domain.

Every method goes to the I/O child of one root (`ioproc_client`), blocks until its deadline at most, and is called
from pool threads. Paths are relative to the root, "/"-separated, without ".."; nothing that follows a symbolic link
is ever touched (`UnsafePath`). Methods that change something are on disk, name included, when they return.

Raises, all methods: StorageFileMissing, StorageFileExists, StorageReadOnly, StoragePermissionDenied, UnsafePath,
StaleHandle, NoSpaceLeft, or StorageAccessFailed for any other errno; IoTimedOut and IoChildDied (outcome unknown);
StoragePathBlocked, TooManyLost (nothing was tried).
"""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from vdsm_mp.api.errors_storage import StorageAccessFailed, StorageFileMissing
from vdsm_mp.api.ports import Children
from vdsm_mp.storage.file_facts import Entry, FileStat, FsStat, Scanned, scanned
from vdsm_mp.storage.ioproc_client import IoProcess
from vdsm_mp.storage.ioproc_errors import by_errno
from vdsm_mp.storage.ioproc_wire import CHUNK


class DomainIO:
    """Files below one root. Cheap to make: the child is started by the first call."""

    def __init__(
        self,
        children: Children,
        name: str,
        root: str,
        beneath: str = "",
        *,
        deadline_s: float = 60.0,
        replace_after_s: float = 30.0,
    ) -> None:
        """name: of the child, as an operator sees it (a domain's id). root: absolute and trusted.

        beneath: untrusted part below root (a domain's directory), resolved without symbolic links.
        deadline_s: for one call that names none. replace_after_s: a child in which a request hangs for longer is
        given up by the next call.
        """
        self.name = name
        self.root = f"{root}/{beneath}" if beneath else root
        self._deadline_s = deadline_s
        self._process = IoProcess(children, name, root, beneath, replace_after_s=replace_after_s)

    def path_of(self, path: str) -> str:
        """The absolute path, for programs that are given names (qemu-img) and for clients. Touches nothing."""
        return f"{self.root}/{path}" if path else self.root

    def close(self) -> None:
        """End the child; later calls fail. Needed before an unmount. Does not wait."""
        self._process.close()

    def health(self) -> dict[str, Any]:
        """{"child": bool, "waiting": calls, "stuck": requests given up, "stuck_s": age, "replaced": times in a row}."""
        return self._process.health()

    # --- looking

    def stat(self, path: str = ".", *, deadline_s: float | None = None) -> FileStat:
        """Of the thing itself: a link is not followed but reported."""
        return msgspec.convert(self._call("stat", path, deadline_s, path=path), FileStat)

    def exists(self, path: str, *, deadline_s: float | None = None) -> bool:
        try:
            self.stat(path, deadline_s=deadline_s)
        except StorageFileMissing:
            return False
        return True

    def statvfs(self, *, deadline_s: float | None = None) -> FsStat:
        return msgspec.convert(self._call("statvfs", "", deadline_s), FsStat)

    def readdir(self, path: str = ".") -> list[Entry]:
        """Unsorted, without "." and ".."."""
        return [Entry(name, kind) for name, kind in self._call("readdir", path, path=path)]

    def scan(
        self, path: str, suffix: str = "", *, data_limit: int = 0, deadline_s: float | None = None
    ) -> list[Scanned]:
        """Regular files at `path`/*/*`suffix`, sorted, in one request; with up to data_limit bytes of each."""
        rows = self._call("scan", path, deadline_s, path=path, suffix=suffix, data_limit=data_limit)
        return [scanned(row.pop("path"), row) for row in rows]

    def read(
        self,
        path: str,
        *,
        offset: int = 0,
        length: int | None = None,
        limit: int = 2**20,
        direct: bool = True,
        deadline_s: float | None = None,
    ) -> bytes:
        """`length` bytes from `offset` (less at the end of the file), or the whole file.

        limit: a whole file longer than this is refused (StorageAccessFailed, EFBIG).
        direct: past the page cache, as everything that other hosts write must be read; falls back to a cached read
        where the file system has no direct I/O.
        """
        wanted = limit + 1 if length is None else length
        args: dict[str, Any] = {"path": path, "offset": offset, "length": wanted}
        data: bytes
        try:
            data = self._process.call("read", {**args, "direct": direct}, deadline_s=deadline_s or self._deadline_s)
        except OSError as e:
            if not (direct and e.errno == errno.EINVAL):
                raise self._translated(e, "read", path) from e
            data = self._call("read", path, deadline_s, **args, direct=False)
        if length is None and len(data) > limit:
            raise StorageAccessFailed(self.path_of(path), "read", errno.EFBIG, f"longer than {limit} bytes")
        return data

    def access(self) -> dict[str, bool]:
        """{"read","write","search": bool} of the root, as the kernel answers for this process's user."""
        return dict(self._call("access", ""))

    def read_directory(self, path: str, suffix: str = "", *, limit: int = 4096) -> list[Scanned]:
        """Every entry of one directory in one request, `path` being its name, with data of files named *suffix."""
        rows = self._call("read_directory", path, path=path, suffix=suffix, limit=limit)
        return [scanned(row.pop("name"), row) for row in rows]

    def read_volume(self, volume: str, metadata: str, *, limit: int = 4096) -> tuple[bytes, FileStat | None]:
        """Content of the file `metadata`, and the stat of the file `volume` (None when absent), in one request."""
        row = self._call("read_volume", metadata, volume=volume, metadata=metadata, limit=limit)
        found = row["stat"]
        return row["metadata"].encode("latin-1"), None if found is None else msgspec.convert(found, FileStat)

    # --- changing

    def wipe(self, path: str, offset: int, limit: int) -> int:
        """Zero about `limit` allocated bytes from `offset`; returns where to go on, the file's size when done."""
        return int(self._call("wipe", path, path=path, offset=offset, limit=limit))

    def begin_volume(
        self, image: str, volume: str, *, mode: int, size: int, pieces: Mapping[int, bytes] | None = None
    ) -> None:
        """A file `image`/`volume` in a directory that may have to be made; nothing lasting yet. See `ioproc_compound`.

        pieces: {offset: content}, a few KiB in all. Raises: StorageFileExists (untouched).
        """
        texts = _texts(pieces or {})
        self._call("begin_volume", image, image=image, volume=volume, mode=mode, size=size, pieces=texts)

    def empty_volume(self, path: str, *, size: int, pieces: Mapping[int, bytes]) -> None:
        """What is in a file goes, and these come. Raises: StorageFileMissing; with others it may be empty."""
        self._call("empty_volume", path, path=path, size=size, pieces=_texts(pieces))

    def finish_volume(self, image: str, volume: str, metadata: str, text: str) -> None:
        """Content of `image`/`volume` on disk, and the file `image`/`metadata` with this text."""
        self._call("finish_volume", image, image=image, volume=volume, metadata=metadata, text=text)

    def drop_directory(self, path: str, last: str) -> None:
        """Undo `save_directory`; once its file `last` is gone it counts as removed. Absent is fine."""
        self._call("drop_directory", path, path=path, last=last)

    def save_directory(self, path: str, files: Mapping[str, str]) -> None:
        """The directory `path` has exactly these files afterwards, or is as it was; see `ioproc_compound`."""
        self._call("save_directory", path, path=path, files=dict(files))

    def create(self, path: str, data: bytes = b"", *, mode: int = 0o644, size: int = 0) -> None:
        """A new regular file with exactly `mode`, `size` bytes long (sparse) if that is longer than data.

        Raises: StorageFileExists (untouched).
        """
        self._call("create", path, None, data[:CHUNK], path=path, mode=mode, size=max(size, len(data)))
        self._write_rest(path, data)

    def replace(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """The file has all of data, or what it had: written to `path`.new and renamed. Creates it too.

        Only one caller at a time for a path: they share the name aside.
        """
        if len(data) <= CHUNK:
            self._call("replace", path, None, data, path=path, mode=mode)
            return
        aside = f"{path}.new"
        if self.exists(aside):
            self.unlink(aside)
        self.create(aside, data, mode=mode)
        self.rename(aside, path)

    def write(self, path: str, data: bytes, *, offset: int = 0, direct: bool = False) -> None:
        """In place; the file must exist and keeps its size unless data reaches beyond it.

        direct: offset and length must be multiples of the storage's block size. More than 64 KiB is several writes.
        """
        for start in range(0, len(data), CHUNK):
            part = data[start : start + CHUNK]
            self._call("write", path, None, part, path=path, offset=offset + start, direct=direct)

    def truncate(self, path: str, size: int) -> None:
        self._call("truncate", path, path=path, size=size)

    def mkdir(self, path: str, *, mode: int = 0o755, parents: bool = False, exist_ok: bool = False) -> None:
        """mode is exact (no umask)."""
        self._call("mkdir", path, path=path, mode=mode, parents=parents, exist_ok=exist_ok)

    def link(self, source: str, target: str, *, overwrite: bool = False) -> None:
        """A hard link `target` to the regular file `source`. overwrite: replaces an existing target in one step."""
        self._call("link", target, source=source, target=target, overwrite=overwrite)

    def rename(self, source: str, target: str) -> None:
        """Replaces a file `target`; a directory only when `target` is empty."""
        self._call("rename", source, source=source, target=target)

    def unlink(self, path: str, *, missing_ok: bool = False) -> None:
        try:
            self._call("unlink", path, path=path)
        except StorageFileMissing:
            if not missing_ok:
                raise

    def rmdir(self, path: str, *, missing_ok: bool = False) -> None:
        try:
            self._call("rmdir", path, path=path)
        except StorageFileMissing:
            if not missing_ok:
                raise

    def remove_tree(self, path: str, *, deadline_s: float = 600.0) -> None:
        """A directory and everything in it. Absent is fine. Interrupted, it leaves a part; ask again."""
        self._call("remove_tree", path, deadline_s, path=path)

    def fsync(self, path: str) -> None:
        """A regular file or a directory."""
        self._call("fsync", path, path=path)

    def chmod(self, path: str, mode: int) -> None:
        self._call("chmod", path, path=path, mode=mode)

    # --- domains

    def open_locked(self, path: str) -> int:
        """A descriptor of the file with flock(LOCK_EX) on it. The lock lasts until every copy of it is closed.

        Raises: StorageLockHeld.
        """
        fd = self._call("open_locked", path, path=path)
        assert isinstance(fd, int)
        return fd

    def probe_block_size(self) -> int:
        """Smallest direct write the root takes: 1 (any), 512 or 4096. StorageAccessFailed, EINVAL: no direct I/O."""
        return int(self._call("probe_block_size", ""))

    # --- the way to the child

    def _write_rest(self, path: str, data: bytes) -> None:
        if len(data) > CHUNK:
            self.write(path, data[CHUNK:], offset=CHUNK)

    def _call(self, op: str, path: str, deadline_s: float | None = None, body: bytes = b"", /, **args: Any) -> Any:
        with self._translating(op, path):
            return self._process.call(op, args, body, deadline_s=deadline_s or self._deadline_s)

    @contextmanager
    def _translating(self, op: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise self._translated(e, op, path) from e

    def _translated(self, error: OSError, op: str, path: str) -> StorageAccessFailed:
        return by_errno(error, op, self.path_of(path))


def _texts(pieces: Mapping[int, bytes]) -> dict[str, str]:
    """As the child reads them."""
    return {str(offset): data.decode("latin-1") for offset, data in pieces.items()}
