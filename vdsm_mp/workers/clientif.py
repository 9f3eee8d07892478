# SPDX-License-Identifier: Apache-2.0
"""The client's door. Owns the clients' connections and nothing else. May not block; it forwards sealed letters."""

import time
from functools import partial
from pathlib import Path
from typing import Any, cast

from vdsm_mp.api.catalogue import EVENTS, OWNED
from vdsm_mp.api.ports import Ports
from vdsm_mp.api.verb import Message
from vdsm_mp.clientif import builtin
from vdsm_mp.clientif.gate import Authorisation, Gate
from vdsm_mp.clientif.limits import Limits
from vdsm_mp.clientif.router import Bus, Router
from vdsm_mp.clientif.server import Policy, Server
from vdsm_mp.clientif.subscriptions import Broker
from vdsm_mp.common import clock
from vdsm_mp.common.options import Config
from vdsm_mp.ipc.handlers import read
from vdsm_mp.wire.tls import Files, ServerTls
from vdsm_mp.workers.base import Room

#: The certificate's days left are looked up no more often than this.
_DAYS_EVERY_S = 60.0

#: Read here, so before the fork.
HANDLERS = (builtin,)
read("clientif", HANDLERS)


def build(config: Config, ports: Ports, limits: Limits | None = None) -> Room:
    """limits: None = those that are shipped; fewer connections when there cannot be so many descriptors."""
    limits = (limits or Limits()).of_this_process()
    house = config.vdsm_mp
    tls = ServerTls(Files.below(Path(house.pki_dir), house.crl_file or None)) if config.vars.ssl else None
    gate = Gate(set(OWNED) - {ports.worker})
    # The door alone uses the bus below the port: it lives on the loop and must not open what it carries.
    bus = cast(Bus, ports.call.bus)  # type: ignore[attr-defined]
    router = Router(bus, gate, builtin.ANSWERS, limits)
    broker = Broker(config.addresses.event_queue, clock.notify_time())
    server = Server(
        ports.inherited["public"],
        Policy(_listed(config.addresses.request_queues), tls, config.vars.verify_client_cert, config.vars.http_enable),
        gate=gate,
        authorisation=Authorisation(_listed(house.engine_names)),
        router=router,
        broker=broker,
        limits=limits,
    )

    def publish(event: Message) -> None:
        # Before the house has started a client hears nothing but 99, as with VDSM.
        if gate.started:
            broker.publish(event)

    return Room(
        state=(server,),
        handlers=HANDLERS,
        on_loop=(server.open,),
        subscribes={spec.event: publish for spec in EVENTS.values() if spec.public is not None},
        peer_changed=gate.peer_changed,
        on_drain=(server.drain,),
        on_note={} if tls is None else {"reload": tls.forget},
        vitals=partial(_vitals, server, gate, tls, [0.0, None]),
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _vitals(server: Server, gate: Gate, tls: ServerTls | None, days: list[Any]) -> dict[str, object]:
    vitals = server.vitals() | {"waiting_for": list(gate.missing), "tls": tls is not None}
    if tls is not None:
        if time.monotonic() >= days[0]:
            days[:] = [time.monotonic() + _DAYS_EVERY_S, tls.days_left()]
        vitals |= {"certificate_days_left": days[1], "certificates_refused": tls.refused}
    return vitals
