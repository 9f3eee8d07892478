# SPDX-License-Identifier: Apache-2.0
"""Verbs and an event of a worker that exists only in tests, with handlers that show what the bus does."""

import threading
import time
import types
from collections.abc import Callable
from typing import Any

from tests.support.load import Journal
from vdsm_mp.api.errors import ResourceUnavailable
from vdsm_mp.api.event import event
from vdsm_mp.api.ports import CallContext, Caller, Publisher
from vdsm_mp.api.verb import Lane, Message, handles, verb


@verb("bustest.echo", owner="bustest", reply=str, lane=Lane.LOOP, safe=True, internal=True, deadline_s=5)
class Echo(Message, frozen=True, kw_only=True):
    """The text back, from the loop."""

    text: str


@verb("bustest.change", owner="bustest", reply=int, lane=Lane.READ, internal=True, deadline_s=30)
class Change(Message, frozen=True, kw_only=True):
    """Something that must not be done twice; ends after a while. Returns how often `token` was changed."""

    token: str
    takes_s: float = 0.0


@verb("bustest.look", owner="bustest", reply=int, lane=Lane.READ, safe=True, internal=True, deadline_s=30)
class Look(Message, frozen=True, kw_only=True):
    """Something that may be asked twice; ends after a while. Returns the worker's epoch."""

    takes_s: float = 0.0


@verb("bustest.turn", owner="bustest", lane=Lane.KEYED, key="thing_id", internal=True, deadline_s=30)
class Turn(Message, frozen=True, kw_only=True):
    """One at a time per thing."""

    thing_id: str
    step: int
    takes_s: float = 0.0


@verb("bustest.steps", owner="bustest", reply=list[int], lane=Lane.LOOP, internal=True, deadline_s=5)
class Steps(Message, frozen=True, kw_only=True):
    """The steps of a thing in the order they ended."""

    thing_id: str


@verb("bustest.kill", owner="bustest", reply=str, lane=Lane.URGENT, internal=True, deadline_s=5)
class Kill(Message, frozen=True, kw_only=True):
    """The way out of a stuck thing."""

    thing_id: str


@verb("bustest.time_left", owner="bustest", reply=float, lane=Lane.READ, internal=True, deadline_s=60)
class TimeLeft(Message, frozen=True, kw_only=True):
    """Seconds until the deadline of this call."""


@verb("bustest2.time_left", owner="bustest2", reply=float, lane=Lane.READ, internal=True, deadline_s=60)
class TimeLeftThrough(Message, frozen=True, kw_only=True):
    """Asks `bustest.time_left` while it serves this call."""


@verb("bustest.fail", owner="bustest", reply=str, lane=Lane.READ, internal=True, deadline_s=5)
class Fail(Message, frozen=True, kw_only=True):
    """Raises what is asked for: "known", "unforeseen" or "exit"."""

    how: str


@verb("bustest.large", owner="bustest", reply=str, lane=Lane.LOOP, internal=True, deadline_s=5)
class Large(Message, frozen=True, kw_only=True):
    """A reply of so many bytes."""

    size: int


@verb("bustest.publish", owner="bustest", lane=Lane.LOOP, internal=True, deadline_s=30)
class Publish(Message, frozen=True, kw_only=True):
    """Publishes `Moved` for each of `things` things, `rounds` times."""

    things: int
    rounds: int


@event("bustest.moved", last_value_by="thing_id")
class Moved(Message, frozen=True, kw_only=True):
    """Where a thing is. Its last value is kept."""

    thing_id: str
    place: int


@event("bustest.noticed")
class Noticed(Message, frozen=True, kw_only=True):
    """Something passed by. Nothing is kept."""

    number: int


class World:
    """What the handlers of `bustest` share."""

    def __init__(self, epoch: int, publisher: Publisher, journal: Journal | None = None) -> None:
        self.epoch = epoch
        self.journal = journal
        self.publisher = publisher
        self.changes: dict[str, int] = {}
        self.steps: dict[str, list[int]] = {}
        self.lock = threading.Lock()


class Elsewhere:
    """What the handlers of `bustest2` have."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller


@handles(Echo)
def echo(ask: Echo) -> str:
    return ask.text


@handles(Change)
def change(world: World, ask: Change) -> int:
    if world.journal is not None:
        world.journal.ran(ask.token)
    with world.lock:
        world.changes[ask.token] = world.changes.get(ask.token, 0) + 1
    time.sleep(ask.takes_s)
    return world.changes[ask.token]


@handles(Look)
def look(world: World, ask: Look) -> int:
    if ask.takes_s:
        time.sleep(ask.takes_s)
    return world.epoch


@handles(Turn)
def turn(world: World, ask: Turn) -> None:
    time.sleep(ask.takes_s)
    with world.lock:
        world.steps.setdefault(ask.thing_id, []).append(ask.step)


@handles(Steps)
def steps(world: World, ask: Steps) -> list[int]:
    return world.steps.get(ask.thing_id, [])


@handles(Kill)
def kill(ask: Kill) -> str:
    return ask.thing_id


@handles(TimeLeft)
def time_left(ctx: CallContext, ask: TimeLeft) -> float:
    return ctx.deadline_mono - time.monotonic()


@handles(TimeLeftThrough)
def time_left_through(elsewhere: Elsewhere, ask: TimeLeftThrough) -> float:
    left: float = elsewhere.caller.ask(TimeLeft(), deadline_s=50)
    return left


@handles(Fail)
def fail(ask: Fail) -> str:
    if ask.how == "known":
        raise ResourceUnavailable("disk 1", "vm 2")
    if ask.how == "exit":
        raise SystemExit(3)
    raise ZeroDivisionError("nobody foresaw this")


@handles(Large)
def large(ask: Large) -> str:
    return "x" * ask.size


@handles(Publish)
def publish(world: World, ask: Publish) -> None:
    for place in range(ask.rounds):
        for thing in range(ask.things):
            world.publisher.publish(Moved(thing_id=str(thing), place=place))


BUSTEST: tuple[Callable[..., Any], ...] = (
    echo,
    change,
    look,
    turn,
    steps,
    kill,
    time_left,
    fail,
    large,
    publish,
)
BUSTEST2: tuple[Callable[..., Any], ...] = (time_left_through,)


def module(*functions: Callable[..., Any]) -> types.ModuleType:
    """A room's module with these handlers."""
    made = types.ModuleType("vdsm_mp.bustest")
    for function in functions:
        setattr(made, function.__name__, function)
    return made
