# SPDX-License-Identifier: Apache-2.0
"""How a migration is helped to its end: a table of steps, and arithmetic. Pure; knows no libvirt.

A guest that changes its memory faster than it is sent never arrives by itself. After so many passes over the memory it
may stand still longer in the end, or it goes on at the destination and fetches its memory from there (post-copy), or
the migration is given up.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from vdsm_mp.api.errors_virt import InvalidVmParameter
from vdsm_mp.api.vm_migration import ConvergenceAction, ConvergenceSchedule

SET_DOWNTIME = "setDowntime"
POSTCOPY = "postcopy"
ABORT = "abort"
#: The old rule gives a migration so many passes after its last step.
_PATIENCE = 42


class Action(msgspec.Struct, frozen=True):
    """name: one of the three; downtime_ms: for SET_DOWNTIME."""

    name: str
    downtime_ms: int = 0


class Step(msgspec.Struct, frozen=True):
    """action after more than `limit` passes since the start; -1 = at the next pass."""

    limit: int
    action: Action


class Schedule(msgspec.Struct, frozen=True):
    """init: at the start; stalling: the steps that are left, in order."""

    init: tuple[Action, ...] = ()
    stalling: tuple[Step, ...] = ()

    @property
    def may_postcopy(self) -> bool:
        return any(action.name == POSTCOPY for action in (*self.init, *(step.action for step in self.stalling)))

    def next(self, passes: int) -> tuple[Action | None, "Schedule"]:
        """(what to do now, what is left). passes: over the memory, since the start; ask only when it has grown."""
        if not self.stalling:
            return None, self
        head, *rest = self.stalling
        if head.limit >= 0 and passes <= head.limit:
            return None, self
        return head.action, Schedule(self.init, tuple(rest))


def of(asked: ConvergenceSchedule) -> Schedule:
    """The engine's schedule. Raises: InvalidVmParameter."""
    return Schedule(
        tuple(_action(entry) for entry in asked.init or ()),
        tuple(Step(entry.limit, _action(entry.action)) for entry in asked.stalling or ()),
    )


def _action(entry: ConvergenceAction) -> Action:
    if entry.name in (POSTCOPY, ABORT):
        return Action(entry.name)
    if entry.name != SET_DOWNTIME:
        raise InvalidVmParameter(f"convergence action {entry.name!r}")
    try:
        return Action(SET_DOWNTIME, max(1, int((entry.params or [])[0])))
    except (IndexError, ValueError) as error:
        raise InvalidVmParameter(f"{SET_DOWNTIME} needs milliseconds") from error


def exponential(downtime_ms: int, steps: int) -> Schedule:
    """Without a schedule: the downtime grows to `downtime_ms` in so many steps, then there is an end to patience."""
    values = downtimes(downtime_ms, steps)
    growing = [Step(i, Action(SET_DOWNTIME, value)) for i, value in enumerate(values[1:], start=1)]
    last = Step(_PATIENCE, Action(SET_DOWNTIME, values[-1]))
    return Schedule((Action(SET_DOWNTIME, values[0]),), (*growing, last, Step(-1, Action(ABORT))))


def downtimes(downtime_ms: int, steps: int) -> list[int]:
    """The growing downtimes, the last is about `downtime_ms`."""
    offset = downtime_ms / steps
    base = (downtime_ms - offset) ** (1 / (steps - 1))
    return [int(offset + base**i) for i in range(steps)]


def percent(stats: Mapping[str, Any]) -> int:
    """Progress out of libvirt's job statistics: 100 only when nothing is left."""
    total, left = int(stats.get("data_total", 0)), int(stats.get("data_remaining", 0))
    if total <= 0:
        return 0
    progress = 100 - 100 * left // total
    return min(99, max(0, progress)) if left else 100


def downtime_ms(stats: Mapping[str, Any], *, postcopy: bool) -> int | None:
    """How long the guest stood still, out of the statistics of a completed job; None when libvirt does not know."""
    value = stats.get("downtime" if postcopy else "downtime_net", stats.get("downtime"))
    return None if value is None else int(value)
