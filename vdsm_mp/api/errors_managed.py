# SPDX-License-Identifier: Apache-2.0
"""Errors of managed volumes, with VDSM's numbers (925-929)."""

from vdsm_mp.common.errors import BadRequest, Conflict, Failed


class ManagedVolumeNotSupported(BadRequest):
    """os-brick is not installed for root's Python."""

    code = 925
    msg = "Managed volumes are not supported on this host: {self.reason}"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ManagedVolumeHelperFailed(Failed):
    """When it was not told whether the volume is attached it stays in the record; ask again, or detach it."""

    code = 926
    msg = "Managed volume {self.volume_id}: {self.reason}"

    def __init__(self, volume_id: str, reason: str) -> None:
        super().__init__(volume_id, reason)
        self.volume_id = volume_id
        self.reason = reason


class ManagedVolumeAlreadyAttached(Conflict):
    code = 927
    msg = "Managed volume {self.volume_id} is attached as {self.path}"

    def __init__(self, volume_id: str, path: str) -> None:
        super().__init__(volume_id, path)
        self.volume_id = volume_id
        self.path = path


class ManagedVolumeUnsupportedDevice(BadRequest):
    """Nothing is attached."""

    code = 928
    msg = "Managed volume {self.volume_id} is of a kind that is not supported: {self.reason}"

    def __init__(self, volume_id: str, reason: str) -> None:
        super().__init__(volume_id, reason)
        self.volume_id = volume_id
        self.reason = reason


class ManagedVolumeConnectionMismatch(Conflict):
    code = 929
    msg = "Managed volume {self.volume_id} is recorded with another connection"

    def __init__(self, volume_id: str) -> None:
        super().__init__(volume_id)
        self.volume_id = volume_id
