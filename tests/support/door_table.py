# SPDX-License-Identifier: Apache-2.0
"""The process table of a house with the real door and nobody behind it."""

from vdsm_mp.workers.table import PRELOAD, WORKERS, ChildSpec, WorkerSpec

__all__ = ["CHILDREN", "PRELOAD", "WORKERS"]

_IDLE = "tests.support.idle_room"
WORKERS = tuple(
    spec
    if spec.name == "clientif"
    else WorkerSpec(spec.name, _IDLE, calls=spec.calls, stage=spec.stage, grace_s=4.0, start_s=10.0)
    for spec in WORKERS
)
CHILDREN: tuple[ChildSpec, ...] = ()
