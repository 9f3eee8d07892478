# SPDX-License-Identifier: Apache-2.0
"""A worker's room called as the runner calls it, without master, bus or door: real handlers, real decoding."""

import importlib
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.support.background import ThreadBackground
from tests.support.children import LocalChildren
from vdsm_mp.api.errors import InvalidParameters
from vdsm_mp.api.ports import CallContext, Ports
from vdsm_mp.api.verb import VERBS, Message
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.options import Config
from vdsm_mp.ipc.dispatch import Dispatch


class NobodyElse:
    """`Caller` and `Root` of a house with one worker."""

    def ask(self, message: Message, *, deadline_s: float | None = None) -> Any:
        raise AssertionError(f"{type(message).__name__} was asked of another worker")

    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> Any:
        raise AssertionError(f"{operation} was asked of root")


@dataclass
class Recorder:
    """A `Publisher` that keeps what it is told."""

    events: list[Message] = field(default_factory=list)

    def publish(self, event: Message) -> None:
        self.events.append(event)


class Called:
    """One room. `call` speaks the wire's names and gives the wire's values, so tests see what a client sees."""

    def __init__(self, module: str, config: Config, *, root: Any = None, children: LocalChildren | None = None) -> None:
        self.children = children or LocalChildren()
        self.background = ThreadBackground(8)
        self.events = Recorder()
        name = module.rpartition(".")[2]
        nobody = NobodyElse()
        ports = Ports(name, nobody, self.events, self.background, self.children, root or nobody)
        self.room = importlib.import_module(module).build(config, ports)
        self.dispatch = Dispatch(name, self.room.handlers, self.room.state)
        for step in self.room.before_ready:
            step()

    def call(self, verb: str, /, **params: Any) -> Any:
        """Raises: the verb's errors, InvalidParameters."""
        handler = self.dispatch.find(verb)
        try:
            message = msgspec.convert(params, handler.spec.message, strict=handler.spec.internal)
        except msgspec.ValidationError as e:
            raise InvalidParameters(verb, str(e)) from e
        answer = handler.call(message, CallContext(verb, "test", "test", mono_s() + handler.spec.deadline_s))
        spec = VERBS[verb]
        if spec.reply is None:
            return True
        return msgspec.convert(msgspec.json.decode(msgspec.json.encode(answer)), Any)

    def stop(self) -> None:
        """As the runner drains."""
        self.background.draining = True
        for step in self.room.on_drain:
            step()
        self.background.stop()
        self.children.stop()
