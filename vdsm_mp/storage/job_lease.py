# SPDX-License-Identifier: Apache-2.0
"""The lease of a job that writes what has no metadata of its own: generation and outcome are in the lease's value.

sanlock stores the value when the lease is let go, whoever does that. So who looks sees, while the job runs, PENDING and
an owner; when its worker died, FAILED; when its host died, PENDING without an owner, which may be fenced.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_lease import JobStatusMismatch, LeasesNotSupported
from vdsm_mp.api.errors_storage import LockNotInspected
from vdsm_mp.api.errors_volume import GenerationMismatch
from vdsm_mp.api.lease import LeaseMetadata, LeaseName
from vdsm_mp.storage import xlease
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.locks import Lease
from vdsm_mp.storage.sanlock import LeaseValue, SanlockLock
from vdsm_mp.storage.volume_access import Volumes
from vdsm_mp.storage.volume_metadata import next_generation


def with_leases(volumes: Volumes, sd_id: str) -> tuple[FileDomain, SanlockLock]:
    """Raises: DomainNotFound, LeasesNotSupported."""
    domain = volumes.domains.find(sd_id)
    lock = volumes.locks.of(domain)
    if not domain.format.external_leases or not isinstance(lock, SanlockLock):
        raise LeasesNotSupported(sd_id)
    return domain, lock


@contextmanager
def working(volumes: Volumes, name: LeaseName, job_id: str, generation: int | None) -> Iterator[None]:
    """Inside, what the lease stands for is this job's. SUCCEEDED and the next generation afterwards, else FAILED.

    The caller holds the lease's domain shared; no program writes any more when the block ends.
    Raises: JobStatusMismatch (912), GenerationMismatch (911), NoSuchLease, LockNotAcquired (another host has it): the
    lease is as it was then. LockNotInspected: what is stored is the outcome or FAILED, or PENDING when nobody knows.
    """
    domain, lock = with_leases(volumes, name.sd_id)
    with holding(domain, lock, name.lease_id) as (lease, value):
        found = expected(lease, unpack(value.read()), generation, job_id, "PENDING")
        value.write(pack(stamped(replace(found, job_status="FAILED"))))
        yield
        done = replace(found, job_status="SUCCEEDED", generation=next_generation(found.generation))
        value.write(pack(stamped(done)))


@contextmanager
def holding(domain: FileDomain, lock: SanlockLock, lease_id: str) -> Iterator[tuple[Lease, LeaseValue]]:
    """Inside, nobody else has the lease, and nobody removes it (`no_job_works`).

    Raises: NoSuchLease, LockNotAcquired, LockNotInspected.
    """
    lease = xlease.find(domain, lease_id)
    with lock.holding_value(lease) as value:
        xlease.find(domain, lease_id)  # who removed it may have had it just before, and its place is somebody's next
        yield lease, value


@contextmanager
def no_job_works(domain: FileDomain, lock: SanlockLock, lease: Lease) -> Iterator[None]:
    """Inside, no job works with the lease, and none begins to; one that is no job's may be held by anybody.

    A job's outcome would be stored where the lease was, in whatever has the place by then.
    Raises: JobStatusMismatch (912), LockNotAcquired, LockNotInspected.
    """
    found = unpack(xlease.read_value(domain, lease))
    if found is None or found.job_id is None:
        yield
        return
    owner = lock.inspect(lease).host_id
    if owner is not None:
        raise JobStatusMismatch(lease.name, f"job {found.job_id} works on host {owner}")
    with ExitStack() as held:
        held.enter_context(lock.holding_value(lease))
        yield
        with suppress(LockNotInspected):  # nothing was to be stored in it
            held.close()


def expected(
    lease: Lease, found: LeaseMetadata | None, generation: int | None, job_id: str | None, status: str | None
) -> LeaseMetadata:
    """generation: None for any. Raises: JobStatusMismatch (912), GenerationMismatch (911)."""
    if found is None:
        raise JobStatusMismatch(lease.name, "it holds nothing about a job")
    if generation is not None and found.generation != generation:
        raise GenerationMismatch(lease.name, generation, found.generation)
    if (found.job_id, found.job_status) != (job_id, status):
        raise JobStatusMismatch(lease.name, f"job {found.job_id} is {found.job_status}")
    return found


def stamped(metadata: LeaseMetadata, *, created: bool = False) -> LeaseMetadata:
    now = int(time.time())
    return replace(metadata, modified=now, **({"created": now} if created else {}))


def pack(metadata: LeaseMetadata) -> bytes:
    return json.dumps(msgspec.to_builtins(metadata)).encode()


def unpack(raw: bytes) -> LeaseMetadata | None:
    """None when there is none, or nothing that is one."""
    try:
        return msgspec.json.decode(raw.rstrip(b"\0"), type=LeaseMetadata, strict=False)
    except msgspec.DecodeError:
        return None
