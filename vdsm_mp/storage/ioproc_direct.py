# SPDX-License-Identifier: Apache-2.0
"""Direct I/O of an I/O child: past the page cache, in the memory and the pieces that file systems take."""

import contextlib
import errno
import mmap
import os
import uuid

from vdsm_mp.storage.ioproc_paths import Root

#: Buffers and offsets of direct I/O are multiples of this; it suits 512-byte and 4K sectors.
_DIRECT = 4096


def aligned(size: int) -> memoryview:
    """Zeroed memory that direct I/O accepts; freed with its last reference."""
    return memoryview(mmap.mmap(-1, max(size, 1)))[:size]


def read_direct(fd: int, offset: int, length: int) -> bytes:
    """Up to `length` bytes from any `offset`: read aligned around what is wanted, and cut afterwards."""
    start = offset - offset % _DIRECT
    wanted = -(-(offset + length - start) // _DIRECT) * _DIRECT
    view = aligned(wanted)
    got = 0
    while got < wanted:
        count = os.preadv(fd, [view[got:wanted]], start + got)
        got += count
        if count == 0 or count % _DIRECT:
            break
    return bytes(view[offset - start : min(got, offset - start + length)])


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
            view = aligned(_DIRECT)
            for size in (1, 512):
                if _takes(fd, view[:size]):
                    return size
            os.pwritev(fd, [view], 0)
            return _DIRECT
        finally:
            os.close(fd)


def _takes(fd: int, view: memoryview) -> bool:
    try:
        os.pwritev(fd, [view], 0)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        return False
    return True
