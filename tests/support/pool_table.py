# SPDX-License-Identifier: Apache-2.0
"""A house in which the storage worker, the door and who tells of jobs work; image tickets go to the test's daemon."""

from msgspec.structs import replace

from tests.support import storage_jobs_table

__all__ = ["CHILDREN", "PRELOAD", "WORKERS"]

WORKERS = tuple(
    replace(spec, main="tests.support.ticket_storage") if spec.name == "storage" else spec
    for spec in storage_jobs_table.WORKERS
)
CHILDREN = storage_jobs_table.CHILDREN
PRELOAD = storage_jobs_table.PRELOAD
