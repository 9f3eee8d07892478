# SPDX-License-Identifier: Apache-2.0
"""What the modules of a room handle, and what each handler wants: everything about them that needs no room yet.

Read once, when a worker's file is loaded, which is before the fork: looking at every function of a room's modules in
each worker cost it a copy of every page where one lies, a MiB and a half in storage alone.
"""

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

import msgspec

from vdsm_mp.api.catalogue import OWNED
from vdsm_mp.api.ports import CallContext
from vdsm_mp.api.verb import Lane, VerbSpec, spec_of


class Unhandled(Exception):
    """The room does not fit its declarations; the sentence lists everything that is wrong."""


class Row(msgspec.Struct, frozen=True):
    """One verb and the function that answers it.

    message, context: the parameters that get the message and the call's context, "" = it wants none. needs: the
    others, (parameter, class of the object of the room). subjects: (field, how the log calls it).
    """

    spec: VerbSpec
    function: Callable[..., Any]
    message: str
    context: str
    needs: tuple[tuple[str, type], ...]
    subjects: tuple[tuple[str, str], ...]

    @property
    def place(self) -> str:
        """Where it stands, for who has to mend it."""
        return _place(self.function)

    @property
    def room(self) -> str:
        """The name of its logger."""
        return self.function.__module__.removeprefix("vdsm_mp.")


class Table(msgspec.Struct, frozen=True):
    """All of one worker. needs: what the room's state must have, each once. wrong: why it cannot serve, sentences.

    planned: verbs that are declared, but not built.
    """

    rows: Mapping[str, Row]
    needs: tuple[type, ...]
    planned: frozenset[str]
    wrong: tuple[str, ...]


@lru_cache(maxsize=8)
def read(worker: str, modules: tuple[ModuleType, ...]) -> Table:
    """The table of a worker whose `@handles` functions stand in these modules. Asked again: the same object."""
    rows: dict[str, Row] = {}
    seen: dict[str, Callable[..., Any]] = {}
    wrong: list[str] = []
    for function, spec in _handlers_in(modules):
        if seen.setdefault(spec.name, function) is not function:
            wrong.append(f"{spec.name} has two handlers, {_place(seen[spec.name])} and {_place(function)}")
        elif spec.owner != worker:
            wrong.append(f"{spec.name} belongs to {spec.owner}, but {_place(function)} handles it")
        elif spec.name not in rows:
            try:
                rows[spec.name] = _row(spec, function)
            except Unhandled as error:
                wrong.append(str(error))
    owned = OWNED.get(worker, [])
    missing = sorted(spec.name for spec in owned if not spec.planned and spec.name not in rows)
    wrong += [f"{name} has no handler" for name in missing]
    needs = dict.fromkeys(cls for row in rows.values() for _, cls in row.needs)
    planned = frozenset(spec.name for spec in owned if spec.name not in rows)
    return Table(rows, tuple(needs), planned, tuple(wrong))


def _handlers_in(modules: Iterable[ModuleType]) -> Iterable[tuple[FunctionType, VerbSpec]]:
    for module in modules:
        for function in vars(module).values():
            message = getattr(function, "__handles__", None)
            if message is not None and isinstance(function, FunctionType):
                yield function, spec_of(message)


def _place(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _row(spec: VerbSpec, function: FunctionType) -> Row:
    if function.__code__.co_flags & inspect.CO_COROUTINE:
        raise Unhandled(f"{_place(function)} is a coroutine; rooms are synchronous")
    fields = spec.message.__struct_fields__
    if spec.lane is Lane.KEYED and spec.key not in fields:
        raise Unhandled(f"{spec.name} is ordered by {spec.key}, which is not one of its parameters")
    message = context = ""
    needs: list[tuple[str, type]] = []
    for name, wanted in _wanted(function):
        if wanted is spec.message:
            message = name
        elif wanted is CallContext:
            context = name
        else:
            needs.append((name, _class_of(function, name, wanted)))
    subjects = tuple((name, name.removesuffix("_id")) for name in sorted(fields) if name.endswith("_id"))
    return Row(spec, function, message, context, tuple(needs), subjects)


def _wanted(function: FunctionType) -> Iterable[tuple[str, object]]:
    """(parameter, annotated type)."""
    code = function.__code__
    hints = function.__annotations__
    if any(isinstance(hint, str) for hint in hints.values()):
        hints = typing.get_type_hints(function)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return [(name, hints.get(name)) for name in names]


def _class_of(function: FunctionType, name: str, wanted: object) -> type:
    cls = wanted if isinstance(wanted, type) else typing.get_origin(wanted)
    if not isinstance(cls, type):
        raise Unhandled(f"{_place(function)}: parameter {name} has no class as its type")
    try:
        isinstance(None, cls)
    except TypeError as error:
        raise Unhandled(f"{_place(function)}: parameter {name}: {error}") from error
    return cls
