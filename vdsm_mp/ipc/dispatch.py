# SPDX-License-Identifier: Apache-2.0
"""From an encoded question to an encoded answer: the handlers of one worker, tied to their verbs at start.

Collects `@handles` functions from the room's modules, resolves what each wants by annotated type once, and refuses
to be built when a verb that this worker owns and that is not planned has no handler, or two. Serving a call never
raises: what goes wrong becomes a `codec.Failure`, and only what nobody foresaw leaves a traceback, in the log.
"""

import inspect
import logging
import time
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.catalogue import OWNED
from vdsm_mp.api.errors import NotSupported, SystemRefused, UnknownVerb
from vdsm_mp.api.ports import CallContext
from vdsm_mp.api.verb import Lane, Message, VerbSpec, spec_of
from vdsm_mp.common.errors import Error, Internal
from vdsm_mp.ipc import codec


class Unhandled(Exception):
    """The room does not fit its declarations; the sentence lists everything that is wrong."""


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
        wrong: list[str] = []
        found = _collect(worker, modules, state, wrong)
        for message, asked in (may_block or {}).items():
            name = spec_of(message).name
            found[name] = replace(found[name], may_block=asked)
        self.handlers: Mapping[str, Handler] = found
        owned = OWNED.get(worker, [])
        missing = [spec.name for spec in owned if not spec.planned and spec.name not in self.handlers]
        wrong += [f"{name} has no handler" for name in sorted(missing)]
        if wrong:
            raise Unhandled(f"{worker}: " + "; ".join(wrong))
        self.planned = frozenset(spec.name for spec in owned if spec.name not in self.handlers)

    def find(self, verb: str) -> Handler:
        """Raises: NotSupported (declared, not built), UnknownVerb."""
        handler = self.handlers.get(verb)
        if handler is not None:
            return handler
        raise NotSupported(verb) if verb in self.planned else UnknownVerb(verb)

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


def _collect(
    worker: str, modules: Iterable[ModuleType], state: Sequence[object], wrong: list[str]
) -> dict[str, Handler]:
    found: dict[str, Handler] = {}
    seen: dict[str, Callable[..., Any]] = {}
    for module in modules:
        for function in vars(module).values():
            message = getattr(function, "__handles__", None)
            if message is None or not isinstance(function, FunctionType):
                continue
            spec = spec_of(message)
            if seen.setdefault(spec.name, function) is not function:
                wrong.append(f"{spec.name} has two handlers, {_place(seen[spec.name])} and {_place(function)}")
            elif spec.owner != worker:
                wrong.append(f"{spec.name} belongs to {spec.owner}, but {_place(function)} handles it")
            elif spec.name not in found:
                try:
                    found[spec.name] = _handler(worker, spec, function, state)
                except Unhandled as error:
                    wrong.append(str(error))
    return found


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _handler(worker: str, spec: VerbSpec, function: Callable[..., Any], state: Sequence[object]) -> Handler:
    if function.__code__.co_flags & inspect.CO_COROUTINE:
        raise Unhandled(f"{_place(function)} is a coroutine; rooms are synchronous")
    fields = spec.message.__struct_fields__
    if spec.lane is Lane.KEYED and spec.key not in fields:
        raise Unhandled(f"{spec.name} is ordered by {spec.key}, which is not one of its parameters")
    room = function.__module__.removeprefix("vdsm_mp.")
    subjects = tuple((name, name.removesuffix("_id")) for name in sorted(fields) if name.endswith("_id"))
    return Handler(spec, _bind(spec, function, state), logging.getLogger(room), subjects)


def _bind(
    spec: VerbSpec, function: Callable[..., Any], state: Sequence[object]
) -> Callable[[Message, CallContext], Any]:
    fixed: dict[str, object] = {}
    message_name = context_name = None
    for name, wanted in _wanted(function):
        if wanted is spec.message:
            message_name = name
        elif wanted is CallContext:
            context_name = name
        else:
            fixed[name] = _from_state(function, name, wanted, state)
    bound = partial(function, **fixed) if fixed else function
    if message_name is not None and context_name is not None:
        both = (message_name, context_name)
        return lambda message, ctx: bound(**{both[0]: message, both[1]: ctx})
    if message_name is not None:
        only = message_name
        return lambda message, ctx: bound(**{only: message})
    if context_name is not None:
        who = context_name
        return lambda message, ctx: bound(**{who: ctx})
    return lambda message, ctx: bound()


def _wanted(function: Callable[..., Any]) -> Iterable[tuple[str, object]]:
    """(parameter, annotated type). Read off the function itself: `inspect` and `typing` cost each worker half a MiB."""
    code = function.__code__
    hints = function.__annotations__
    if any(isinstance(hint, str) for hint in hints.values()):
        hints = typing.get_type_hints(function)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return [(name, hints.get(name)) for name in names]


def _from_state(function: Callable[..., Any], name: str, wanted: object, state: Sequence[object]) -> object:
    cls = wanted if isinstance(wanted, type) else typing.get_origin(wanted)
    if not isinstance(cls, type):
        raise Unhandled(f"{_place(function)}: parameter {name} has no class as its type")
    try:
        fitting = [thing for thing in state if isinstance(thing, cls)]
    except TypeError as error:
        raise Unhandled(f"{_place(function)}: parameter {name}: {error}") from error
    if len(fitting) != 1:
        raise Unhandled(f"{_place(function)}: {len(fitting)} objects of the room are a {cls.__name__} for {name}")
    return fitting[0]
