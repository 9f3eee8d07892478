# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: a few migrations go on at a time, each in a thread of its own; the rest waits without one."""

import threading
from collections import deque
from collections.abc import Callable

from vdsm_mp.common import log
from vdsm_mp.virt.migration_watch import Outgoing


class Queue:
    """lead(migration): carries one to its end, as long as that takes; must not raise. limit: how many at a time."""

    def __init__(self, lead: Callable[[Outgoing], None], limit: int) -> None:
        self._lead = lead
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[Outgoing] = deque()
        self._active = 0

    def submit(self, out: Outgoing, limit: int | None = None) -> None:
        """In order. limit: from now on so many at a time."""
        with self._lock:
            self._limit = limit or self._limit
            self._waiting.append(out)
        self._next()

    def withdraw(self, out: Outgoing) -> bool:
        """False when its turn has come already."""
        with self._lock:
            waiting = out in self._waiting
            if waiting:
                self._waiting.remove(out)
        return waiting

    def _next(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._active >= self._limit:
                    return
                self._active += 1
                out = self._waiting.popleft()
            flow = log.flow.get()
            threading.Thread(target=self._run, args=(out, flow), name=f"migrate {out.vm_id}", daemon=True).start()

    def _run(self, out: Outgoing, flow: str) -> None:
        log.flow.set(flow)
        try:
            self._lead(out)
        finally:
            with self._lock:
                self._active -= 1
            self._next()
