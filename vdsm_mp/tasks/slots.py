# SPDX-License-Identifier: Apache-2.0
"""Long work, a few at a time: a `Background` that keeps threads free for what must not wait (watching leases, checks).

What is over the limit waits in order. Work of one key runs one at a time, in order, and while it waits for its key it
takes no slot, so that many steps on one image do not hold up the others.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.ports import Background, Timer
from vdsm_mp.common.errors import Error

_log = logging.getLogger("storage.tasks")

#: VDSM's `irs.thread_pool_size` and `irs.max_tasks`.
SLOTS = 10
MAX_WAITING = 500
_AGAIN_S = 1.0

_Work = tuple[str, Callable[[], None], str | None]


class Slots:
    """A `ports.Background`. Thread-safe."""

    def __init__(self, background: Background, slots: int = SLOTS, max_waiting: int = MAX_WAITING) -> None:
        self._background = background
        self._slots = slots
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._waiting: deque[_Work] = deque()
        self._running = 0
        self._busy_keys: set[str] = set()

    @property
    def draining(self) -> bool:
        return self._background.draining

    def start(self, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        """Raises: Busy (too much waits already); nothing was begun."""
        with self._lock:
            if len(self._waiting) >= self._max_waiting:
                raise Busy("storage work")
            self._waiting.append((name, job, key))
        try:
            self._fill()
        except Error:
            with self._lock:
                if (name, job, key) in self._waiting:
                    self._waiting.remove((name, job, key))
            raise

    def later(self, delay_s: float, name: str, job: Callable[[], None], *, key: str | None = None) -> Timer:
        """Like `start`, after a delay; what finds too much waiting then is lost."""
        return self._background.later(delay_s, name, lambda: self.start(name, job, key=key))

    def vitals(self) -> dict[str, int]:
        with self._lock:
            return {"running": self._running, "waiting": len(self._waiting)}

    def _fill(self) -> None:
        """Begin what may begin. Raises: Busy (of the threads below); that work stays in its place."""
        while (work := self._take()) is not None:
            name, job, key = work
            try:
                self._background.start(name, lambda job=job, key=key: self._run(job, key))  # type: ignore[misc]
            except Error:
                with self._lock:
                    self._waiting.appendleft(work)
                self._release(key)
                raise

    def _take(self) -> _Work | None:
        with self._lock:
            if self._running >= self._slots:
                return None
            for work in self._waiting:
                key = work[2]
                if key is None or key not in self._busy_keys:
                    self._waiting.remove(work)
                    self._running += 1
                    if key is not None:
                        self._busy_keys.add(key)
                    return work
            return None

    def _release(self, key: str | None) -> None:
        with self._lock:
            self._running -= 1
            if key is not None:
                self._busy_keys.discard(key)

    def _run(self, job: Callable[[], None], key: str | None) -> None:
        try:
            job()
        finally:
            self._release(key)
            self._go_on()

    def _go_on(self) -> None:
        """What waits is begun by what ends, by nothing else: where there is no thread for it now, it is tried again."""
        try:
            self._fill()
        except Error as error:
            _log.warning("storage work that waits has to wait longer: %s", error)
            self._background.later(_AGAIN_S, "storage work that waits", self._go_on)
