# SPDX-License-Identifier: Apache-2.0
"""The bridge of cards that belong to no network: engines name it in the XML of every such card.

It has no port but cards of VMs and no address, so nothing gets out of it. Made when a VM first wants it; it stays.
"""

import threading
from pathlib import Path

from vdsm_mp.api.ports import Root
from vdsm_mp.common import log

logger = log.named(__name__)

NAME = ";vdsmdummy;"
_SYSFS = Path("/sys/class/net")


class DummyBridge:
    """Any thread."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._lock = threading.Lock()

    def ensure(self) -> None:
        """Idempotent. Raises: PrivilegedFailed."""
        with self._lock:
            if not (_SYSFS / NAME / "bridge").exists():
                self._root.do("dummy-bridge")
                logger.info("bridge %s for cards without a network is there", NAME)
