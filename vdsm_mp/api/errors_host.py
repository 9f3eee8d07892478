# SPDX-License-Identifier: Apache-2.0
"""Errors of the host room that cross a boundary, with VDSM's codes."""

from vdsm_mp.common.errors import BadRequest, Failed


class FenceAgentUnsupported(BadRequest):
    code = 43
    msg = "Fence agent {self.agent} is not there or may not be used"

    def __init__(self, agent: str) -> None:
        super().__init__(agent)
        self.agent = agent


class FenceRequestInvalid(BadRequest):
    code = 1000
    msg = "Fence request refused: {self.detail}"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class MemoryPolicyFailed(Failed):
    """The switches could not be kept; the old ones are in force."""

    code = 54
    msg = "Failed to set the memory policy: {self.detail}"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class KsmTuneFailed(Failed):
    """Settings written before the one that failed stay."""

    code = 71
    msg = "Failed to set KSM: {self.detail}"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class HostHookFailed(Failed):
    """A hook of a host point said no; the message says which."""

    code = 1500
    msg = "{self.detail}"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class LogLevelInvalid(BadRequest):
    code = 1000
    msg = "{self.level!r} is not a log level"

    def __init__(self, level: str) -> None:
        super().__init__(level)
        self.level = level
