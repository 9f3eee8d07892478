# SPDX-License-Identifier: Apache-2.0
"""The rooms of a house under load: `front` asks `back`, `back` writes down what it really did, and the real door."""

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support.load import Journal
from tests.support.load_verbs import Change, Look, Through, Turn
from vdsm_mp.api.ports import Caller, Ports
from vdsm_mp.api.verb import VERBS, handles, spec_of
from vdsm_mp.common.options import Config
from vdsm_mp.workers import clientif
from vdsm_mp.workers.base import Room

TAKES_S = 0.004


class Front:
    def __init__(self, caller: Caller) -> None:
        self.caller = caller


class Back:
    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "journal")


@handles(Look)
def look(back: Back, ask: Look) -> str:
    time.sleep(TAKES_S)
    return ask.text


@handles(Change)
def change(back: Back, ask: Change) -> str:
    back.journal.ran(ask.text)
    time.sleep(TAKES_S)
    return ask.text


@handles(Turn)
def turn(back: Back, ask: Turn) -> str:
    back.journal.ran(ask.text)
    time.sleep(TAKES_S)
    return ask.text


@handles(Through)
def through(front: Front, ask: Through) -> str:
    answer: str = front.caller.ask(Change(text=ask.text))
    return answer


def build(config: Config, ports: Ports) -> Room:
    if ports.worker == "clientif":
        return _door(config, ports)
    if ports.worker == "front":
        return Room(state=(Front(ports.call),), handlers=(_handlers(through),))
    return Room(state=(Back(Path(config.vdsm_mp.state_dir)),), handlers=(_handlers(look, change, turn),))


def _handlers(*functions: Callable[..., Any]) -> ModuleType:
    module = ModuleType(__name__)
    for function in functions:
        setattr(module, function.__name__, function)
    return module


def _door(config: Config, ports: Ports) -> Room:
    room = clientif.build(config, ports)
    # This house has none of the agent's other workers, and the door would wait for them.
    ours = {spec_of(message).owner for message in (Through, Change)}
    assert room.peer_changed is not None
    for owner in {spec.owner for spec in VERBS.values()} - ours - {ports.worker}:
        room.peer_changed(owner, True)
    return room
