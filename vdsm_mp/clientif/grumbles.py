# SPDX-License-Identifier: Apache-2.0
"""Warnings that strangers can cause, and must not be able to cause a million times."""

import time

from vdsm_mp.common import log

logger = log.named(__name__)

#: So many lines in ten seconds; the rest are counted.
_MOST = 20
_IN_S = 10.0


class Grumbles:
    def __init__(self) -> None:
        self._said = self._unsaid = 0
        self._from_mono = 0.0

    def say(self, text: str, *about: object) -> None:
        """Log a warning, as `logger.warning` takes it, or count it."""
        now = time.monotonic()
        if now - self._from_mono > _IN_S:
            if self._unsaid:
                logger.warning("%d more like these were not written", self._unsaid)
            self._from_mono, self._said, self._unsaid = now, 0, 0
        self._said += 1
        if self._said > _MOST:
            self._unsaid += 1
        else:
            logger.warning(text, *about)
