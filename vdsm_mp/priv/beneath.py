# SPDX-License-Identifier: Apache-2.0
"""Open paths as root without being led astray: openat2(2) without symlinks, below a folder that root chose.

Root side, standard library only. What is opened is acted upon by descriptor; a name swapped afterwards changes nothing.
"""

import ctypes
import os

_SYS_OPENAT2 = 437
_NO_XDEV = 0x01
_NO_MAGICLINKS = 0x02
_NO_SYMLINKS = 0x04
_BENEATH = 0x08

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def _openat2(folder: int, path: str, flags: int, mode: int, resolve: int) -> int:
    how = _How(flags | os.O_CLOEXEC, mode, resolve)
    fd = int(_libc.syscall(_SYS_OPENAT2, folder, path.encode(), ctypes.byref(how), ctypes.sizeof(how)))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return fd


def open_root(path: str) -> int:
    """Open an absolute folder of our own configuration; no link on the way. The caller closes it."""
    if not path.startswith("/"):
        raise ValueError(f"{path} is not absolute")
    return _openat2(-100, path, os.O_PATH | os.O_DIRECTORY, 0, _NO_SYMLINKS | _NO_MAGICLINKS)


def open_beneath(folder: int, path: str, flags: int, mode: int = 0, *, cross_mounts: bool = False) -> int:
    """Open `path` below `folder`: no "..", no links, and (unless asked) no other file system: EXDEV then."""
    resolve = _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS | (0 if cross_mounts else _NO_XDEV)
    return _openat2(folder, path, flags, mode, resolve)
