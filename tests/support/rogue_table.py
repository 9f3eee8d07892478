# SPDX-License-Identifier: Apache-2.0
"""A process table for tests of the master: one worker that behaves, one that does what a file tells it."""

from vdsm_mp.workers.table import PRELOAD, ChildSpec, WorkerSpec

__all__ = ["CHILDREN", "PRELOAD", "WORKERS"]

WORKERS = (
    WorkerSpec("steady", "tests.support.rogue", stage=1, grace_s=3.0, start_s=5.0),
    WorkerSpec("rogue", "tests.support.rogue", calls=("steady",), stage=0, grace_s=2.0, start_s=5.0),
)

CHILDREN = (ChildSpec("toy", "tests.support.rogue_child", owner="rogue", per="test", most=4, most_lost=2),)
