# SPDX-License-Identifier: Apache-2.0
"""Free space of local folders. A disk that hangs keeps the thread that asked it, and nothing else of the sample."""

import os
import threading
import time
from collections.abc import Sequence
from functools import partial

from vdsm_mp.common import log

logger = log.named(__name__)

#: For all folders together; one that works answers at once.
_PATIENCE_S = 0.5


class FreeSpace:
    """Owns one thread for each folder that does not answer; such a folder is left out until it does."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = tuple(paths)
        self._asked: dict[str, threading.Thread] = {}
        self._answers: dict[str, int] = {}

    def mib(self) -> dict[str, int]:
        """{folder: MiB}, without those that cannot be asked."""
        fresh = [path for path in self._paths if path not in self._asked]
        for path in fresh:
            self._answers.pop(path, None)
            self._asked[path] = threading.Thread(target=partial(self._ask, path), name=f"free {path}", daemon=True)
            self._asked[path].start()
        until = time.monotonic() + _PATIENCE_S
        for path, thread in list(self._asked.items()):
            # One that hung before is not waited for again: it is looked at each time.
            thread.join(max(0.0, until - time.monotonic()) if path in fresh else 0.0)
            if not thread.is_alive():
                del self._asked[path]
            elif path in fresh:  # told once, not with each sample
                logger.warning("%s does not tell its free space: its disk hangs", path)
        return {path: self._answers[path] for path in self._paths if path in self._answers}

    def _ask(self, path: str) -> None:
        try:
            facts = os.statvfs(path)
        except OSError:
            return
        self._answers[path] = facts.f_bavail * facts.f_frsize >> 20
