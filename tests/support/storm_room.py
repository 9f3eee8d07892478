# SPDX-License-Identifier: Apache-2.0
"""The virt room on libvirt's test driver, with somebody beside it who suspends and resumes VMs at a given rate.

The driver lives in the process, so a second connection to it sees the same VMs, and what is done there reaches the
room as libvirt's callbacks only.
"""

import time
import uuid
from types import ModuleType
from typing import Any

import libvirt
from msgspec.structs import replace

from tests.support.storm_verbs import PrepareStorm, RaiseStorm
from vdsm_mp.api.ports import Ports
from vdsm_mp.api.verb import handles
from vdsm_mp.common.options import Config
from vdsm_mp.workers import clientif, virt
from vdsm_mp.workers.base import Room

_XML = (
    "<domain type='test'><name>{name}</name><uuid>{vm_id}</uuid><memory>8192</memory><os><type>hvm</type></os></domain>"
)


class Storm:
    """The VMs, those of them that are paused, and the second connection."""

    def __init__(self) -> None:
        self.conn: Any = None
        self.doms: list[tuple[str, Any]] = []
        self.paused: set[str] = set()


@handles(PrepareStorm)
def prepare(storm: Storm, ask: PrepareStorm) -> list[str]:
    storm.conn = storm.conn or libvirt.open("test:///default")
    for _ in range(ask.vms):
        vm_id = str(uuid.uuid4())
        storm.doms.append((vm_id, storm.conn.createXML(_XML.format(name=f"storm-{vm_id[:8]}", vm_id=vm_id))))
    return [vm_id for vm_id, _ in storm.doms]


@handles(RaiseStorm)
def raise_storm(storm: Storm, ask: RaiseStorm) -> list[tuple[str, str, float]]:
    done: list[tuple[str, str, float]] = []
    began = time.monotonic()
    for number in range(ask.events):
        if ask.per_s:
            time.sleep(max(0.0, began + number / ask.per_s - time.monotonic()))
        vm_id, dom = storm.doms[number % len(storm.doms)]
        was_paused = vm_id in storm.paused
        now = time.monotonic()
        (dom.resume if was_paused else dom.suspend)()
        storm.paused ^= {vm_id}
        done.append((vm_id, "Up" if was_paused else "Paused", now))
    return done


def build(config: Config, ports: Ports) -> Room:
    if ports.worker == "clientif":
        return clientif.build(config, ports)
    room = virt.build(config, ports)
    module = ModuleType(__name__)
    module.prepare, module.raise_storm = prepare, raise_storm  # type: ignore[attr-defined]
    return replace(room, state=(*room.state, Storm()), handlers=(*room.handlers, module))
