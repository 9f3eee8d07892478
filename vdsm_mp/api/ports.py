# SPDX-License-Identifier: Apache-2.0
"""What a room receives instead of importing it: ports to the other workers, to the clock, to root, to the master.

Rooms know nothing of processes, sockets or asyncio. The real ports are made by `ipc/ports.py`, `priv/call.py` and
the runner; a test hands a room a list that records.
"""

import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from vdsm_mp.api.verb import Message


class CallContext(msgspec.Struct, frozen=True):
    """Who asks, for the log and for deadlines. deadline_mono: CLOCK_MONOTONIC seconds after which nobody listens."""

    verb: str
    flow_id: str
    peer: str  #: "address:port" of a client, or "worker:NAME"
    deadline_mono: float


class Caller(Protocol):
    def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
        """Call another worker and wait. From pool threads only.

        The time allowed is never longer than what is left of the call being served. Returns the decoded reply.
        Raises: the error the other side raised, PeerRestarted, DeadlineExceeded, Busy.
        """
        ...


class Publisher(Protocol):
    def publish(self, event: Message) -> None:
        """Tell a fact. Any thread; never waits, never raises."""
        ...


class Timer(Protocol):
    def cancel(self) -> None: ...


class Background(Protocol):
    """Work that outlives the call which started it. Bounded; stopped by drain."""

    def start(self, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        """Run `job` in the background pool; jobs of one key run in order, one at a time. Raises: Busy (queue full)."""
        ...

    def later(self, delay_s: float, name: str, job: Callable[[], None], *, key: str | None = None) -> Timer:
        """Like start, after a delay; a full queue puts it off. Lost when the worker ends: nothing durable may depend on
        it."""
        ...

    @property
    def draining(self) -> bool:
        """True once the worker was told to stop: long jobs end at their next step."""
        ...


class Children(Protocol):
    """Processes that only the master can make (it alone forks)."""

    def open(self, kind: str, name: str, *, deadline_s: float = 5.0) -> socket.socket:
        """Ask for a child of a `kind` of the process table; returns our end of its socket pair (SOCK_SEQPACKET).

        A child of the same kind and name that is there already is ended first: killed, or written off as lost.
        Raises: DeadlineExceeded, TooManyLost (the cap of unkillable children is reached).
        """
        ...

    def close(self, kind: str, name: str) -> None:
        """End that child: its socket closes, then it is killed or written off. Does not wait."""
        ...


class Root(Protocol):
    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> Any:
        """Run one named operation of `priv/table.py` as root through this worker's helper; the answer's `result`.

        Raises: PrivilegedFailed (the operation said no; the message tells why), DeadlineExceeded, Unavailable.
        """
        ...


class Ports(msgspec.Struct, frozen=True):
    """Everything a worker's `build(config, ports)` may hand to its room."""

    worker: str
    call: Caller
    publish: Publisher
    background: Background
    children: Children
    root: Root
    #: Sockets that the master opened before the first fork: {"public": the listening socket}.
    inherited: Mapping[str, socket.socket] = msgspec.field(default_factory=dict)
