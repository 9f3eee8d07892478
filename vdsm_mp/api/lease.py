# SPDX-License-Identifier: Apache-2.0
"""Lease.*: external leases."""

from msgspec import UNSET, UnsetType

from vdsm_mp.api.errors_lease import (
    JobStatusMismatch,
    LeaseExists,
    LeaseIndexInvalid,
    LeasesNotSupported,
    NoRoomForLease,
    NoSuchLease,
)
from vdsm_mp.api.errors_storage import (
    DomainNotFound,
    DomainNotInPool,
    LockInitFailed,
    LockNotAcquired,
    LockNotInspected,
    NotSpm,
)
from vdsm_mp.api.errors_task import TASK_BEGIN, TaskAborted
from vdsm_mp.api.errors_volume import GenerationMismatch
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


@verb(
    "Lease.create",
    owner="storage",
    reply=Uuid,
    tier=2,
    raises=(NotSpm, DomainNotInPool, DomainNotFound, LeasesNotSupported, *TASK_BEGIN),
    later=(
        LeaseExists,
        NoRoomForLease,
        LeaseIndexInvalid,
        LockInitFailed,
        LockNotAcquired,
        LockNotInspected,
        TaskAborted,
    ),
)
class CreateLease(Message, frozen=True, kw_only=True):
    """Create an external lease, of a VM or of a job, on a domain of the pool. Returns the id of an SPM task.

    When it fails the lease's slot is free again.
    """

    lease: LeaseName
    metadata: LeaseMetadata | None = None


@verb(
    "Lease.delete",
    owner="storage",
    reply=Uuid,
    tier=2,
    raises=(NotSpm, DomainNotInPool, DomainNotFound, LeasesNotSupported, *TASK_BEGIN),
    later=(NoSuchLease, LeaseIndexInvalid, JobStatusMismatch, LockNotAcquired, LockNotInspected, TaskAborted),
)
class DeleteLease(Message, frozen=True, kw_only=True):
    """Remove an external lease. Returns the id of an SPM task.

    One of a VM goes whoever holds it; one of a job stays while a host works under it.
    """

    lease: LeaseName


@verb(
    "Lease.rebuild_leases",
    owner="storage",
    reply=Uuid,
    lane=Lane.KEYED,
    key="sd_id",
    tier=3,
    raises=(NotSpm, DomainNotInPool, DomainNotFound, LeasesNotSupported, *TASK_BEGIN),
    later=(LeaseIndexInvalid, LockInitFailed, LockNotInspected, TaskAborted),
)
class RebuildLeases(Message, frozen=True, kw_only=True):
    """Write the index of a domain's leases anew from the leases themselves. Returns the id of an SPM task."""

    sd_id: Uuid


@verb(
    "Lease.info",
    owner="storage",
    reply=LeaseInfo,
    safe=True,
    tier=2,
    raises=(DomainNotFound, LeasesNotSupported, NoSuchLease, LeaseIndexInvalid),
)
class GetLeaseInfo(Message, frozen=True, kw_only=True):
    """Path and offset of an external lease."""

    lease: LeaseName


@verb(
    "Lease.status",
    owner="storage",
    reply=LeaseStatus,
    safe=True,
    tier=2,
    raises=(DomainNotFound, LeasesNotSupported, NoSuchLease, LeaseIndexInvalid, LockNotInspected),
)
class GetLeaseStatus(Message, frozen=True, kw_only=True):
    """Who holds an external lease, and what a job keeps in it. The lease is not touched."""

    lease: LeaseName


@verb(
    "Lease.fence",
    owner="storage",
    tier=3,
    raises=(
        DomainNotFound,
        LeasesNotSupported,
        NoSuchLease,
        LeaseIndexInvalid,
        JobStatusMismatch,
        GenerationMismatch,
        LockNotAcquired,
        LockNotInspected,
    ),
)
class FenceLease(Message, frozen=True, kw_only=True):
    """Mark the job of a lease as FENCED, so that the host that ran it cannot end it any more.

    metadata: what the lease must hold for that. Otherwise it keeps what it has.
    """

    lease: LeaseName
    metadata: LeaseMetadata
