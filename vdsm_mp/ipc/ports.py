# SPDX-License-Identifier: Apache-2.0
"""The real ports: what `api/ports.py` promises, on top of the bus. Safe from pool threads."""

import contextvars
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.ports import CallContext
from vdsm_mp.api.verb import Message
from vdsm_mp.common import log
from vdsm_mp.ipc.lanes import Lanes
from vdsm_mp.ipc.pool import Job

logger = log.named(__name__)

#: When work that is due looks again for room in the pool.
_PUT_OFF_S = 1.0

#: The call that this thread or task is serving; calls made meanwhile inherit what is left of its time.
current: contextvars.ContextVar[CallContext | None] = contextvars.ContextVar("call", default=None)


class Node(Protocol):
    """What the ports need of the bus (`ipc/node.py`), which makes them."""

    lanes: Lanes

    def ask_blocking(self, message: Message, *, deadline_s: float | None = None) -> Any: ...
    def publish(self, event: Message) -> None: ...
    def on_loop(self, call: Callable[[], object]) -> None: ...
    def call_at(self, when_mono: float, call: Callable[[], object]) -> None: ...


class BusCaller:
    """`ports.Caller`. `bus` is for the client's door, which lives on the loop and forwards sealed letters."""

    def __init__(self, bus: Node) -> None:
        self.bus = bus

    def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
        """See `ports.Caller.ask`. Raises RuntimeError on the loop, which may not wait."""
        return self.bus.ask_blocking(message, deadline_s=deadline_s)


class BusPublisher:
    """`ports.Publisher`."""

    def __init__(self, bus: Node) -> None:
        self._bus = bus

    def publish(self, event: Message) -> None:
        self._bus.publish(event)


class _Later:
    """A `ports.Timer`; may be cancelled from any thread, and before the loop has heard of it."""

    def __init__(self, name: str, job: Callable[[], None], key: str | None) -> None:
        self._cancelled = False
        self.name = name
        self.job = job
        self.key = key

    def cancel(self) -> None:
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        return self._cancelled


class PoolBackground:
    """`ports.Background`: a bounded pool of its own, so that long work takes no thread from calls."""

    def __init__(self, bus: Node) -> None:
        self._bus = bus
        self._draining = False
        #: What was due and found no room. On the loop only.
        self._put_off: deque[_Later] = deque()

    @property
    def draining(self) -> bool:
        return self._draining

    def drain(self) -> None:
        """Ask long jobs to end at their next step."""
        self._draining = True

    def start(self, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        flow = log.flow.get()
        self._bus.lanes.start_background(key, Job(name, float("inf"), partial(_work, name, flow, job)))

    def later(self, delay_s: float, name: str, job: Callable[[], None], *, key: str | None = None) -> _Later:
        timer = _Later(name, job, key)
        due_mono = time.monotonic() + delay_s
        self._bus.on_loop(lambda: self._bus.call_at(due_mono, partial(self._due, timer)))
        return timer

    def _due(self, timer: _Later) -> None:
        """On the loop. What watches something goes on by this alone, and a job that is said to run ends by it: so a
        pool that is full only puts it off, however many wait. They were as many before they were due.
        """
        error = self._begin(timer)
        if error is not None:
            logger.warning("%s has to wait: %s", timer.name, error)
            self._put_off.append(timer)
            if len(self._put_off) == 1:
                self._look_again()

    def _begin(self, timer: _Later) -> Busy | None:
        if not (timer.cancelled or self._draining):
            try:
                self.start(timer.name, timer.job, key=timer.key)
            except Busy as error:
                return error
        return None

    def _look_again(self) -> None:
        self._bus.call_at(time.monotonic() + _PUT_OFF_S, self._begin_what_was_put_off)

    def _begin_what_was_put_off(self) -> None:
        """Each once: the key of one may be full and that of another not."""
        waiting, self._put_off = self._put_off, deque()
        self._put_off.extend(timer for timer in waiting if self._begin(timer) is not None)
        if self._put_off:
            self._look_again()


def _work(name: str, flow: str, job: Callable[[], None]) -> None:
    token = log.flow.set(flow)
    try:
        job()
    except Exception:
        logger.exception("background work %s failed", name)
    finally:
        log.flow.reset(token)
