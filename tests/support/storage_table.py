# SPDX-License-Identifier: Apache-2.0
"""A house in which only the storage worker and the door work; what is tested with it concerns no other room."""

from msgspec.structs import replace

from vdsm_mp.workers import table

__all__ = ["CHILDREN", "PRELOAD", "WORKERS"]

WORKERS = tuple(
    spec if spec.name in ("storage", "clientif") else replace(spec, main="tests.support.idle_room")
    for spec in table.WORKERS
)
CHILDREN = table.CHILDREN
PRELOAD = table.PRELOAD
