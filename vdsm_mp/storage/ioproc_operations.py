# SPDX-License-Identifier: Apache-2.0
"""What an I/O child can do for its domain. Each function is one operation; arguments come from the request.

Paths are relative to the domain's root (`ioproc_paths`). Functions return bytes, or something JSON can carry, or
`Passed(fd)` for a descriptor that goes to the worker. Errors are OSErrors. Here nothing retries and nothing logs.
"""

import fcntl
import os
from collections.abc import Callable
from typing import Any

import msgspec

from vdsm_mp.storage.ioproc_changing import (
    chmod,
    create,
    fsync,
    link,
    mkdir,
    remove_tree,
    rename,
    replace,
    rmdir,
    truncate,
    unlink,
    write,
)
from vdsm_mp.storage.ioproc_direct import probe_block_size
from vdsm_mp.storage.ioproc_paths import Root
from vdsm_mp.storage.ioproc_reading import access, read, readdir, scan, stat_, statvfs


class Passed(msgspec.Struct, frozen=True):
    """A descriptor that leaves with the answer."""

    fd: int


def open_locked(root: Root, path: str) -> Passed:
    """Take flock(LOCK_EX) without waiting and hand the descriptor over. EAGAIN when somebody else holds it."""
    fd = root.open_file(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return Passed(fd)


#: Operations that take the request's body as their last argument.
WITH_BODY: dict[str, Callable[..., Any]] = {"write": write, "create": create, "replace": replace}

OPERATIONS: dict[str, Callable[..., Any]] = {
    "stat": stat_,
    "statvfs": statvfs,
    "readdir": readdir,
    "scan": scan,
    "read": read,
    "truncate": truncate,
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
