# SPDX-License-Identifier: Apache-2.0
"""The answering half of the bus: one ROUTER, the lanes, and the room's handlers behind them.

A question is refused when its seal is wrong (silently, counted), when the asker's row of the process table does not
name us, and before the room is ready or while it drains (code 99: it surely has not run). What nobody waits for any
more is not started, and not answered. Runs on the loop; handlers run where their lane says.
"""

import asyncio
import contextvars
import time
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial

from vdsm_mp.api.errors import NotAllowed, RemoteError, StillStarting
from vdsm_mp.api.ports import CallContext
from vdsm_mp.api.verb import Lane
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error, Internal
from vdsm_mp.ipc import codec, trace
from vdsm_mp.ipc.dispatch import Dispatch
from vdsm_mp.ipc.envelope import BUS_VERSION, Broken, OtherVersion, Reply, Request, Seal, requests
from vdsm_mp.ipc.inbox import Inbox
from vdsm_mp.ipc.lanes import Lanes
from vdsm_mp.ipc.pool import Job
from vdsm_mp.ipc.ports import current
from vdsm_mp.ipc.pump import Pump
from vdsm_mp.ipc.wires import LINGER_MS, Wires

logger = log.named(__name__)

Answer = Callable[[bool, bytes], None]


class Service:
    """See the module. callers: the workers whose row of the table names this one; None: any of the house."""

    def __init__(
        self,
        worker: str,
        epoch: int,
        seal: Seal,
        lanes: Lanes,
        inbox: Inbox,
        callers: Collection[str] | None,
        last_values: Callable[[str], bytes],
        counts: "Counter[str]",
    ) -> None:
        self._worker = worker
        self._epoch = epoch
        self._seal = seal
        self._lanes = lanes
        self._inbox = inbox
        self._callers = callers
        self._last_values = last_values
        self._counts = counts
        self._dispatch: Dispatch | None = None
        self._draining = False
        self._pump: Pump | None = None
        self._max_body = 0
        self.traced = False

    def open(self, loop: asyncio.AbstractEventLoop, wires: Wires) -> None:
        self._max_body = wires.max_message_bytes
        socket = wires.router(wires.path(self._worker, self._epoch, "call"))
        self._pump = Pump(loop, socket, self._take)

    def set_handlers(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def drain(self) -> None:
        """Accept no more calls."""
        self._draining = True

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) != 3:
            self._refuse(f"{len(frames)} frames")
            return
        route, frame, body = frames
        try:
            header: Request = self._seal.open(requests, frame, body)
        except OtherVersion as error:
            self._refuse(str(error))
            self._reply(route, error.request_id, False, codec.encode_failure(RemoteError(Internal.code, str(error))))
            return
        except Broken as error:
            self._refuse(str(error))
            return
        if self.traced:
            trace.request("<", header.sender, header, body)
        if header.to != self._worker:
            self._refuse(f"a question of {header.sender} to {header.to}")
        elif header.kind == "last":
            self._reply(route, header.id, True, self._last_values(header.verb))
        elif self._callers is not None and header.sender not in self._callers:
            logger.warning("%s is not allowed to call %s", header.sender, header.verb)
            failure = codec.encode_failure(NotAllowed(f"the {header.sender} worker", header.verb))
            self._reply(route, header.id, False, failure)
        else:
            ctx = CallContext(header.verb, header.flow, header.peer or f"worker:{header.sender}", header.deadline)
            self.serve(body, ctx, partial(self._reply, route, header.id))

    def _refuse(self, why: str) -> None:
        self._counts["refused"] += 1
        # Whoever does this on purpose does it often.
        if self._counts["refused"].bit_count() == 1:
            logger.warning("refused a message: %s (%d so far)", why, self._counts["refused"])

    def _reply(self, route: bytes, request_id: int, ok: bool, body: bytes) -> None:
        assert self._pump is not None
        if len(body) > self._max_body:
            self._counts["oversized_replies"] += 1
            error = RemoteError(Internal.code, f"an answer of {len(body)} bytes is more than the bus carries")
            ok, body = False, codec.encode_failure(error)
        header = Reply(BUS_VERSION, "done" if ok else "fail", request_id, self._worker, self._epoch)
        if not self._pump.send((route, self._seal.close(header, body), body)):
            # The asker is gone, or has stopped reading; the master tells the others which.
            self._counts["undelivered_replies"] += 1
        if self.traced:
            trace.reply(">", "caller", header, body)

    def serve(self, params: bytes, ctx: CallContext, answer: Answer) -> None:
        """Serve one call; `answer` is called once, on the loop, unless its deadline has passed by then."""
        dispatch = self._dispatch
        try:
            if dispatch is None or self._draining:
                raise StillStarting
            handler = dispatch.find(ctx.verb)
            message = codec.decode_params(handler.spec, params)
            if time.monotonic() >= ctx.deadline_mono:
                self._counts["expired"] += 1
                return
            lane = handler.lane()
            if lane is not Lane.LOOP:
                run = partial(self._in_thread, partial(dispatch.run, handler, message, ctx), ctx, answer)
                job = Job(ctx.verb + handler.subject(message), ctx.deadline_mono, run)
                self._lanes.submit(lane, handler.key(message), job)
                return
        except Error as error:
            answer(False, codec.encode_failure(error))
            return
        except Exception:
            # A message class may run code of its own while it is decoded; its caller is answered all the same.
            logger.exception("%s could not be taken up", ctx.verb)
            answer(False, codec.encode_failure(Internal()))
            return
        ok, body = _within(ctx, partial(dispatch.run, handler, message, ctx))
        answer(ok, body)

    def _in_thread(self, run: Callable[[], tuple[bool, bytes]], ctx: CallContext, answer: Answer) -> None:
        ok, body = _within(ctx, run)
        self._inbox.put(partial(self._finish, ctx, answer, ok, body))

    def _finish(self, ctx: CallContext, answer: Answer, ok: bool, body: bytes) -> None:
        if time.monotonic() < ctx.deadline_mono:
            answer(ok, body)
        else:
            self._counts["answered_too_late"] += 1

    def close(self) -> None:
        if self._pump is not None:
            self._pump.close(LINGER_MS)


def _within(ctx: CallContext, run: Callable[[], tuple[bool, bytes]]) -> tuple[bool, bytes]:
    """Run a handler with its call as the current one, for the log and for the deadlines of calls it makes."""
    return contextvars.copy_context().run(_enter, ctx, run)


def _enter(ctx: CallContext, run: Callable[[], tuple[bool, bytes]]) -> tuple[bool, bytes]:
    current.set(ctx)
    log.flow.set(ctx.flow_id)
    return run()
