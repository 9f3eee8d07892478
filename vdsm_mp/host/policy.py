# SPDX-License-Identifier: Apache-2.0
"""Switches of the memory policy: ballooning and KSM. Kept on disk, because engines send them once at activation.

KSM is changed through root (`ksm-tune`), by one rule: it merges while less than 20 % of the memory is available, until
30 % are again, and scans the faster the more is missing, from 640 to 125,000 pages a second. Switched off, it is
stopped once; pages merged before stay merged.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from vdsm_mp.api.errors_host import KsmTuneFailed, MemoryPolicyFailed
from vdsm_mp.api.ports import Root
from vdsm_mp.common import files, log
from vdsm_mp.common.errors import Error
from vdsm_mp.host import ksm, memory
from vdsm_mp.host.machine import Machine

logger = log.named(__name__)

_START_BELOW, _STOP_ABOVE = 0.20, 0.30
_SLEEP_MS, _PAGES_LEAST, _PAGES_MOST = 100, 64, 12500
_TUNABLE = ("run", "sleep_millisecs", "pages_to_scan", "merge_across_nodes")


class Switches(msgspec.Struct, frozen=True, kw_only=True):
    """format: of the file. Absent in VDSM's meaning is off for ballooning and KSM, on for merging across nodes."""

    format: int = 1
    balloon: bool = False
    ksm: bool = False
    merge_across_nodes: bool = True


class Policy:
    def __init__(self, root: Root, machine: Machine, state_dir: str) -> None:
        self._root = root
        self._machine = machine
        self._path = Path(state_dir) / "memory-policy.json"
        self._lock = threading.Lock()
        self._switches = Switches()
        self._fault = ""

    def problems(self) -> list[str]:
        """Why the policy is not the one that was set, as sentences."""
        return [self._fault] if self._fault else []

    @property
    def switches(self) -> Switches:
        return self._switches

    def load(self) -> None:
        """Read what was set before the restart; a file that cannot be read counts as absent."""
        try:
            self._switches = msgspec.json.decode(self._path.read_bytes(), type=Switches)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
            self._fault = f"the memory policy has its defaults, {self._path} is not usable: {error}"
            logger.warning("%s", self._fault)

    def set(self, values: Mapping[str, Any]) -> None:
        """Change what is given; unknown names are kept out and logged. Applied by the next beat of the policy.

        Raises: MemoryPolicyFailed (nothing has changed).
        """
        with self._lock:
            old = self._switches
            fresh = Switches(
                balloon=_flag(values, "balloonEnabled", old.balloon),
                ksm=_flag(values, "ksmEnabled", old.ksm),
                merge_across_nodes=_flag(values, "ksmMergeAcrossNodes", old.merge_across_nodes),
            )
            try:
                files.replace(self._path, msgspec.json.encode(fresh))
            except OSError as error:
                raise MemoryPolicyFailed(str(error)) from error
            self._switches, self._fault = fresh, ""
        logger.info("memory policy: %s", self._switches)

    def apply(self) -> None:
        """One beat of the rule. Raises: PrivilegedFailed and its like; the next beat tries again."""
        switches, now = self._switches, ksm.read(self._machine)
        wanted = ksm_wanted(switches, now, memory.meminfo(self._machine))
        if wanted and (wanted["run"] or now.running):
            self._root.do("ksm-tune", **wanted)

    def tune(self, values: Mapping[str, Any]) -> None:
        """Write KSM settings now. Raises: KsmTuneFailed (what was written before it stays)."""
        try:
            wanted = {name: int(values[name]) for name in _TUNABLE if values.get(name) is not None}
            self._root.do("ksm-tune", **wanted)
        except (Error, TypeError, ValueError) as error:
            raise KsmTuneFailed(str(error)) from error


def ksm_wanted(switches: Switches, now: ksm.Ksm, meminfo: Mapping[str, int]) -> dict[str, int]:
    """What `ksm-tune` has to set; {} when all is as it should be. Pure."""
    if not switches.ksm:
        return {"run": 0} if now.running else {}
    total, available = max(meminfo.get("MemTotal", 0), 1), meminfo.get("MemAvailable", 0)
    enough = _STOP_ABOVE if now.running else _START_BELOW
    if available >= total * enough:
        return {"run": 0} if now.running else {}
    missing = 1 - available / (total * _STOP_ABOVE)
    pages = int(_PAGES_LEAST + (_PAGES_MOST - _PAGES_LEAST) * missing)
    wanted = {"run": 1, "sleep_millisecs": _SLEEP_MS, "pages_to_scan": pages}
    if now.merge_across_nodes != switches.merge_across_nodes:
        wanted["merge_across_nodes"] = int(switches.merge_across_nodes)
    return wanted


def _flag(values: Mapping[str, Any], name: str, otherwise: bool) -> bool:
    value = values.get(name)
    if value is None:
        return otherwise
    return value if isinstance(value, bool) else str(value).lower() in ("true", "1", "yes")
