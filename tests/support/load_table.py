# SPDX-License-Identifier: Apache-2.0
"""The process table of a house under load."""

from vdsm_mp.workers.table import PRELOAD, ChildSpec, WorkerSpec

__all__ = ["CHILDREN", "PRELOAD", "WORKERS"]

_ROOMS = "tests.support.load_rooms"
WORKERS = (
    WorkerSpec("back", _ROOMS, stage=2, grace_s=4.0, start_s=10.0),
    WorkerSpec("front", _ROOMS, calls=("back",), stage=1, grace_s=4.0, start_s=10.0),
    WorkerSpec(
        "clientif", _ROOMS, calls=("back", "front"), grace_s=4.0, start_s=10.0, inherits=("public",), confined=True
    ),
)
CHILDREN: tuple[ChildSpec, ...] = ()
