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
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import zmq

from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.errors import DeadlineExceeded, NotAllowed, UnknownVerb
from vdsm_mp.api.ports import CallContext
from vdsm_mp.api.verb import Message, VerbSpec, spec_of
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.ipc import codec, shutdown
from vdsm_mp.ipc.calls import Calls, Done, Question
from vdsm_mp.ipc.dispatch import Dispatch
from vdsm_mp.ipc.envelope import Seal
from vdsm_mp.ipc.inbox import Inbox
from vdsm_mp.ipc.inlet import Inlet
from vdsm_mp.ipc.lanes import Lanes, Limits
from vdsm_mp.ipc.outlet import Outlet
from vdsm_mp.ipc.ports import BusCaller, BusPublisher, PoolBackground, current
from vdsm_mp.ipc.pump import Pump
from vdsm_mp.ipc.service import Service
from vdsm_mp.ipc.wires import MAX_MESSAGE_BYTES, Wires

logger = log.named(__name__)

#: The last values of a topic must come within this.
LAST_VALUES_S = 5.0
#: A blocking caller waits so much longer than its deadline for the loop to say that it has passed.
LOOP_GRACE_S = 2.0
#: A trace that somebody forgot ends by itself.
MOST_TRACE_S = 3600.0
#: Of a flow id and of a client's address.
MAX_TEXT = 128
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
        self._allowed = frozenset(calls)
        self._max_message_bytes = max_message_bytes
        self._counts: Counter[str] = Counter()
        self._inbox = Inbox()
        seal = Seal(token)
        self._outlet = Outlet(worker, epoch, seal, self._inbox, self._counts)
        self._inlet = Inlet(seal, self._ask_last, self._counts)
        self._calls = Calls(worker, epoch, seal, self._counts)
        self._service = Service(
            worker, epoch, seal, self.lanes, self._inbox, callers, self._outlet.last_values, self._counts
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wires: Wires | None = None
        self._seal = seal
        self._prepare: Callable[[], None] | None = None
        self._house: Pump | None = None
        self._trace_end: asyncio.TimerHandle | None = None
        self._left: list[str] = []
        self.caller = BusCaller(self)
        self.publisher = BusPublisher(self)
        self.background = PoolBackground(self)

    # The life

    async def start(self) -> None:
        """Bind the sockets and serve. Raises: OSError, zmq.ZMQError (cannot bind), PermissionError (run_dir)."""
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._wires = Wires(self._run_dir, self._max_message_bytes)
        self._service.open(loop, self._wires)
        self._outlet.open(loop, self._wires)
        self._inlet.open(loop, self._wires)
        self._calls.open(loop, self._wires)
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

    # Calls

    async def call_raw(
        self, verb: str, params: bytes, *, deadline_s: float | None = None, flow_id: str = "", peer: str = ""
    ) -> bytes:
        """Ask the owner of a verb; both letters stay sealed.

        params: JSON object or array, or empty. deadline_s: the verb's own when not given. Returns the encoded
        `result`. Raises: the error of the other side, as its own class where this process knows it and as
        RemoteError (code and sentence kept) where not; UnknownVerb, NotAllowed, StillStarting, Busy,
        PeerRestarted, DeadlineExceeded.
        """
        assert self._loop is not None
        future: asyncio.Future[bytes] = self._loop.create_future()
        question = self.call_then(
            verb, params, partial(_fulfil, future), deadline_s=deadline_s, flow_id=flow_id, peer=peer
        )
        try:
            return await future
        except asyncio.CancelledError:
            if question is not None:
                self._calls.forget(question)
            raise

    def call_then(
        self,
        verb: str,
        params: bytes,
        done: Done,
        *,
        deadline_s: float | None = None,
        flow_id: str = "",
        peer: str = "",
    ) -> Question | None:
        """`call_raw` without a task: `done(result, None)` or `done(None, error)` is called once, on the loop.

        It may be called before this returns. `forget(question)` when nobody wants the answer any more.
        """
        spec = VERBS.get(verb)
        if spec is None:
            done(None, UnknownVerb(verb))
            return None
        now_mono = time.monotonic()
        until_mono = now_mono + (spec.deadline_s if deadline_s is None else deadline_s)
        ctx = CallContext(verb, _printable(flow_id), _printable(peer), until_mono)
        return self._start(spec, params, ctx, now_mono, done)

    def forget(self, question: Question | None) -> None:
        """Drop the answer to a question of `call_then` when it comes."""
        if question is not None:
            self._calls.forget(question)

    async def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
        """Call another worker from the loop. Returns the decoded reply. Raises: as `call_raw`."""
        assert self._loop is not None
        spec = spec_of(type(message))
        ctx = self._context(spec, deadline_s)
        future: asyncio.Future[bytes] = self._loop.create_future()
        question = self._start(spec, codec.encode_params(message), ctx, time.monotonic(), partial(_fulfil, future))
        try:
            return codec.decode_reply(spec, await future)
        except asyncio.CancelledError:
            self.forget(question)
            raise

    def ask_blocking(self, message: Message, *, deadline_s: float | None = None) -> Any:
        """`ask` for pool threads. Raises RuntimeError on the loop."""
        if self._inbox.on_loop:
            raise RuntimeError(f"{type(message).__name__}: the loop may not wait; use a pool lane")
        spec = spec_of(type(message))
        ctx = self._context(spec, deadline_s)
        began_mono = time.monotonic()
        answer = _Answer()
        params = codec.encode_params(message)
        self._inbox.put(lambda: self._start(spec, params, ctx, began_mono, answer.put))
        body = answer.wait(ctx.deadline_mono - began_mono + LOOP_GRACE_S, spec.name)
        return codec.decode_reply(spec, body)

    def _context(self, spec: VerbSpec, deadline_s: float | None) -> CallContext:
        """The call to make: for at most the time that is left of the call being served."""
        until_mono = time.monotonic() + (spec.deadline_s if deadline_s is None else deadline_s)
        served = current.get()
        if served is None:
            return CallContext(spec.name, log.flow.get(), f"worker:{self.worker}", until_mono)
        until_mono = min(until_mono, served.deadline_mono)
        return CallContext(spec.name, served.flow_id, f"worker:{self.worker}", until_mono)

    def _start(self, spec: VerbSpec, params: bytes, ctx: CallContext, now_mono: float, done: Done) -> Question | None:
        if spec.owner == self.worker:
            return self._serve_here(params, ctx, now_mono, done)
        if spec.owner not in self._allowed:
            done(None, NotAllowed(f"the {self.worker} worker", spec.name))
            return None
        question = Question(
            "call",
            spec.owner,
            spec.name,
            spec.safe,
            params,
            now_mono,
            ctx.deadline_mono,
            ctx.flow_id,
            ctx.peer,
            done,
        )
        self._calls.ask(question)
        return question

    def _serve_here(self, params: bytes, ctx: CallContext, now_mono: float, done: Done) -> Question:
        """A verb of this very worker: the same lanes and the same encoding, without the wire."""
        assert self._loop is not None
        question = Question("call", self.worker, ctx.verb, False, params, now_mono, ctx.deadline_mono, "", "", done)
        question.timer = self._loop.call_at(ctx.deadline_mono, self._calls.too_late, question)
        self._service.serve(params, ctx, partial(_answer_here, question))
        return question

    def _ask_last(self, publisher: str, topic: str, done: Done) -> None:
        now_mono = time.monotonic()
        until_mono = now_mono + LAST_VALUES_S
        self._calls.ask(Question("last", publisher, topic, False, b"", now_mono, until_mono, "", "", done))

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


class _Answer:
    """Where a pool thread waits for its answer."""

    def __init__(self) -> None:
        self._there = threading.Lock()
        self._there.acquire()
        self._body: bytes | None = None
        self._error: Error | None = None

    def put(self, body: bytes | None, error: Error | None) -> None:
        self._body, self._error = body, error
        self._there.release()

    def wait(self, most_s: float, verb: str) -> bytes:
        if not self._there.acquire(timeout=max(0.0, most_s)):
            # The loop itself is late; the master's heartbeat deals with it.
            logger.log(logging.ERROR, "the loop gave no answer to %s within %.1fs", verb, most_s)
            raise DeadlineExceeded(verb, round(most_s, 3))
        if self._body is None:
            raise self._error or Error()
        return self._body


def _printable(untrusted_text: str) -> str:
    """A flow id or address as a header may carry it."""
    text = untrusted_text[:MAX_TEXT]
    return text if text.isascii() else text.encode("ascii", "replace").decode()


def _fulfil(future: "asyncio.Future[bytes]", body: bytes | None, error: Error | None) -> None:
    if future.done():
        return
    if body is None:
        future.set_exception(error or Error())
    else:
        future.set_result(body)


def _answer_here(question: Question, ok: bool, body: bytes) -> None:
    if ok:
        question.answer(body, None)
    else:
        question.answer(None, codec.decode_failure(body))
