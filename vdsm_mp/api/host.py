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
    """Operate the power management of another host, by a fence agent: this host is the proxy.

    `status` waits for the agent; `on`, `off` and `reboot` are initiated and go on by themselves. policy: skip it when
    the other host still renews its leases.
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
    """Replace the whole policy of mom by text; there is no mom here."""

    policy: str


@verb("Host.setMOMPolicyParameters", owner="scheduler", raises=(MemoryPolicyFailed,), safe=True, deadline_s=20, tier=1)
class SetMomPolicyParameters(Message, frozen=True, kw_only=True):
    """Switch ballooning and KSM: balloonEnabled, ksmEnabled, ksmMergeAcrossNodes; others are ignored.

    Kept across restarts. When they cannot be kept, the old ones hold.
    """

    key_value_store: dict[str, Any]


@verb("Host.setKsmTune", owner="scheduler", reply=Status, raises=(KsmTuneFailed,), safe=True, tier=2)
class SetKsmTune(Message, frozen=True, kw_only=True):
    """Set KSM: run, sleep_millisecs, pages_to_scan, merge_across_nodes. Those before the one that failed stay."""

    tuning_params: dict[str, Any] = field(name="tuningParams")


@verb("Host.setHaMaintenanceMode", owner="scheduler", reply=Status, tier=2, planned=True)
class SetHaMaintenanceMode(Message, frozen=True, kw_only=True):
    """Switch the maintenance of hosted-engine."""

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
    """What this host is and can do: CPU, memory, versions, and its networks as they are now.

    99 until networks and libvirt were asked once: an engine would put a host aside that seems to have neither.
    """


@verb("Host.echo", owner="scheduler", reply=str, lane=Lane.LOOP, safe=True, tier=3)
class Echo(Message, frozen=True, kw_only=True):
    """Returns its argument, and writes it to the log."""

    message: str


@verb("Host.getHardwareInfo", owner="scheduler", reply=dict[str, str], safe=True, deadline_s=20, tier=1)
class GetHardwareInfo(Message, frozen=True, kw_only=True):
    """Manufacturer, product, serial number and id of the machine, as its firmware tells them; the rest is absent."""


@verb(
    "Host.getStats", owner="scheduler", reply=dict[str, Any], raises=(HostHookFailed,), safe=True, deadline_s=10, tier=1
)
class GetHostStats(Message, frozen=True, kw_only=True):
    """Load, memory, networks of this host, its number of VMs and the health of its storage domains; from memory.

    What needs two samples is absent in the first seconds.
    """


@verb("Host.getJobs", owner="scheduler", reply=dict[str, Any], safe=True, deadline_s=10, tier=1)
class GetJobs(Message, frozen=True, kw_only=True):
    """Jobs of this host: status, progress, and the error of a failed one. job_type, job_ids: only these, if given.

    A job that is over stays listed for an hour; one that is not listed is unknown here.
    """

    job_type: str | None = None
    job_ids: list[Uuid] | None = None


@verb("Host.ping", owner="network", lane=Lane.LOOP, safe=True, deadline_s=5, tier=2)
class Ping(Message, frozen=True, kw_only=True):
    """Liveness, and a confirmation as Host.confirmConnectivity; for older clients."""


@verb("Host.ping2", owner="clientif", lane=Lane.LOOP, safe=True, tier=1)
class Ping2(Message, frozen=True, kw_only=True):
    """`true` once this host has recovered and serves, 99 before. Changes nothing."""


@verb("Host.setLogLevel", owner="scheduler", raises=(LogLevelInvalid,), lane=Lane.LOOP, safe=True, tier=3)
class SetLogLevel(Message, frozen=True, kw_only=True):
    """Change a logger's level until the next restart: TRACE, DEBUG, INFO, WARNING, ERROR. No name: all loggers.

    Names are those of the log's lines, such as `storage.volume` or `virt`.
    """

    level: str
    name: str | None = None
