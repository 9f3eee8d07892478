# SPDX-License-Identifier: Apache-2.0
"""What is wrong with this host now, as sentences a person can act on. Pure: judges what others have read."""

from collections.abc import Mapping
from typing import Any

#: A beat that fails once may have met a restart; this often in a row it is a fault.
_FAILURES = 3
#: An engine takes a domain for bad after this many seconds without a check.
_LAST_CHECK_S = 30.0
#: An engine warns about a local folder with less free space (MiB).
_FREE_MIB = 500
#: Below /run there are sockets, links and notes only, in memory: a fifth of a small host's is less than the above.
_FREE_MIB_RUN = 32


def problems(
    beats: Mapping[str, Mapping[str, Any]],
    vms: Mapping[str, Mapping[str, Any]],
    domains: Mapping[str, Mapping[str, Any]],
    free_mib: Mapping[str, int],
) -> list[str]:
    """Sorted sentences; [] when all is well.

    beats: as `Beats.status`. vms: {vm_id: {"name", "status"}}. domains: entries of Host.getStats.storageDomains, with
    more in them. free_mib: {folder: free MiB}.
    """
    found = [
        f"{name}: failed {row['failures']} times in a row: {row['error']}"
        for name, row in beats.items()
        if row["failures"] >= _FAILURES
    ]
    found += [
        f"VM {vm.get('name') or vm_id} does not respond"
        for vm_id, vm in vms.items()
        if str(vm.get("status")).replace(" ", "").lower() == "notresponding"
    ]
    found += [fault for sd_id, vitals in domains.items() if (fault := _fault_of(sd_id, vitals))]
    found += [f"{folder}: only {free} MiB are free" for folder, free in free_mib.items() if free < _least(folder)]
    return sorted(found)


def _least(folder: str) -> int:
    return _FREE_MIB_RUN if folder.startswith("/run/") else _FREE_MIB


def _fault_of(sd_id: str, vitals: Mapping[str, Any]) -> str:
    """ "" for a domain that is well, or that was not checked yet (`actual` false)."""
    if not vitals.get("actual"):
        return ""
    if vitals.get("code"):
        return f"storage domain {sd_id} has error {vitals['code']}"
    last_check_s = float(vitals.get("lastCheck", 0))
    if last_check_s > _LAST_CHECK_S:
        return f"storage domain {sd_id} was last checked {last_check_s:.0f} s ago"
    return ""
