# SPDX-License-Identifier: Apache-2.0
"""How a worker asks: every way of calling a verb, from the loop or a pool thread, and what is left of its deadline.

A call goes to the verb's owner over the bus (`ipc/calls.py`), or, when the owner is this very worker, into its own
lanes. All but `ask_blocking` is for the loop.
"""

import asyncio
import threading
import time
from collections.abc import Collection
from functools import partial
from typing import Any

from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.errors import DeadlineExceeded, NotAllowed, UnknownVerb
from vdsm_mp.api.ports import CallContext
from vdsm_mp.api.verb import Message, VerbSpec, spec_of
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.ipc import codec
from vdsm_mp.ipc.calls import Calls, Done, Question
from vdsm_mp.ipc.inbox import Inbox
from vdsm_mp.ipc.ports import current
from vdsm_mp.ipc.service import Service

logger = log.named(__name__)

#: The last values of a topic must come within this.
LAST_VALUES_S = 5.0
#: A blocking caller waits so much longer than its deadline for the loop to say that it has passed.
LOOP_GRACE_S = 2.0
#: Of a flow id and of a client's address.
MAX_TEXT = 128


class Asker:
    """Of one worker. allowed: the workers that it may call."""

    def __init__(self, worker: str, allowed: Collection[str], calls: Calls, service: Service, inbox: Inbox) -> None:
        self._worker = worker
        self._allowed = frozenset(allowed)
        self._calls = calls
        self._service = service
        self._inbox = inbox
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

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
            self.forget(question)
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
            return CallContext(spec.name, log.flow.get(), f"worker:{self._worker}", until_mono)
        until_mono = min(until_mono, served.deadline_mono)
        return CallContext(spec.name, served.flow_id, f"worker:{self._worker}", until_mono)

    def _start(self, spec: VerbSpec, params: bytes, ctx: CallContext, now_mono: float, done: Done) -> Question | None:
        if spec.owner == self._worker:
            return self._serve_here(params, ctx, now_mono, done)
        if spec.owner not in self._allowed:
            done(None, NotAllowed(f"the {self._worker} worker", spec.name))
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
        question = Question("call", self._worker, ctx.verb, False, params, now_mono, ctx.deadline_mono, "", "", done)
        question.timer = self._loop.call_at(ctx.deadline_mono, self._calls.too_late, question)
        self._service.serve(params, ctx, partial(_answer_here, question))
        return question

    def ask_last(self, publisher: str, topic: str, done: Done) -> None:
        """The last values of a topic of events (`ipc/events.py`): the body of the answer, still sealed."""
        now_mono = time.monotonic()
        until_mono = now_mono + LAST_VALUES_S
        self._calls.ask(Question("last", publisher, topic, False, b"", now_mono, until_mono, "", "", done))


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
            logger.error("the loop gave no answer to %s within %.1fs", verb, most_s)
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
