# SPDX-License-Identifier: Apache-2.0
"""Verbs: what can be asked, of whom, and how the answer is produced.

A verb is declared once, as a `Message` with `@verb(...)` above it; routing, validation, deadline, lane, CLI,
documentation and conformance rows are derived from the table `VERBS`. A room implements a verb with
`@handles(TheMessage)` on a plain function; the worker's runner ties the two by the type.
"""

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from vdsm_mp.common.errors import Error


class Lane(enum.Enum):
    """Where a handler runs. See style: "Lanes"."""

    LOOP = "loop"  #: on the event loop; may not block
    READ = "read"  #: pool, any order
    KEYED = "keyed"  #: pool, one at a time per key, in order
    URGENT = "urgent"  #: small pool of its own; never queues behind a key


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Parent of every request, reply and event. Python names are ours, wire names are VDSM's (`field(name=)`)."""


class Status(Message, frozen=True, kw_only=True):
    """The status object that a few verbs return instead of `true`."""

    code: int = 0
    message: str = "Done"


DONE = Status()


class VerbSpec(msgspec.Struct, frozen=True):
    """One row of `VERBS`; see `verb()` for the meaning of the fields."""

    name: str
    message: type[Message]
    owner: str
    reply: Any
    lane: Lane
    key: str | None
    deadline_s: float
    safe: bool
    raises: tuple[type[Error], ...]
    later: tuple[type[Error], ...]
    tier: int
    planned: bool
    internal: bool

    @property
    def doc(self) -> str:
        """First line of the declaration's docstring."""
        return self.text.partition("\n")[0]

    @property
    def text(self) -> str:
        """All of it, without its indentation."""
        return "\n".join(line.removeprefix("    ") for line in (self.message.__doc__ or "").strip().splitlines())


_VERBS: dict[str, VerbSpec] = {}
_BY_TYPE: dict[type[Message], VerbSpec] = {}
#: By owner, so that a worker looks at its own rows only; the others stay in pages it shares.
_OWNED: dict[str, list[VerbSpec]] = {}
VERBS: Mapping[str, VerbSpec] = MappingProxyType(_VERBS)
OWNED: Mapping[str, list[VerbSpec]] = MappingProxyType(_OWNED)

M = TypeVar("M", bound=type[Message])


def verb(
    name: str,
    *,
    owner: str,
    reply: Any = None,
    lane: Lane = Lane.READ,
    key: str | None = None,
    deadline_s: float = 60.0,
    safe: bool = False,
    raises: tuple[type[Error], ...] = (),
    later: tuple[type[Error], ...] = (),
    tier: int = 0,
    planned: bool = False,
    internal: bool = False,
) -> Callable[[M], M]:
    """Declare the message class below as the parameters of verb `name`.

    owner: worker that answers. reply: msgspec type of the `result` member; None = the wire's `true`.
    key: field of the message whose value orders `Lane.KEYED` calls. deadline_s: upper bound for the whole call.
    raises: what it answers besides what any verb may. later: what the task or job that it begins may end with.
    safe: asking twice is harmless, so the door may repeat the call once when the worker died under it.
    tier: VDSM's importance 1-3 (0 = our own). planned: declared and answered "not supported" until it is built.
    internal: between workers only; the client's door does not know it.
    """
    if (lane is Lane.KEYED) != (key is not None):
        raise TypeError(f"{name}: a key belongs to Lane.KEYED and only there")

    def declare(message: M) -> M:
        if name in _VERBS:
            raise TypeError(f"verb {name} is declared twice")
        spec = VerbSpec(
            name, message, owner, reply, lane, key, deadline_s, safe, raises, later, tier, planned, internal
        )
        _VERBS[name] = _BY_TYPE[message] = spec
        _OWNED.setdefault(owner, []).append(spec)
        return message

    return declare


def spec_of(message: type[Message]) -> VerbSpec:
    """The declaration that belongs to a message class. KeyError when it is not a verb."""
    return _BY_TYPE[message]


F = TypeVar("F", bound=Callable[..., Any])


def handles(message: type[Message]) -> Callable[[F], F]:
    """Mark a room's function as the handler of a verb.

    The runner passes arguments by annotated type: the message itself, a `ports.CallContext`, or any object of
    the room's `state`. The function returns a value of the verb's reply type (None for the wire's `true`).
    """

    def mark(function: F) -> F:
        function.__handles__ = message  # type: ignore[attr-defined]
        return function

    return mark
