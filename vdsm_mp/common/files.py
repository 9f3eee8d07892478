# SPDX-License-Identifier: Apache-2.0
"""Files on the local disk: replaced whole or not at all, read with a bound.

For our own small files (state, sockets' neighbours, reports). Files of storage domains go through the I/O children
(`storage/ioproc_client.py`), because a domain may hang; nothing here must be given a path below a mount.
"""

import contextlib
import os
import secrets
from pathlib import Path

#: Enough for every report and every small file in /proc and /sys that is read here.
DEFAULT_LIMIT_BYTES = 1 << 20


class FileTooLarge(OSError):
    """A file is larger than its reader expected; it was not read."""


def replace(path: Path | str, data: bytes, *, mode: int = 0o644) -> None:
    """Give `path` this content, durably: after a crash it holds the old or the new bytes, never a part.

    The new file belongs to us and has `mode`. Raises OSError; then the old content is untouched.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)  # the umask must not decide who may read it
            file.write(data)
            file.flush()
            os.fsync(fd)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(target.parent)


def remove(path: Path | str) -> bool:
    """Delete a file durably. Returns False when it was not there."""
    target = Path(path)
    try:
        target.unlink()
    except FileNotFoundError:
        return False
    sync_directory(target.parent)
    return True


def sync_directory(path: Path | str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read(path: Path | str, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> bytes:
    """The whole content of a file of at most `limit_bytes`. Raises OSError, FileTooLarge."""
    with open(path, "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise FileTooLarge(f"{path} is larger than {limit_bytes} bytes")
    return data


def read_text(path: Path | str, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> str:
    """Like `read`, decoded; bytes that are not UTF-8 come out as surrogates, so nothing is lost or refused."""
    return read(path, limit_bytes=limit_bytes).decode("utf-8", "surrogateescape")
