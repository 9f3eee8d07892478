# SPDX-License-Identifier: Apache-2.0
"""Lease.*: external leases."""

from msgspec import UNSET, UnsetType

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


class LeaseName(Message, frozen=True, kw_only=True):
    """lease_id: of a VM, or of a job."""

    sd_id: Uuid
    lease_id: Uuid


class LeaseMetadata(Message, frozen=True, kw_only=True):
    """What a job keeps in its lease. job_status: PENDING, SUCCEEDED, FAILED, FENCED. Times: seconds since the epoch."""

    type: str = "JOB"
    generation: int = 0
    job_id: str | None = None
    job_status: str | None = None
    created: int | UnsetType = UNSET
    modified: int | UnsetType = UNSET
    host_hardware_id: str | UnsetType = UNSET


class LeaseInfo(Message, frozen=True, kw_only=True):
    """Where the lease is."""

    sd_id: str
    lease_id: str
    path: str
    offset: int


class LeaseStatus(Message, frozen=True, kw_only=True):
    """owners: host ids, empty = free. metadata: absent when there is none."""

    owners: list[int]
    version: int | None
    metadata: LeaseMetadata | UnsetType = UNSET


@verb("Lease.create", owner="storage", reply=Uuid, tier=2)
class CreateLease(Message, frozen=True, kw_only=True):
    """Create an external (VM) lease on a domain.

    Returns the id of an SPM task.
    """

    lease: LeaseName
    metadata: LeaseMetadata | None = None


@verb("Lease.delete", owner="storage", reply=Uuid, tier=2)
class DeleteLease(Message, frozen=True, kw_only=True):
    """Remove it.

    Returns the id of an SPM task.
    """

    lease: LeaseName


@verb("Lease.rebuild_leases", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=3)
class RebuildLeases(Message, frozen=True, kw_only=True):
    """Rebuild the lease index of a domain.

    Returns the id of an SPM task.
    """

    sd_id: Uuid


@verb("Lease.info", owner="storage", reply=LeaseInfo, safe=True, tier=2)
class GetLeaseInfo(Message, frozen=True, kw_only=True):
    """Path and offset of a lease."""

    lease: LeaseName


@verb("Lease.status", owner="storage", reply=LeaseStatus, safe=True, tier=2)
class GetLeaseStatus(Message, frozen=True, kw_only=True):
    """Owners and metadata of a lease."""

    lease: LeaseName


@verb("Lease.fence", owner="storage", tier=3)
class FenceLease(Message, frozen=True, kw_only=True):
    """Mark a job lease as fenced.

    metadata: what the lease must hold for that.
    """

    lease: LeaseName
    metadata: LeaseMetadata
