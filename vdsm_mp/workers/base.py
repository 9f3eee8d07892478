# SPDX-License-Identifier: Apache-2.0
"""What a worker file builds: a room with a door. Composition only; the life around it is `workers/runner.py`."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import msgspec

from vdsm_mp.api.verb import Message

#: (health name, value) pairs a room adds to `status`, gathered on the loop: may not block.
Vitals = Callable[[], Mapping[str, Any]]


class Room(msgspec.Struct, frozen=True):
    """One worker's content.

    state: objects injected into handlers by type. handlers: modules whose `@handles` functions are collected.
    may_block: verbs of the loop that run in a pool instead while the function says so; it is asked for every call.
    before_ready: run in order, off the loop, before the worker says ready; an exception is a failed start.
    on_loop: called on the loop thread right after the loop runs, before `before_ready` (libvirt's event
    implementation, the listener); may return a coroutine, which then runs until drain.
    subscribes: event class -> function, called on the loop, may not block.
    peer_changed: called on the loop with (worker, up) when another worker died or became ready.
    on_note: what the master may ask for, run off the loop: "stop-spm" (SIGUSR1), "reload" (SIGHUP).
    on_drain: run in order, off the loop, within the worker's grace period, after the last handler has ended.
    """

    state: tuple[object, ...] = ()
    handlers: tuple[ModuleType, ...] = ()
    may_block: Mapping[type[Message], Callable[[], bool]] = msgspec.field(default_factory=dict)
    before_ready: tuple[Callable[[], object], ...] = ()
    on_loop: tuple[Callable[[], Any], ...] = ()
    subscribes: Mapping[type[Message], Callable[[Any], None]] = msgspec.field(default_factory=dict)
    peer_changed: Callable[[str, bool], None] | None = None
    on_note: Mapping[str, Callable[[], object]] = msgspec.field(default_factory=dict)
    on_drain: tuple[Callable[[], object], ...] = ()
    vitals: Vitals | None = None
