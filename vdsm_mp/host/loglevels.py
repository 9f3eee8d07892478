# SPDX-License-Identifier: Apache-2.0
"""Log levels changed at run time: here at once, in the other workers by an event. Gone with the house."""

from vdsm_mp.api.errors_host import LogLevelInvalid
from vdsm_mp.api.events import LogLevelChanged
from vdsm_mp.api.ports import Publisher
from vdsm_mp.common import log


class LogLevels:
    """For Host.setLogLevel."""

    def __init__(self, publish: Publisher) -> None:
        self._publish = publish

    def set(self, logger: str, level: str) -> None:
        """Raises LogLevelInvalid; nothing has changed."""
        if not log.set_level(logger, level):
            raise LogLevelInvalid(level)
        self._publish.publish(LogLevelChanged(logger=logger, level=level))
