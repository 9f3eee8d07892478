# SPDX-License-Identifier: Apache-2.0
"""Host.* answered by the scheduler worker: capabilities, statistics, fencing, jobs, policy."""

from typing import Any

from msgspec import UNSET, UnsetType, field

from vdsm_mp.api.errors_host import (
    FenceAgentUnsupported,
    FenceRequestInvalid,
    HostHookFailed,
    KsmTuneFailed,
    LogLevelInvalid,
    MemoryPolicyFailed,
)
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, Status, verb


class FenceResult(Message, frozen=True, kw_only=True):
    """power: "on", "off" or "unknown". operationStatus: "initiated" or "skipped", absent for `status`."""

    power: str = "unknown"
    operationStatus: str | UnsetType = UNSET


@verb(
    "Host.fenceNode",
    owner="scheduler",
    reply=FenceResult,
    raises=(FenceAgentUnsupported, FenceRequestInvalid),
    deadline_s=90,
    tier=2,
)
class FenceNode(Message, frozen=True, kw_only=True):
    """Operate a power-management agent of another host (this host is the proxy).

    `status` waits for the agent; `on`, `off` and `reboot` are initiated and go on by themselves.
    """

    addr: str
    port: int | str
    agent: str
    username: str
    password: str
    action: str
    secure: bool | None = None
    options: str | None = None
    policy: dict[str, Any] | None = None


@verb("Host.setMOMPolicy", owner="scheduler", tier=3, planned=True)
class SetMomPolicy(Message, frozen=True, kw_only=True):
    """Replace a whole mom policy by text."""

    policy: str


@verb("Host.setMOMPolicyParameters", owner="scheduler", raises=(MemoryPolicyFailed,), safe=True, deadline_s=20, tier=1)
class SetMomPolicyParameters(Message, frozen=True, kw_only=True):
    """Ballooning/KSM switches: balloonEnabled, ksmEnabled, ksmMergeAcrossNodes."""

    key_value_store: dict[str, Any]


@verb("Host.setKsmTune", owner="scheduler", reply=Status, raises=(KsmTuneFailed,), safe=True, tier=2)
class SetKsmTune(Message, frozen=True, kw_only=True):
    """Apply KSM settings: run, sleep_millisecs, pages_to_scan, merge_across_nodes."""

    tuning_params: dict[str, Any] = field(name="tuningParams")


@verb("Host.setHaMaintenanceMode", owner="scheduler", reply=Status, tier=2, planned=True)
class SetHaMaintenanceMode(Message, frozen=True, kw_only=True):
    """Switch hosted-engine local/global maintenance."""

    mode: str
    enabled: bool


@verb(
    "Host.getCapabilities",
    owner="scheduler",
    reply=dict[str, Any],
    raises=(HostHookFailed,),
    safe=True,
    deadline_s=30,
    tier=1,
)
class GetCapabilities(Message, frozen=True, kw_only=True):
    """Static host description."""


@verb("Host.echo", owner="scheduler", reply=str, lane=Lane.LOOP, safe=True, tier=3)
class Echo(Message, frozen=True, kw_only=True):
    """Returns its argument; used by system tests to mark logs."""

    message: str


@verb("Host.getHardwareInfo", owner="scheduler", reply=dict[str, str], safe=True, deadline_s=20, tier=1)
class GetHardwareInfo(Message, frozen=True, kw_only=True):
    """DMI identity of the machine."""


@verb(
    "Host.getStats", owner="scheduler", reply=dict[str, Any], raises=(HostHookFailed,), safe=True, deadline_s=10, tier=1
)
class GetHostStats(Message, frozen=True, kw_only=True):
    """Host statistics incl. storage domain health."""


@verb("Host.getJobs", owner="scheduler", reply=dict[str, Any], safe=True, deadline_s=10, tier=1)
class GetJobs(Message, frozen=True, kw_only=True):
    """State of host jobs."""

    job_type: str | None = None
    job_ids: list[Uuid] | None = None


@verb("Host.ping", owner="network", lane=Lane.LOOP, safe=True, deadline_s=5, tier=2)
class Ping(Message, frozen=True, kw_only=True):
    """Old liveness check; also confirms connectivity."""


@verb("Host.ping2", owner="clientif", lane=Lane.LOOP, safe=True, tier=1)
class Ping2(Message, frozen=True, kw_only=True):
    """Liveness check without side effect."""


@verb("Host.setLogLevel", owner="scheduler", raises=(LogLevelInvalid,), lane=Lane.LOOP, safe=True, tier=3)
class SetLogLevel(Message, frozen=True, kw_only=True):
    """Change a logger's level at run time."""

    level: str
    name: str | None = None
