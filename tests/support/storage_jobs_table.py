# SPDX-License-Identifier: Apache-2.0
"""A house in which the storage worker, the door and who tells of jobs work."""

from msgspec.structs import replace

from vdsm_mp.workers import table

__all__ = ["CHILDREN", "PRELOAD", "WORKERS"]

WORKERS = tuple(
    spec if spec.name in ("storage", "clientif", "scheduler") else replace(spec, main="tests.support.idle_room")
    for spec in table.WORKERS
)
CHILDREN = table.CHILDREN
PRELOAD = table.PRELOAD
