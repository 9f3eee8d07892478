# SPDX-License-Identifier: Apache-2.0
"""Look into an OVA that somebody gave us: its description, and whether its disks are only themselves.

Runs in a child with limits (`v2v_child`): an archive may be compressed without end, a folder may hang. Nothing is
unpacked here. A disk image may name other files of this host (a backing file, an extent, a parent), which a program
that reads it as user vdsm would then copy into the guest; so that is looked for before virt-v2v may see it.
"""

import itertools
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from vdsm_mp.api.errors_virt import BadOva
from vdsm_mp.virt import v2v_ovf

#: As much as common/xml takes.
_OVF_BYTES = 1 << 20
_MEMBERS_AT_MOST = 10_000
#: Headers and embedded descriptions of disk images lie within.
_HEAD_BYTES = 128 << 10
_SECTOR = 512
_DESCRIBED_SECTORS = 20
_GZIP = b"\x1f\x8b"
_VMDK = struct.Struct("<4sIIQQQQ")
_PARENT = re.compile(rb"^\s*parentCID\s*=\s*(?!ffffffff)", re.MULTILINE | re.IGNORECASE)
_HINT = re.compile(rb"parentFileNameHint", re.IGNORECASE)

_Open = Callable[[], IO[bytes]]
_Members = Iterator[tuple[str, _Open]]


def describe(path: str) -> dict[str, Any]:
    """What an engine reads. Raises: BadOva."""
    return v2v_ovf.external_vm(_description(path), Path(path).stem)


def check(path: str) -> None:
    """May virt-v2v have it? Raises: BadOva."""
    wanted = {str(PurePosixPath(name)) for name in v2v_ovf.files(_description(path))}
    with _opened(path) as members:
        for name, opener in members:
            if name in wanted:
                wanted.discard(name)
                with opener() as file:
                    _check_disk(name, _head(file))
    if wanted:
        raise BadOva(f"it has no {sorted(wanted)[0]!r}")


def _description(path: str) -> str:
    with _opened(path) as members:
        for name, opener in members:
            if name.lower().endswith(".ovf"):
                with opener() as file:
                    data = file.read(_OVF_BYTES + 1)
                if len(data) > _OVF_BYTES:
                    raise BadOva(f"its description has more than {_OVF_BYTES} bytes")
                return data.decode("utf-8", "replace")
    raise BadOva("it has no description (*.ovf)")


@contextmanager
def _opened(path: str) -> Iterator[_Members]:
    """(name, how to open it) of its regular files; links, devices and what else there may be are passed over."""
    try:
        if Path(path).is_dir():
            yield _of_folder(Path(path))
        elif not Path(path).is_file():
            raise BadOva("it is neither a file nor a folder")
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                yield _of_zip(archive)
        else:
            with tarfile.open(path) as archive:
                yield _of_tar(archive)
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise BadOva(f"it cannot be read: {error}") from error
    except (
        RuntimeError,
        ValueError,
        MemoryError,
        OverflowError,
        struct.error,
    ) as error:  # encrypted, or made to be none
        raise BadOva(f"it cannot be read: {error or type(error).__name__}") from error


def _bounded(members: Iterator[Any]) -> Iterator[Any]:
    yield from itertools.islice(members, _MEMBERS_AT_MOST)
    if next(members, None) is not None:
        raise BadOva(f"it has more than {_MEMBERS_AT_MOST} files")


def _of_folder(path: Path) -> _Members:
    for entry in _bounded(iter(sorted(os.listdir(path)))):
        if (path / entry).is_file() and not (path / entry).is_symlink():
            yield entry, partial(_plain, path / entry)


def _plain(file: Path) -> IO[bytes]:
    return open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def _of_tar(archive: tarfile.TarFile) -> _Members:
    def opener(member: tarfile.TarInfo) -> IO[bytes]:
        file = archive.extractfile(member)
        if file is None:
            raise BadOva(f"{member.name!r} is no file")
        return file

    for member in _bounded(iter(archive)):
        if member.isreg():
            yield str(PurePosixPath(member.name)), partial(opener, member)


def _of_zip(archive: zipfile.ZipFile) -> _Members:
    for member in _bounded(iter(archive.infolist())):
        if not member.is_dir():
            yield str(PurePosixPath(member.filename)), partial(archive.open, member)


def _head(file: IO[bytes]) -> bytes:
    start = file.read(_HEAD_BYTES)
    if start[:2] == _GZIP:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(start, _HEAD_BYTES)
    return start


def _check_disk(name: str, head: bytes) -> None:
    """Raises: BadOva."""
    if head[:4] == b"KDMV":
        _check_vmdk(name, head)
    elif head[:4] == b"QFI\xfb":
        backing, features = struct.unpack_from(">Q", head, 8)[0], struct.unpack_from(">Q", head, 72)[0]
        version = struct.unpack_from(">I", head, 4)[0]
        if backing or (version >= 3 and features & 4):
            raise BadOva(f"its disk {name!r} lies on another file")
    elif b"# disk descriptorfile" in head[:_SECTOR].lower() or head[:4] == b"COWD":
        raise BadOva(f"its disk {name!r} only names other files")


def _check_vmdk(name: str, head: bytes) -> None:
    _, _, _, capacity, _, at, sectors = _VMDK.unpack_from(head)
    if not capacity:
        raise BadOva(f"its disk {name!r} only names other files")
    # QEMU reads this much of it, whatever length is told.
    begin, end = at * _SECTOR, (at + max(sectors, _DESCRIBED_SECTORS)) * _SECTOR
    if end > _HEAD_BYTES:
        raise BadOva(f"the description in its disk {name!r} is too far away or too long")
    text = head[begin:end]
    if _PARENT.search(text) or _HINT.search(text):
        raise BadOva(f"its disk {name!r} lies on another file")
