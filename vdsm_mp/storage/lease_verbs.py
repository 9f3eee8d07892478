# SPDX-License-Identifier: Apache-2.0
"""Handlers of Lease.*: external leases by name, and what a job keeps in its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from msgspec import UNSET
from msgspec.structs import replace

from vdsm_mp.api.errors_lease import LeaseExists
from vdsm_mp.api.errors_storage import DomainNotInPool
from vdsm_mp.api.lease import (
    CreateLease,
    DeleteLease,
    FenceLease,
    GetLeaseInfo,
    GetLeaseStatus,
    LeaseInfo,
    LeaseMetadata,
    LeaseStatus,
    RebuildLeases,
)
from vdsm_mp.api.verb import handles
from vdsm_mp.storage import job_lease, lease_undo, xlease
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.locks import Lease
from vdsm_mp.storage.sanlock import SanlockLock
from vdsm_mp.storage.volume_access import Volumes
from vdsm_mp.storage.volume_metadata import next_generation
from vdsm_mp.tasks.run import TaskRun


@handles(CreateLease)
def create(volumes: Volumes, ask: CreateLease) -> str:
    domain, lock = _for_spm(volumes, ask.lease.sd_id)
    lease_id, wanted = ask.lease.lease_id, ask.metadata

    def fill(lease: Lease) -> None:
        if wanted is not None:
            with lock.holding_value(lease) as value:
                value.write(job_lease.pack(job_lease.stamped(wanted, created=True)))

    def job(run: TaskRun) -> None:
        with _changing(volumes, f"addLease {lease_id}", domain, run):
            # What is there is not ours to undo, and what is about to be undone would take ours along.
            if xlease.exists(domain, lease_id) or volumes.tasks.being_undone(lease_id):
                raise LeaseExists(lease_id, domain.sd_id)
            run.push(lease_undo.lease_created(domain, lease_id))
            xlease.add(domain, lock, lease_id, fill)
        run.settle()

    return volumes.tasks.start("addLease", job, spm=True, key=f"leases {domain.sd_id}")


@handles(DeleteLease)
def delete(volumes: Volumes, ask: DeleteLease) -> str:
    domain, lock = _for_spm(volumes, ask.lease.sd_id)

    def job(run: TaskRun) -> None:
        with _changing(volumes, f"removeLease {ask.lease.lease_id}", domain, run):
            xlease.remove(domain, lock, ask.lease.lease_id, partial(job_lease.no_job_works, domain, lock))

    return volumes.tasks.start("removeLease", job, spm=True, key=f"leases {domain.sd_id}")


@handles(RebuildLeases)
def rebuild(volumes: Volumes, ask: RebuildLeases) -> str:
    domain, lock = _for_spm(volumes, ask.sd_id)

    def job(run: TaskRun) -> None:
        with _changing(volumes, "rebuildLeases", domain, run):
            xlease.rebuild(domain, lock)

    return volumes.tasks.start("rebuildLeases", job, spm=True, key=f"leases {domain.sd_id}")


@handles(GetLeaseInfo)
def info(volumes: Volumes, ask: GetLeaseInfo) -> LeaseInfo:
    domain, _ = job_lease.with_leases(volumes, ask.lease.sd_id)
    lease = xlease.find(domain, ask.lease.lease_id)
    return LeaseInfo(sd_id=domain.sd_id, lease_id=lease.name, path=lease.path, offset=lease.offset)


@handles(GetLeaseStatus)
def status(volumes: Volumes, ask: GetLeaseStatus) -> LeaseStatus:
    """Never takes the lease, not even for a moment: whoever wants it just then must get it."""
    domain, lock = job_lease.with_leases(volumes, ask.lease.sd_id)
    lease = xlease.find(domain, ask.lease.lease_id)
    owner = lock.inspect(lease)
    held = owner.host_id is not None
    return LeaseStatus(
        owners=[owner.host_id] if owner.host_id is not None else [],
        version=owner.version if held else None,
        metadata=job_lease.unpack(xlease.read_value(domain, lease)) or UNSET,
    )


@handles(FenceLease)
def fence(volumes: Volumes, ask: FenceLease) -> None:
    domain, lock = job_lease.with_leases(volumes, ask.lease.sd_id)
    with job_lease.holding(domain, lock, ask.lease.lease_id) as (lease, value):
        value.write(_fenced(lease, ask.metadata, value.read()))


def _fenced(lease: Lease, wanted: LeaseMetadata, raw: bytes) -> bytes:
    """Raises: JobStatusMismatch (912), GenerationMismatch (911); the lease keeps what it has."""
    found = job_lease.expected(lease, job_lease.unpack(raw), wanted.generation, wanted.job_id, wanted.job_status)
    fenced = replace(found, generation=next_generation(found.generation), job_status="FENCED")
    return job_lease.pack(job_lease.stamped(fenced))


def _for_spm(volumes: Volumes, sd_id: str) -> tuple[FileDomain, SanlockLock]:
    """Raises: NotSpm, DomainNotInPool, LeasesNotSupported."""
    if sd_id not in volumes.spm.require_any().domains:
        raise DomainNotInPool(sd_id, "it is not attached to the pool")
    return job_lease.with_leases(volumes, sd_id)


@contextmanager
def _changing(volumes: Volumes, holder: str, domain: FileDomain, run: TaskRun) -> Iterator[None]:
    """Leases of a domain, which stays in the pool meanwhile. Raises: ClaimTimedOut, TaskAborted, DomainNotInPool."""
    shared, exclusive = (("domain", domain.sd_id),), (("leases", domain.sd_id),)
    with volumes.resources.claim(holder, shared=shared, exclusive=exclusive, progress=run.progress):
        volumes.require_member(domain.sd_id)
        yield
