# SPDX-License-Identifier: Apache-2.0
"""Verbs between workers. The client's door refuses to route these."""

from typing import Any

from msgspec import field

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


class ChainLink(Message, frozen=True, kw_only=True):
    """One volume of a prepared chain, base first."""

    sd_id: Uuid
    image_id: Uuid
    volume_id: Uuid
    path: str
    lease_path: str | None = None
    lease_offset: int | None = None


class PreparedDrive(Message, frozen=True, kw_only=True):
    """What virt must know to put a disk into a domain XML.

    path: the run-time path of the leaf (below /run/vdsm/storage or the repository). format: "cow" or "raw".
    block: True for a block device. chain: base first, leaf last.
    """

    path: str
    format: str
    block: bool
    apparent_size_bytes: int
    true_size_bytes: int
    capacity_bytes: int
    chain: list[ChainLink]


@verb("internal.prepare_drive", owner="storage", reply=PreparedDrive, lane=Lane.READ, internal=True, deadline_s=120)
class PrepareDrive(Message, frozen=True, kw_only=True):
    """Make a volume chain usable on this host and tell its paths. Idempotent."""

    pool_id: Uuid
    sd_id: Uuid
    image_id: Uuid
    volume_id: Uuid
    allow_illegal: bool = False


@verb("internal.teardown_drive", owner="storage", lane=Lane.READ, internal=True, deadline_s=60)
class TeardownDrive(Message, frozen=True, kw_only=True):
    """The opposite of PrepareDrive. Idempotent; unknown images are fine."""

    pool_id: Uuid
    sd_id: Uuid
    image_id: Uuid


@verb("internal.set_running_legality", owner="storage", lane=Lane.READ, internal=True, safe=True, deadline_s=60)
class SetRunningLegality(Message, frozen=True, kw_only=True):
    """Mark a volume before QEMU leaves it (or back again, when it did not). Absolute, so that asking twice is fine."""

    sd_id: Uuid
    image_id: Uuid
    volume_id: Uuid
    legal: bool


@verb(
    "internal.sync_running_chain",
    owner="storage",
    reply=list[Uuid],
    lane=Lane.READ,
    internal=True,
    safe=True,
    deadline_s=60,
)
class SyncRunningChain(Message, frozen=True, kw_only=True):
    """QEMU has merged a volume into its base: make the metadata of the image say so. Idempotent.

    Returns the chain by the volumes' headers, base first.
    """

    sd_id: Uuid
    image_id: Uuid
    leaf_volume_id: Uuid
    base_volume_id: Uuid
    merged_volume_id: Uuid


@verb(
    "internal.domain_vitals",
    owner="storage",
    reply=dict[str, dict[str, Any]],
    lane=Lane.LOOP,
    safe=True,
    internal=True,
    deadline_s=2,
)
class GetDomainVitals(Message, frozen=True, kw_only=True):
    """{sd_id: entry of Host.getStats.storageDomains}, from memory; every monitored domain and no other."""


@verb(
    "internal.storage_status",
    owner="storage",
    reply=dict[str, Any],
    lane=Lane.LOOP,
    safe=True,
    internal=True,
    deadline_s=2,
)
class GetStorageStatus(Message, frozen=True, kw_only=True):
    """For `vdsm-mp status`: {"domains": {...}, "pools": {...}, "tasks": {...}}, from memory."""


@verb(
    "internal.storage_jobs",
    owner="storage",
    reply=dict[str, dict[str, Any]],
    lane=Lane.LOOP,
    safe=True,
    internal=True,
    deadline_s=2,
)
class GetStorageJobs(Message, frozen=True, kw_only=True):
    """{job_id: entry of Host.getJobs} of the storage worker."""


@verb(
    "internal.virt_jobs",
    owner="virt",
    reply=dict[str, dict[str, Any]],
    lane=Lane.LOOP,
    safe=True,
    internal=True,
    deadline_s=2,
)
class GetVirtJobs(Message, frozen=True, kw_only=True):
    """{job_id: entry of Host.getJobs} of the virt worker."""


class VmCounts(Message, frozen=True, kw_only=True):
    """The VM part of Host.getStats, plus `vms` {vm_id: {"name":…, "status":…}} for `vdsm-mp status`.

    conversions: {job id: {"status", "description", "progress"}}, its `v2vJobs`.
    """

    count: int
    active: int
    migrating: int
    incoming: int
    outgoing: int
    vms: dict[str, dict[str, Any]]
    conversions: dict[str, dict[str, Any]] = field(default_factory=dict)


@verb("internal.vm_counts", owner="virt", reply=VmCounts, lane=Lane.LOOP, safe=True, internal=True, deadline_s=2)
class GetVmCounts(Message, frozen=True, kw_only=True):
    """How many VMs in which state, from memory."""


@verb("internal.sample_vms", owner="virt", lane=Lane.KEYED, key="kind", safe=True, internal=True, deadline_s=30)
class SampleVms(Message, frozen=True, kw_only=True):
    """One beat of statistics.

    kind: "bulk" and "jobs" (every 15 s), "agent" (5 s), "external" and "external_data" (60 s).
    """

    kind: str


@verb("internal.check_storage", owner="storage", lane=Lane.LOOP, safe=True, internal=True, deadline_s=5)
class CheckStorage(Message, frozen=True, kw_only=True):
    """One beat of domain monitoring: starts the checks that are due and returns at once."""


@verb(
    "internal.host_status",
    owner="scheduler",
    reply=dict[str, Any],
    lane=Lane.READ,
    safe=True,
    internal=True,
    deadline_s=3,
)
class GetHostStatus(Message, frozen=True, kw_only=True):
    """For `vdsm-mp status`: VMs, domains, tasks, missed beats, gathered from their owners."""


class HypervisorFacts(Message, frozen=True, kw_only=True):
    """What Host.getCapabilities tells of libvirt and QEMU.

    machines: emulated machine types of the host's architecture, canonical names and aliases. models: CPU models that
    QEMU can give to guests here, without the prefix `model_`. tsc_hz: None when libvirt does not tell.
    """

    machines: list[str]
    models: list[str]
    tsc_hz: int | None = None
    tsc_scaling: bool = False
    vnc_encrypted: bool = False
    backup: bool = True


@verb("internal.hypervisor_facts", owner="virt", reply=HypervisorFacts, safe=True, internal=True, deadline_s=30)
class GetHypervisorFacts(Message, frozen=True, kw_only=True):
    """Ask libvirt what it can run. Slow (libvirt starts QEMU once for it), so it is asked rarely and remembered."""


@verb("internal.network_facts", owner="network", reply=dict[str, Any], safe=True, internal=True, deadline_s=5)
class GetNetworkFacts(Message, frozen=True, kw_only=True):
    """The network part of Host.getCapabilities, as it is now."""


@verb("internal.network_counters", owner="network", reply=dict[str, Any], safe=True, internal=True, deadline_s=5)
class GetNetworkCounters(Message, frozen=True, kw_only=True):
    """`network` of Host.getStats, read now, plus nothing else: {device: {...}}."""


@verb("internal.peer_liveness", owner="storage", reply=dict[str, str], safe=True, internal=True, deadline_s=10)
class GetPeerLiveness(Message, frozen=True, kw_only=True):
    """What sanlock knows of other hosts.

    host_ids: {sd_id: host id}. Answers {sd_id: "live", "fail", "dead", "free", "unknown" or "unavailable"}.
    """

    host_ids: dict[Uuid, int]


@verb("internal.end_paused_vms", owner="virt", safe=True, internal=True, deadline_s=5)
class EndPausedVms(Message, frozen=True, kw_only=True):
    """One beat: VMs whose rule is `kill` and that stood still for too long end, though their storage is not back."""


@verb("internal.dummy_bridge", owner="network", lane=Lane.READ, internal=True, safe=True, deadline_s=15)
class EnsureDummyBridge(Message, frozen=True, kw_only=True):
    """Have the bridge of cards that belong to no network. Idempotent."""


@verb(
    "internal.mirror_networks",
    owner="network",
    reply=dict[str, str],
    lane=Lane.KEYED,
    key="whose",
    internal=True,
    safe=True,
    deadline_s=60,
)
class MirrorNetworks(Message, frozen=True, kw_only=True):
    """Copy what passes these networks to these cards of guests, and nothing to any other card. Idempotent.

    cards: {network: [tap device, ...]}, all of this host. Answers {network: why not all of its cards have it}.
    """

    cards: dict[str, list[str]]
    whose: str = "guests"


@verb("internal.watch_network", owner="network", safe=True, internal=True, deadline_s=5)
class WatchNetwork(Message, frozen=True, kw_only=True):
    """One beat: tell engines when a bond failed over or a dynamic address changed (`|net|host_conn|no_id`)."""
