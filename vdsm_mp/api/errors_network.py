# SPDX-License-Identifier: Apache-2.0
"""Errors of the network room that cross a boundary, with VDSM's codes."""

from vdsm_mp.common.errors import BadRequest, Conflict, Failed


class BadNetworkParameters(BadRequest):
    code = 21
    msg = "Bad network parameters: {self.detail}"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class _About(BadRequest):
    """A fault of one named thing."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(name, detail)
        self.name = name
        self.detail = detail


class BadAddress(_About):
    code = 22
    msg = "Bad IP configuration of {self.name}: {self.detail}"


class BadNic(_About):
    code = 23
    msg = "Bad NIC {self.name}: {self.detail}"


class UsedNic(Conflict):
    code = 24
    msg = "{self.name} is in use: {self.detail}"

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(name, detail)
        self.name = name
        self.detail = detail


class BadBond(_About):
    code = 25
    msg = "Bad bond {self.name}: {self.detail}"


class BadVlan(_About):
    code = 26
    msg = "Bad VLAN of {self.name}: {self.detail}"


class BadBridge(_About):
    code = 27
    msg = "Bad network {self.name}: {self.detail}"


class NetworkStepFailed(Failed):
    """A step of the change failed; everything before it was undone."""

    code = 29
    msg = "The network change failed and was undone: {self.detail}"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class UsedBond(Conflict):
    code = 31
    msg = "Bond {self.name} is in use: {self.detail}"

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(name, detail)
        self.name = name
        self.detail = detail


class ConnectivityLost(Failed):
    """Nobody confirmed in time that the host can still be reached; the change was undone."""

    code = 10
    msg = "No confirmation within {self.waited} that the host is still reached; the network change was undone"

    def __init__(self, waited_s: float, stopping: bool = False) -> None:
        """stopping: it would have been waited for longer, but the agent was told to stop."""
        super().__init__(waited_s, stopping)
        self.waited = f"{waited_s:.1f} s, when the agent was told to stop," if stopping else f"{waited_s:g} s"
