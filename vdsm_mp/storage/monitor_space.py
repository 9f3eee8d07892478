# SPDX-License-Identifier: Apache-2.0
"""When a domain counts as nearly full. Pure. An engine judges by the sizes it reads, at its own limits (these are its
defaults); here it is only said in the log, once for each crossing: `alerts` of VDSM are about LVM metadata only.
"""

import enum

GIB = 2**30
#: Below this part of the whole an engine warns.
LOW_PERCENT = 10
#: Below this an engine starts nothing new on the domain.
CRITICAL_BYTES = 5 * GIB
#: What must be free beyond a limit to have left it, as a part of the limit: who writes around it says it once.
_SLACK = 0.1


class Space(enum.IntEnum):
    """Falling in order of what is left."""

    CRITICAL = 0
    LOW = 1
    ENOUGH = 2


def space_after(before: Space, total_bytes: int, free_bytes: int) -> Space:
    """Worse at once, better only when it is so by some margin."""
    now = _space(total_bytes, free_bytes)
    if now <= before:
        return now
    return max(before, _space(total_bytes, int(free_bytes / (1 + _SLACK))))


def _space(total_bytes: int, free_bytes: int) -> Space:
    if free_bytes < CRITICAL_BYTES:
        return Space.CRITICAL
    return Space.LOW if free_bytes * 100 < total_bytes * LOW_PERCENT else Space.ENOUGH
