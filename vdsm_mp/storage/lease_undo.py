# SPDX-License-Identifier: Apache-2.0
"""How adding an external lease is undone: a recovery of our own.

VDSM stores none when it adds a lease, and nothing that it has and calls by name would remove one. So this has the form
of a mark, which VDSM's roll-back passes over: its task ends there as one of its own that was cut short would, and a
lease that got its name stays until somebody deletes it. A name that VDSM does not know would end the roll-back.
"""

import logging

from vdsm_mp.api.errors_lease import NoSuchLease
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage import xlease
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.locks import Locks
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.sanlock import SanlockLock
from vdsm_mp.tasks.record import Recovery

_log = logging.getLogger("storage.undo")

#: How its name begins.
ADDED = "create lease rollback: "
#: What does nothing at a VDSM, with the ids of a domain, an image and a volume.
MARK = ("fileVolume", "FileVolume", "startCreateVolumeRollback")
#: Of records of before.
MODULE, OWNER, FUNCTION = "lease", "Lease", "createLeaseRollback"


def lease_created(domain: FileDomain, lease_id: str) -> Recovery:
    """To be stored while the lease is absent, and claimed: a lease that was there is nobody's to undo."""
    return Recovery(f"{ADDED}{lease_id}", *MARK, (domain.sd_id, lease_id, BLANK))


def undo(domain: FileDomain, lease_id: str, locks: Locks, resources: Resources) -> None:
    """Raises: ClaimTimedOut, LeaseIndexInvalid, storage errors."""
    lock = locks.of(domain)
    if not isinstance(lock, SanlockLock):
        _log.info("domain %s has no leases", domain.sd_id)
        return
    with resources.claim(f"roll-back of lease {lease_id}", exclusive=(("leases", domain.sd_id),)):
        try:
            xlease.remove(domain, lock, lease_id)
        except NoSuchLease:
            return
