# SPDX-License-Identifier: Apache-2.0
"""One worker's place on the bus. The runner makes a `Bus` after the fork; rooms see only the ports it gives.

    bus = Bus("virt", run_dir, epoch=7, token=token, calls=("storage",), callers=("clientif", "scheduler"))
    ... build the room with bus.caller, bus.publisher, bus.background; bus.subscribe(...) ...
    await bus.start()                      # binds; calls are answered with 99 until set_handlers
    bus.peer_changed("storage", 3, True)   # for each peer that is ready, and at every change after that
    bus.set_handlers(Dispatch("virt", room.handlers, room.state))
    ...
    await bus.drain(deadline_s)            # no new calls, running ones end; calling and publishing still work
    await bus.stop()

There is no broker: each worker binds one ROUTER and one XPUB below `run_dir` and connects to the peers that the
master has announced. `await` and `peer_changed` belong to the loop's thread; the ports are for any thread.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import zmq

from vdsm_mp.api.verb import Message
from vdsm_mp.common import log
from vdsm_mp.ipc import shutdown
from vdsm_mp.ipc.asking import Asker
from vdsm_mp.ipc.calls import Calls
from vdsm_mp.ipc.dispatch import Dispatch
from vdsm_mp.ipc.envelope import Seal
from vdsm_mp.ipc.inbox import Inbox
from vdsm_mp.ipc.inlet import Inlet
from vdsm_mp.ipc.lanes import Lanes, Limits
from vdsm_mp.ipc.outlet import Outlet
from vdsm_mp.ipc.ports import BusCaller, BusPublisher, PoolBackground
from vdsm_mp.ipc.pump import Pump
from vdsm_mp.ipc.service import Service
from vdsm_mp.ipc.wires import MAX_MESSAGE_BYTES, Wires

logger = log.named(__name__)

#: A trace that somebody forgot ends by itself.
MOST_TRACE_S = 3600.0
DRAIN_STEP_S = 0.01


class Bus:
    """See the module for the life of a bus. One per process and event loop.

    epoch: which incarnation of the worker this is; grows with every restart. token: the secret of this master
    start. calls: the workers this one may call. callers: the workers that may call this one; None allows any of
    the house. limits: threads and queues of the lanes.
    """

    def __init__(
        self,
        worker: str,
        run_dir: Path,
        *,
        epoch: int,
        token: str,
        calls: Sequence[str],
        callers: Collection[str] | None = None,
        limits: Limits | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self.worker = worker
        self.epoch = epoch
        self.lanes = Lanes(limits)
        self._run_dir = run_dir
        self._max_message_bytes = max_message_bytes
        self._counts: Counter[str] = Counter()
        self._inbox = Inbox()
        seal = Seal(token)
        self._outlet = Outlet(worker, epoch, seal, self._inbox, self._counts)
        self._calls = Calls(worker, epoch, seal, self._counts)
        self._service = Service(
            worker, epoch, seal, self.lanes, self._inbox, callers, self._outlet.last_values, self._counts
        )
        asker = self._asker = Asker(worker, calls, self._calls, self._service, self._inbox)
        self._inlet = Inlet(seal, asker.ask_last, self._counts)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wires: Wires | None = None
        self._seal = seal
        self._prepare: Callable[[], None] | None = None
        self._house: Pump | None = None
        self._trace_end: asyncio.TimerHandle | None = None
        self._left: list[str] = []
        #: What each of them does, and when it fails, stands in `asking.py`.
        self.call_raw, self.call_then, self.forget = asker.call_raw, asker.call_then, asker.forget
        self.ask, self.ask_blocking = asker.ask, asker.ask_blocking
        self.caller = BusCaller(self)
        self.publisher = BusPublisher(self)
        self.background = PoolBackground(self)

    # The life

    async def start(self) -> None:
        """Bind the sockets and serve. Raises: OSError (cannot bind), PermissionError (run_dir)."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._wires = Wires(self._run_dir, self._max_message_bytes)
        self._service.open(loop, self._wires)
        self._outlet.open(loop, self._wires)
        self._inlet.open(loop, self._wires)
        self._calls.open(loop, self._wires)
        self._asker.open(loop)
        if self._prepare is not None:
            house = self._wires.listener(shutdown.address(self._run_dir, self.worker, self.epoch), shutdown.TOPIC)
            self._house = Pump(loop, house, self._hear)
        self._inbox.open(loop)

    def on_shutdown(self, prepare: Callable[[], None]) -> None:
        """Call `prepare` on the loop when the master broadcasts that the house will stop. Before `start`."""
        self._prepare = prepare

    def _hear(self, frames: list[bytes]) -> None:
        if self._prepare is not None and shutdown.is_genuine(self._seal, frames):
            self._prepare()
        else:
            self._counts["refused"] += 1

    def bind_again(self) -> None:
        """The files of our sockets were removed: make them anew, so that workers that start now can connect."""
        if self._wires is None:
            return
        try:
            self._wires.bind_again()
        except zmq.ZMQError as error:
            logger.error("the sockets on the bus cannot be made again: %s", error)  # the master looks, and tells again

    def set_handlers(self, dispatch: Dispatch) -> None:
        """From now on calls are served. Until then they are answered with StillStarting."""
        self._service.set_handlers(dispatch)

    def peer_changed(self, name: str, epoch: int, up: bool) -> None:
        """The master's note about another worker. Its calls in flight are answered at once when it is gone."""
        if name == self.worker:
            return
        if up:
            self._calls.peer_up(name, epoch)
            self._inlet.peer_up(name, epoch)
        else:
            self._inlet.peer_down(name, epoch)
            self._calls.peer_down(name, epoch)

    async def drain(self, deadline_s: float) -> bool:
        """Take no more calls (99) and let those inside and the background work end. False: some did not, in time."""
        self._service.drain()
        self.background.drain()
        ends_mono = time.monotonic() + deadline_s
        while self.lanes.serving or self.lanes.background_running:
            if time.monotonic() >= ends_mono:
                self._left = self.lanes.running()
                logger.warning("drained for %.1fs, still running: %s", deadline_s, ", ".join(self._left))
                return False
            await asyncio.sleep(DRAIN_STEP_S)
        self._inbox.serve()
        return True

    async def stop(self) -> None:
        """Answer what is still in flight and close. Repeating is harmless."""
        self._inbox.serve()
        self._calls.close()
        self._inlet.close()
        self._outlet.close()
        self._service.close()
        if self._house is not None:
            self._house.close()
        self.lanes.close()
        wires, self._wires = self._wires, None
        if wires is not None:
            # Lets the last answers go, for LINGER_MS at most.
            await asyncio.to_thread(wires.close)

    # Events

    def publish(self, event: Message) -> None:
        """See `ports.Publisher`."""
        self._outlet.publish(event)

    def subscribe(
        self, event: type[Message], function: Callable[[Any], None], resync: Callable[[str], None] | None = None
    ) -> None:
        """Call `function(event)` on the loop for each event of this class from any other worker.

        resync(publisher) is called when events of that publisher may have been missed (it or we joined late, it
        restarted, we were too slow), right after its last values, where the event keeps them, went through
        `function` once more. Both may not block. Before `start`, or on the loop.
        """
        self._inlet.subscribe(event, function, resync)

    # The loop, for the ports

    def on_loop(self, call: Callable[[], object]) -> None:
        """Run a callable on the loop, from any thread, in order. It must not raise."""
        self._inbox.put(call)

    def call_at(self, when_mono: float, call: Callable[[], object]) -> None:
        """Run a callable on the loop at a time. On the loop."""
        if self._loop is not None and self._wires is not None:
            self._loop.call_at(when_mono, call)

    # Looking in

    def trace_for(self, seconds: float) -> None:
        """Write one line per message of this worker to the log for so long. On the loop."""
        assert self._loop is not None
        if self._trace_end is not None:
            self._trace_end.cancel()
        self.set_trace(True)
        self._trace_end = self._loop.call_later(min(seconds, MOST_TRACE_S), self.set_trace, False)

    def set_trace(self, on: bool) -> None:
        """Begin or end writing one line per message of this worker to the log."""
        for part in (self._calls, self._service, self._outlet, self._inlet):
            part.traced = on

    def vitals(self) -> Mapping[str, Any]:
        """For `status`: {"lanes": {lane: numbers}, "stuck": [sentence], "in_flight": {peer: n}, counter: n, …}.

        Asked with each heartbeat; logs the calls that overstay their deadline.
        """
        return {
            "lanes": self.lanes.vitals(),
            "stuck": self._left or self.lanes.report_stuck(time.monotonic()),
            "in_flight": self._calls.in_flight(),
            **self._counts,
        }
