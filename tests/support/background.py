# SPDX-License-Identifier: Apache-2.0
"""A `Background` port for tests: threads of its own, or work that waits until the test says so."""

import queue
import threading
from collections.abc import Callable


class HeldBackground:
    """Nothing runs until `run_all`; then in the caller's thread, in order. draining is the test's to set."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Callable[[], None]]] = []
        self.draining = False

    def start(self, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        self.waiting.append((name, job))

    def later(self, delay_s: float, name: str, job: Callable[[], None], *, key: str | None = None) -> "HeldBackground":
        self.waiting.append((name, job))
        return self

    def cancel(self) -> None:
        self.waiting.clear()

    def run_all(self) -> None:
        while self.waiting:
            self.waiting.pop(0)[1]()


class ThreadBackground:
    """Jobs run at once, in a few threads; those of one key in order. `stop` waits for them."""

    def __init__(self, threads: int = 4) -> None:
        self.draining = False
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._keys: dict[str, list[Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        self._timers: list[threading.Timer] = []
        for thread in self._threads:
            thread.start()

    def start(self, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        if key is None:
            self._queue.put(job)
            return
        with self._lock:
            waiting = self._keys.setdefault(key, [])
            waiting.append(job)
            first = len(waiting) == 1
        if first:
            self._queue.put(lambda: self._run_key(key))

    def later(self, delay_s: float, name: str, job: Callable[[], None], *, key: str | None = None) -> threading.Timer:
        timer = threading.Timer(delay_s, lambda: self.start(name, job, key=key))
        self._timers.append(timer)
        timer.start()
        return timer

    def stop(self) -> None:
        self.draining = True
        for timer in self._timers:
            timer.cancel()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(30)

    def _run_key(self, key: str) -> None:
        while True:
            with self._lock:
                job = self._keys[key][0]
            try:
                job()
            finally:
                with self._lock:
                    self._keys[key].pop(0)
                    if not self._keys[key]:
                        del self._keys[key]
                        more = False
                    else:
                        more = True
            if not more:
                return

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job()
