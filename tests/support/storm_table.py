# SPDX-License-Identifier: Apache-2.0
"""The process table of a house with the real virt room and the real door, and a storm of libvirt events to order."""

from msgspec.structs import replace

from vdsm_mp.workers.table import PRELOAD, WORKERS, ChildSpec

__all__ = ["CHILDREN", "PRELOAD", "WORKERS"]

_REAL = ("virt", "clientif")
WORKERS = tuple(
    replace(spec, main="tests.support.storm_room" if spec.name in _REAL else "tests.support.idle_room")
    for spec in WORKERS
)
CHILDREN: tuple[ChildSpec, ...] = ()
