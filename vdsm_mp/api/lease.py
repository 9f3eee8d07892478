# SPDX-License-Identifier: Apache-2.0
"""Lease.*: external leases."""

from typing import Any

from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


@verb("Lease.create", owner="storage", reply=Uuid, tier=2, planned=True)
class CreateLease(Message, frozen=True, kw_only=True):
    """Create an external (VM) lease on a domain.

    Returns the id of an SPM task.
    """

    lease: dict[str, Any]
    metadata: dict[str, Any] | None = None


@verb("Lease.delete", owner="storage", reply=Uuid, tier=2, planned=True)
class DeleteLease(Message, frozen=True, kw_only=True):
    """Remove it.

    Returns the id of an SPM task.
    """

    lease: dict[str, Any]


@verb("Lease.rebuild_leases", owner="storage", reply=Uuid, lane=Lane.KEYED, key="sd_id", tier=3, planned=True)
class RebuildLeases(Message, frozen=True, kw_only=True):
    """Rebuild the lease index of a domain.

    Returns the id of an SPM task.
    """

    sd_id: Uuid


@verb("Lease.info", owner="storage", reply=dict[str, Any], safe=True, tier=2, planned=True)
class GetLeaseInfo(Message, frozen=True, kw_only=True):
    """Path and offset of a lease."""

    lease: dict[str, Any]


@verb("Lease.status", owner="storage", reply=dict[str, Any], safe=True, tier=2, planned=True)
class GetLeaseStatus(Message, frozen=True, kw_only=True):
    """Owners and metadata of a lease."""

    lease: dict[str, Any]


@verb("Lease.fence", owner="storage", tier=3, planned=True)
class FenceLease(Message, frozen=True, kw_only=True):
    """Mark a job lease as fenced."""

    lease: dict[str, Any]
    metadata: dict[str, Any]
