# SPDX-License-Identifier: Apache-2.0
"""The real door on a free port of this machine, in a thread, with a small honest bus behind it.

`SmallBus` answers as a worker would: sealed octets in and out, real errors of the declared classes. Tests say what a
verb does by a function on params.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vdsm_mp.api.errors import StillStarting, UnknownVerb
from vdsm_mp.clientif import builtin
from vdsm_mp.clientif.gate import Authorisation, Gate
from vdsm_mp.clientif.limits import Limits
from vdsm_mp.clientif.router import Router
from vdsm_mp.clientif.server import Policy, Server
from vdsm_mp.clientif.subscriptions import Broker
from vdsm_mp.wire.client import Client
from vdsm_mp.wire.tls import Files, ServerTls, client_context

WORKERS = ("virt", "storage", "network", "scheduler")
QUEUES = ("jms.topic.vdsm_requests", "jms.topic.vdsm_irs_requests")

Answer = Callable[[bytes], Awaitable[bytes]]


@dataclass
class Asked:
    """One call as it reached the bus."""

    verb: str
    params: bytes
    deadline_s: float
    flow_id: str
    peer: str


@dataclass
class SmallBus:
    """answers: {verb: coroutine function from params to the encoded result}."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    down: set[str] = field(default_factory=set)

    async def call_raw(
        self, verb: str, params: bytes, *, deadline_s: float, flow_id: str = "", peer: str = ""
    ) -> bytes:
        self.asked.append(Asked(verb, params, deadline_s, flow_id, peer))
        if verb in self.down:
            raise StillStarting
        if verb not in self.answers:
            raise UnknownVerb(verb)
        return await self.answers[verb](params)


def always(value: Any) -> Answer:
    """A verb that answers the same each time."""
    sealed = value if isinstance(value, bytes) else msgspec.json.encode(value)

    async def answer(_params: bytes) -> bytes:
        return sealed

    return answer


class Door:
    """A running door. Use `call` to do something on its loop."""

    def __init__(self, server: Server, gate: Gate, broker: Broker, bus: SmallBus, listener: socket.socket) -> None:
        self.server = server
        self.gate = gate
        self.broker = broker
        self.bus = bus
        self.port: int = listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._errors: list[Mapping[str, Any]] = []
        self._loop.set_exception_handler(lambda _loop, context: self._errors.append(context))
        self._listener = listener
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(self.open)
        self._loop.run_forever()

    def open(self) -> None:
        self.server.open()

    def start(self) -> None:
        self._thread.start()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run on the door's loop; its value."""

        async def run() -> Any:
            return function(*args)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def stop(self) -> None:
        self.server.drain()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self._listener.close()
        assert not self._errors, self._errors

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def client(self, files: Files | None, **options: Any) -> Client:
        """A Python client of it."""
        context = None if files is None else client_context(files)
        return Client("127.0.0.1", self.port, context=context, **options)


@contextlib.contextmanager
def open_door(
    files: Files | None,
    *,
    answers: Mapping[str, Answer] | None = None,
    limits: Limits | None = None,
    engine_names: Collection[str] = (),
    verify_names: bool = False,
    ready: bool = True,
    listener: socket.socket | None = None,
) -> Iterator[Door]:
    """A door on 127.0.0.1. files: its certificates, None = clear text. ready: every worker has been ready once."""
    limits = limits or Limits()
    bus = SmallBus(dict(answers or {}))
    gate = Gate(WORKERS)
    broker = Broker("jms.queue.events")
    listener = listener or socket.create_server(("127.0.0.1", 0), backlog=128)
    tls = None if files is None else ServerTls(files)
    server = Server(
        listener,
        Policy(QUEUES, tls, verify_names),
        gate=gate,
        authorisation=Authorisation(engine_names),
        router=Router(bus, gate, builtin.ANSWERS, limits),
        broker=broker,
        limits=limits,
    )
    door = Door(server, gate, broker, bus, listener)
    if ready:
        for worker in WORKERS:
            gate.peer_changed(worker, True)
    door.start()
    try:
        yield door
    finally:
        door.stop()
