# SPDX-License-Identifier: Apache-2.0
"""Events: facts in the past tense, published after the state they tell of has changed.

Publishing never waits and never fails the publisher. Each publisher numbers its events; a subscriber that sees
a gap, or a new epoch of the publisher, asks for the last values again (`ipc/events.py`).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

import msgspec

from vdsm_mp.api.verb import Message


class EventSpec(msgspec.Struct, frozen=True):
    """One row of `EVENTS`; see `event()`."""

    topic: str
    event: type[Message]
    public: str | None
    last_value_by: str | None


_EVENTS: dict[str, EventSpec] = {}
_BY_TYPE: dict[type[Message], EventSpec] = {}
EVENTS: Mapping[str, EventSpec] = MappingProxyType(_EVENTS)

E = TypeVar("E", bound=type[Message])


def event(topic: str, *, public: str | None = None, last_value_by: str | None = None) -> Callable[[E], E]:
    """Declare the message class below as an event.

    topic: dotted name on the bus. public: VDSM's method name as a format over the event's fields
    (`|virt|VM_status|{vm_id}`), None = stays inside. last_value_by: field by which the newest value is kept for
    late subscribers, None = not kept.
    A public event has a method `params() -> dict[str, object]` that gives VDSM's payload (without `notify_time`)
    and a field `notify_time: int` in milliseconds as `common.clock.notify_time()` makes it.
    """

    def declare(cls: E) -> E:
        if topic in _EVENTS:
            raise TypeError(f"event {topic} is declared twice")
        _EVENTS[topic] = _BY_TYPE[cls] = EventSpec(topic, cls, public, last_value_by)
        return cls

    return declare


def spec_of(cls: type[Message]) -> EventSpec:
    """The declaration that belongs to an event class. KeyError when it is not an event."""
    return _BY_TYPE[cls]
