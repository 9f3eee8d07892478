# SPDX-License-Identifier: Apache-2.0
"""Errors of external leases, with VDSM's numbers."""

from vdsm_mp.common.errors import BadRequest, Conflict, Failed, NotFound


class NoSuchLease(NotFound):
    code = 936
    msg = "Lease {self.lease_id} does not exist on storage domain {self.sd_id}"

    def __init__(self, lease_id: str, sd_id: str) -> None:
        super().__init__(lease_id, sd_id)
        self.lease_id = lease_id
        self.sd_id = sd_id


class LeaseExists(Conflict):
    code = 200
    msg = "Lease {self.lease_id} exists already on storage domain {self.sd_id}"

    def __init__(self, lease_id: str, sd_id: str) -> None:
        super().__init__(lease_id, sd_id)
        self.lease_id = lease_id
        self.sd_id = sd_id


class LeaseIndexInvalid(Failed):
    """Nothing was changed; `Lease.rebuild_leases` mends what can be mended."""

    code = 200
    msg = "The lease index of storage domain {self.sd_id} cannot be used: {self.reason}"

    def __init__(self, sd_id: str, reason: str) -> None:
        super().__init__(sd_id, reason)
        self.sd_id = sd_id
        self.reason = reason


class NoRoomForLease(Conflict):
    code = 200
    msg = "Storage domain {self.sd_id} holds {self.count} leases already"

    def __init__(self, sd_id: str, count: int) -> None:
        super().__init__(sd_id, count)
        self.sd_id = sd_id
        self.count = count


class LeasesNotSupported(BadRequest):
    code = 2009
    msg = "Storage domain {self.sd_id} has no external leases"

    def __init__(self, sd_id: str) -> None:
        super().__init__(sd_id)
        self.sd_id = sd_id


class JobStatusMismatch(Conflict):
    code = 912
    msg = "Lease {self.lease_id} is not as expected: {self.detail}"

    def __init__(self, lease_id: str, detail: str) -> None:
        super().__init__(lease_id, detail)
        self.lease_id = lease_id
        self.detail = detail
