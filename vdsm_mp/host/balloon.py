# SPDX-License-Identifier: Apache-2.0
"""Ballooning: move memory between guests and the host, in small steps. One beat every 15 s.

The rules, all of them:
- less than 20 % of the host's memory is available: every guest that has memory to spare gives some back;
- more than 25 % is available: guests get memory again, those that miss most first, but never so much that less than
  25 % stay available;
- in one beat a guest's memory changes by 5 % of its maximum at most, and by less than 1 % not at all;
- a guest keeps a fifth of its memory free, and never has less than it is guaranteed. No guarantee, no ballooning;
- a guest whose driver does not tell what is free gives nothing, and neither does one for which ballooning is off.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from vdsm_mp.api.ports import Caller
from vdsm_mp.api.vm_host import GetAllVmStats
from vdsm_mp.api.vm_tuning import SetVmBalloonTarget
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.host import memory
from vdsm_mp.host.machine import Machine
from vdsm_mp.host.policy import Policy

logger = log.named(__name__)

_TIGHT, _EASY = 0.20, 0.25
_STEP, _LEAST = 0.05, 0.01
_GUEST_KEEPS = 0.20
_CALL_S = 5.0


class Guest(msgspec.Struct, frozen=True):
    """KiB. free: what the guest itself could do without; None when it does not tell."""

    vm_id: str
    least: int
    most: int
    now: int
    free: int | None


def targets(meminfo: Mapping[str, int], guests: Iterable[Guest]) -> dict[str, int]:
    """{vm_id: KiB it shall have}; only those that change. Pure."""
    total, available = meminfo.get("MemTotal", 0), meminfo.get("MemAvailable", 0)
    ballooned = [guest for guest in guests if 0 < guest.least < guest.most]
    if available < total * _TIGHT:
        return _shrink(ballooned)
    if available > total * _EASY:
        return _grow(ballooned, int(available - total * _EASY))
    return {}


def _shrink(guests: Iterable[Guest]) -> dict[str, int]:
    found: dict[str, int] = {}
    for guest in guests:
        if guest.free is None:
            continue
        # Taking x makes both smaller: (free - x) must stay a fifth of (now - x).
        spare = int((guest.free - _GUEST_KEEPS * guest.now) / (1 - _GUEST_KEEPS))
        take = min(spare, int(guest.most * _STEP), guest.now - guest.least)
        if take >= guest.most * _LEAST:
            found[guest.vm_id] = guest.now - take
    return found


def _grow(guests: Iterable[Guest], budget: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for guest in sorted(guests, key=lambda guest: guest.now / guest.most):
        missing = guest.most - guest.now
        give = min(missing, int(guest.most * _STEP), budget)
        # The last bit is given even when it is small: a guest must be able to have all of its memory again.
        if give >= guest.most * _LEAST or 0 < give == missing:
            found[guest.vm_id] = guest.now + give
            budget -= give
    return found


def guests_of(stats: Iterable[Mapping[str, Any]]) -> list[Guest]:
    """The running guests that may be ballooned, from Host.getAllVmStats."""
    found: list[Guest] = []
    for vm in stats:
        info, told = vm.get("balloonInfo") or {}, vm.get("memoryStats") or {}
        if vm.get("status") != "Up" or not info.get("ballooning_enabled", True):
            continue
        try:
            free = told.get("mem_free", told.get("mem_unused"))
            found.append(
                Guest(
                    vm_id=str(vm["vmId"]),
                    least=int(info["balloon_min"]),
                    most=int(info["balloon_max"]),
                    now=int(info["balloon_cur"]),
                    free=None if free is None else int(free),
                )
            )
        except (KeyError, ValueError):
            continue  # not sampled yet, or no balloon
    return found


class Balloons:
    """One beat: look, decide, tell virt. A VM that does not listen keeps nobody from being asked."""

    def __init__(self, call: Caller, policy: Policy, machine: Machine) -> None:
        self._call = call
        self._policy = policy
        self._machine = machine

    def beat(self) -> None:
        """Raises: what asking for the statistics raises."""
        if not self._policy.switches.balloon:
            return
        wanted = targets(memory.meminfo(self._machine), guests_of(self._call.ask(GetAllVmStats())))
        for vm_id, target in wanted.items():
            try:
                self._call.ask(SetVmBalloonTarget(vm_id=vm_id, target=target), deadline_s=_CALL_S)
            except Error as error:
                logger.warning("balloon of vm=%s stays as it is: %s", vm_id, error)
            else:
                logger.info("balloon of vm=%s set to %d KiB", vm_id, target)
