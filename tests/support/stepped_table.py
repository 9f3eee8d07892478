# SPDX-License-Identifier: Apache-2.0
"""A whole house whose virt worker stands still at named steps."""

from msgspec.structs import replace

from vdsm_mp.workers import table

__all__ = ["CHILDREN", "PRELOAD", "WORKERS"]

WORKERS = tuple(
    replace(spec, main="tests.support.stepped_virt") if spec.name == "virt" else spec for spec in table.WORKERS
)
CHILDREN = table.CHILDREN
PRELOAD = table.PRELOAD
