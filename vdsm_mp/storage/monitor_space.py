# SPDX-License-Identifier: Apache-2.0
"""When a domain counts as nearly full. Pure. An engine judges by the sizes it reads, at limits of its own; here it is
only said in the log, once for each crossing: `alerts` of VDSM are about LVM metadata only.
"""

import enum

import msgspec

GIB = 2**30
#: What must be free beyond a limit to have left it, as a part of the limit: who writes around it says it once.
_SLACK = 0.1


class Space(enum.IntEnum):
    """Falling in order of what is left."""

    CRITICAL = 0
    LOW = 1
    ENOUGH = 2


class Limits(msgspec.Struct, frozen=True):
    """low_percent: of the whole. Less than that, or than critical_bytes, is said; 0 = never."""

    low_percent: int = 10
    critical_bytes: int = 5 * GIB

    def after(self, before: Space, total_bytes: int, free_bytes: int) -> Space:
        """Worse at once, better only when it is so by some margin."""
        now = self._space(total_bytes, free_bytes)
        if now <= before:
            return now
        return max(before, self._space(total_bytes, int(free_bytes / (1 + _SLACK))))

    def _space(self, total_bytes: int, free_bytes: int) -> Space:
        if free_bytes < self.critical_bytes:
            return Space.CRITICAL
        return Space.LOW if free_bytes * 100 < total_bytes * self.low_percent else Space.ENOUGH


DEFAULT = Limits()
