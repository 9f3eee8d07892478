# SPDX-License-Identifier: Apache-2.0
"""What a helper keeps of root: the capabilities of its class, for itself and for every program it starts.

Root side, standard library only. Called once, before the first request is read.
"""

import ctypes
import os
import resource
from collections.abc import Mapping

_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522
_LAST_CAP = "/proc/sys/kernel/cap_last_cap"

CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, KILL = 0, 1, 2, 3, 5
NET_BIND_SERVICE, NET_ADMIN, NET_RAW, SYS_ADMIN = 10, 12, 13, 21

#: Folders of the repository belong to the agent, hence DAC_OVERRIDE; NFS talks from a reserved
#: port; dhclient reads raw frames.
KEPT: Mapping[str, frozenset[int]] = {
    "storage": frozenset({CHOWN, DAC_OVERRIDE, FOWNER, NET_BIND_SERVICE, SYS_ADMIN}),
    "network": frozenset({NET_ADMIN, NET_BIND_SERVICE, NET_RAW}),
    "virt": frozenset({CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, KILL}),
}

_FILES = 256

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def confine(helper: str) -> None:
    """Give up all but the class's capabilities, gaining any again, core files, and more than a few descriptors.

    Raises: OSError; then nothing may be served.
    """
    keep = KEPT[helper]
    with open(_LAST_CAP, encoding="ascii") as file:
        last = int(file.read())
    for capability in range(last + 1):
        if capability not in keep:
            # Already absent (a container's bounding set) is as good.
            _prctl(_PR_CAPBSET_DROP, capability)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _set({capability for capability in keep if capability <= last})
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))


def _set(keep: set[int]) -> None:
    words = [0, 0]
    for capability in keep & _permitted():
        words[capability // 32] |= 1 << (capability % 32)
    header = _Header(_VERSION_3, 0)
    data = (_Data * 2)(*(_Data(word, word, 0) for word in words))
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(data)))


def _permitted() -> set[int]:
    """In a container root may have less than a class wants; asking for more than one has is an error."""
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    _check(_libc.capget(ctypes.byref(header), ctypes.byref(data)))
    return {32 * n + bit for n in (0, 1) for bit in range(32) if data[n].permitted >> bit & 1}


def _prctl(option: int, argument: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0))


def _check(result: int) -> None:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
