# SPDX-License-Identifier: Apache-2.0
"""How many VMs start at the same time: four, the rest waits in order without holding a thread.

Storage and libvirt are shared by all; more at once only makes each slower, and a slow storage would take the
background pool with it.
"""

import threading
from collections import deque
from collections.abc import Callable

from vdsm_mp.api.ports import Background
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error

logger = log.named(__name__)

AT_ONCE = 4

Job = Callable[[], None]


class Launches:
    """Starts jobs in the background, at most `at_once`; a job that ends makes room for the next."""

    def __init__(self, background: Background, at_once: int = AT_ONCE) -> None:
        self._background = background
        self._free = at_once
        self._waiting: deque[tuple[str, Job, Callable[[Error], None]]] = deque()
        self._lock = threading.Lock()

    def submit(self, name: str, job: Job, refused: Callable[[Error], None]) -> None:
        """refused: called instead of the job when the background pool does not take it."""
        with self._lock:
            self._waiting.append((name, job, refused))
        self._next()

    def __len__(self) -> int:
        return len(self._waiting)

    def _next(self) -> None:
        with self._lock:
            if not self._free or not self._waiting:
                return
            self._free -= 1
            name, job, refused = self._waiting.popleft()
        try:
            self._background.start(name, lambda: self._run(job))
        except Error as error:
            logger.warning("%s could not be started: %s", name, error)
            self._release()
            refused(error)

    def _run(self, job: Job) -> None:
        try:
            job()
        finally:
            self._release()
            self._next()

    def _release(self) -> None:
        with self._lock:
            self._free += 1
