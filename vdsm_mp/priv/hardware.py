# SPDX-License-Identifier: Apache-2.0
"""DMI identity and kernel same-page merging. Root side, standard library only: fixed paths of sysfs, nothing else."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdsm_mp.priv.context import Context

_DMI = Path("/sys/class/dmi/id")
_KSM = Path("/sys/kernel/mm/ksm")
_FILES = {
    "systemManufacturer": "sys_vendor",
    "systemProductName": "product_name",
    "systemVersion": "product_version",
    "systemSerialNumber": "product_serial",
    "systemUUID": "product_uuid",
    "systemFamily": "product_family",
}


def info(_: Context, __: Mapping[str, Any]) -> dict[str, str]:
    """{Host.getHardwareInfo key: text}; what the firmware does not tell is absent."""
    found: dict[str, str] = {}
    for key, name in _FILES.items():
        with contextlib.suppress(OSError):
            if text := (_DMI / name).read_text(encoding="utf-8", errors="replace").strip():
                found[key] = text[:256]
    return found


def ksm_tune(_: Context, params: Mapping[str, Any]) -> dict[str, int]:
    """Write the given settings; `run` last, so that a start uses the new ones. Returns what was written.

    merge_across_nodes can be changed only while nothing is merged: then all pages are unmerged first (run = 2).
    """
    wanted = {name: value for name, value in params.items() if value is not None}
    if "merge_across_nodes" in wanted:
        path = _KSM / "merge_across_nodes"
        if path.exists() and int(path.read_text()) != wanted["merge_across_nodes"]:
            before = (_KSM / "run").read_text().strip()
            (_KSM / "run").write_text("2")
            path.write_text(str(wanted["merge_across_nodes"]))
            (_KSM / "run").write_text(before)
    for name in ("sleep_millisecs", "pages_to_scan", "run"):
        if name in wanted:
            (_KSM / name).write_text(str(wanted[name]))
    return wanted
