# SPDX-License-Identifier: Apache-2.0
"""From an encoded question to an encoded answer: the handlers of one worker, tied to the objects of its room.

Refuses to be built when a verb that this worker owns and that is not planned has no handler, or two, or when the room
lacks what one wants. Serving a call never raises: what goes wrong becomes a `codec.Failure`, and only what nobody
foresaw leaves a traceback, in the log.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import msgspec

from vdsm_mp.api.errors import NotSupported, SystemRefused, UnknownVerb
from vdsm_mp.api.ports import CallContext
from vdsm_mp.api.verb import Lane, Message, VerbSpec, spec_of
from vdsm_mp.common.errors import Error, Internal
from vdsm_mp.ipc import codec, handlers
from vdsm_mp.ipc.handlers import Row, Unhandled


class Handler(msgspec.Struct, frozen=True):
    """One verb, ready to be served. `call(message, ctx)` runs the room's function with all it wants.

    may_block: asked before each call of a verb of the loop; while it is true the verb runs in a pool.
    """

    spec: VerbSpec
    call: Callable[[Message, CallContext], Any]
    logger: logging.Logger
    subjects: tuple[tuple[str, str], ...]
    may_block: Callable[[], bool] | None = None

    def lane(self) -> Lane:
        """Where this call runs."""
        lane = self.spec.lane
        return Lane.READ if lane is Lane.LOOP and self.may_block is not None and self.may_block() else lane

    def key(self, message: Message) -> str | None:
        """What orders calls of this verb: "vm_id=1111…". Verbs of one owner with one key field share their turns."""
        field = self.spec.key
        return None if field is None else f"{field}={getattr(message, field)}"

    def subject(self, message: Message) -> str:
        """On what, for the log: "vm=1111 sd=2222"."""
        found = ((label, getattr(message, name)) for name, label in self.subjects)
        return "".join(f" {label}={value}" for label, value in found if isinstance(value, str))


class Dispatch:
    """The handlers of one worker by verb name. Raises Unhandled when built from a room that does not fit."""

    def __init__(
        self,
        worker: str,
        modules: Sequence[ModuleType],
        state: Sequence[object],
        may_block: Mapping[type[Message], Callable[[], bool]] | None = None,
    ) -> None:
        self.worker = worker
        self._table = handlers.read(worker, tuple(modules))
        self._given, lacking = _given(self._table.needs, state)
        wrong = [*self._table.wrong]
        wrong += [
            f"{row.place}: {lacking[cls]} objects of the room are a {cls.__name__} for {name}"
            for row in (self._table.rows.values() if lacking else ())
            for name, cls in row.needs
            if cls in lacking
        ]
        if wrong:
            raise Unhandled(f"{worker}: " + "; ".join(wrong))
        self._may_block = {spec_of(message).name: asked for message, asked in (may_block or {}).items()}
        #: Tied when they are first asked for: a worker that starts need not touch them all.
        self._ready: dict[str, Handler] = {}

    def find(self, verb: str) -> Handler:
        """Raises: NotSupported (declared, not built), UnknownVerb."""
        handler = self._ready.get(verb)
        if handler is not None:
            return handler
        row = self._table.rows.get(verb)
        if row is None:
            raise NotSupported(verb) if verb in self._table.planned else UnknownVerb(verb)
        call = _bind(row, self._given)
        handler = Handler(row.spec, call, logging.getLogger(row.room), row.subjects, self._may_block.get(verb))
        self._ready[verb] = handler
        return handler

    def run(self, handler: Handler, message: Message, ctx: CallContext) -> tuple[bool, bytes]:
        """(True, encoded result) or (False, encoded Failure), and a line in the log."""
        began = time.monotonic()
        try:
            body = codec.encode_reply(handler.spec, handler.call(message, ctx))
        except Error as error:
            _log_failure(handler, message, error, began)
            return False, codec.encode_failure(error)
        except BaseException as error:  # whatever it was: the caller gets an answer, the log the traceback
            took_ms = (time.monotonic() - began) * 1000
            name, subject = handler.spec.name, handler.subject(message)
            handler.logger.exception("%s%s failed unexpectedly took=%.0fms", name, subject, took_ms)
            # A full disk is no bug of ours, and who reads "internal error" does not look at the disk.
            failure = SystemRefused.because(error) if isinstance(error, OSError) else Internal()
            return False, codec.encode_failure(failure)
        # Polls would drown what changes something.
        level = logging.DEBUG if handler.spec.safe else logging.INFO
        if handler.logger.isEnabledFor(level):
            took_ms = (time.monotonic() - began) * 1000
            handler.logger.log(level, "%s%s done took=%.0fms", handler.spec.name, handler.subject(message), took_ms)
        return True, body


def _log_failure(handler: Handler, message: Message, error: Error, began: float) -> None:
    took_ms = (time.monotonic() - began) * 1000
    name, subject = handler.spec.name, handler.subject(message)
    trace = error if isinstance(error, Internal) else None
    handler.logger.log(
        error.log_level,
        "%s%s %s: %s took=%.0fms",
        name,
        subject,
        type(error).__name__,
        _sentence(error),
        took_ms,
        exc_info=trace,
    )


def _sentence(error: Error) -> str:
    try:
        return str(error)
    except Exception as broken:
        return repr(broken)


def _given(needs: Sequence[type], state: Sequence[object]) -> tuple[Mapping[type, object], Mapping[type, int]]:
    """(the object of the room for each class, how many there are of each class that has not just one)."""
    fitting = {cls: [thing for thing in state if isinstance(thing, cls)] for cls in needs}
    return (
        {cls: found[0] for cls, found in fitting.items() if len(found) == 1},
        {cls: len(found) for cls, found in fitting.items() if len(found) != 1},
    )


def _bind(row: Row, given: Mapping[type, object]) -> Callable[[Message, CallContext], Any]:
    fixed = {name: given[cls] for name, cls in row.needs}
    bound = partial(row.function, **fixed) if fixed else row.function
    message_name, context_name = row.message, row.context
    if message_name and context_name:
        return lambda message, ctx: bound(**{message_name: message, context_name: ctx})
    if message_name:
        return lambda message, ctx: bound(**{message_name: message})
    if context_name:
        return lambda message, ctx: bound(**{context_name: ctx})
    return lambda message, ctx: bound()
