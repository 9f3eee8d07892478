# SPDX-License-Identifier: Apache-2.0
"""internal.host_status: VMs, domains, tasks and beats in one answer, each part as far as its owner answers."""

from collections.abc import Callable
from typing import Any

import msgspec

from vdsm_mp.api.internal import GetHostStatus, GetStorageStatus, GetVmCounts
from vdsm_mp.api.verb import Message, handles
from vdsm_mp.common.errors import Error
from vdsm_mp.host.health import problems
from vdsm_mp.host.owners import Owners

_OWNER_S = 1.0


class BeatStatus(msgspec.Struct, frozen=True):
    """Tells about the beats, {name: {...}}, and about free space, {folder: MiB}."""

    read: Callable[[], dict[str, dict[str, Any]]]
    free_mib: Callable[[], dict[str, int]] = dict


@handles(GetHostStatus)
def get_host_status(owners: Owners, beats: BeatStatus, ask: GetHostStatus) -> dict[str, Any]:
    """{"vms": {...}, "storage": {"domains", "pools", "tasks"}, "beats", "errors": {owner: sentence},
    "problems": [sentence]}"""
    found: dict[str, Any] = {"vms": {}, "storage": {}, "beats": beats.read(), "errors": {}}
    counts = _ask(owners, GetVmCounts(), "virt", found["errors"])
    if counts is not None:
        found["vms"] = counts.vms
    found["storage"] = _ask(owners, GetStorageStatus(), "storage", found["errors"]) or {}
    domains = found["storage"].get("domains", {})
    found["problems"] = problems(found["beats"], found["vms"], domains, beats.free_mib())
    return found


def _ask(owners: Owners, message: Message, owner: str, errors: dict[str, str]) -> Any:
    try:
        return owners.call.ask(message, deadline_s=_OWNER_S)
    except Error as error:
        errors[owner] = str(error)
        return None
