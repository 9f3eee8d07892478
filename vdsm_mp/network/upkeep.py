# SPDX-License-Identifier: Apache-2.0
"""Keeps the networks that nobody asks about: brings them up after a boot, and again when a lost NIC comes back.

What cannot be brought up is told and left out; one dead NIC must not cost the host its management network.
"""

import threading
from collections.abc import Callable

import msgspec

from vdsm_mp.common import log
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.errors import Error
from vdsm_mp.network.commit import Networks
from vdsm_mp.network.drift import drift, missing_nics
from vdsm_mp.network.state import Source, State
from vdsm_mp.network.steps import Operation, client_options, source_set
from vdsm_mp.network.wanted import Config, Network
from vdsm_mp.priv.dhcp import client_pid, router_of

logger = log.named(__name__)

#: Sysctls, the resolver's file and queues tell nobody when they change.
_LOOK_EVERY_S = 60.0


class Upkeep:
    def __init__(self, networks: Networks, clock: Callable[[], float] = mono_s) -> None:
        self._networks = networks
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = 0.0
        self._seen: State | None = None
        self._lost: dict[str, tuple[str, ...]] = {}
        #: {network or bond: why it could not be brought up}; tried again at every look that is due by time.
        self._faults: dict[str, str] = {}
        #: {(network, IPv6?): why it has no DHCP client}
        self._clients: dict[tuple[str, bool], str] = {}
        self._drift: dict[str, str] = {}

    def problems(self) -> list[str]:
        """What an operator should look at."""
        config = self._networks.config
        waits = {name: f"{name} waits for NIC {', '.join(nics)}" for name, nics in self._lost.items()}
        found = {**self._drift, **waits, **{name: says for (name, _), says in self._clients.items()}, **self._faults}
        told = [says for name, says in sorted(found.items()) if name in config.networks or name in config.bonds]
        return [
            *told,
            *(["a change of networks is not undone: root's side is gone"] if self._networks.unsettled else []),
        ]

    def start(self) -> None:
        """After a boot bring the safe networks up; after a restart only see that clients live."""
        if self._networks.start():
            safe = self._networks.safe()
            if safe.networks or safe.bonds:
                self._restore(safe)
            return
        self._keep_clients()
        self._lost = missing_nics(self._networks.state(), self._networks.config)

    def look(self, seen: State) -> None:
        """One beat; `seen` is the same object as long as the kernel told of no change."""
        if self._networks.changing or not self._lock.acquire(blocking=False):
            return  # or the beat before still brings something up
        try:
            timed = self._clock() - self._looked_at >= _LOOK_EVERY_S
            config = self._networks.config
            if timed and self._networks.unsettled:
                self._looked_at = self._clock()
                self._settle()
            elif (timed or seen is not self._seen) and (config.networks or config.bonds):
                self._seen = seen
                if timed:
                    self._looked_at = self._clock()
                    self._try_again()
                self._bring_back(seen)
                state = self._networks.state()
                self._answer_by_source(state)
                self._drift = drift(state, self._networks.config)
        finally:
            self._lock.release()

    def _settle(self) -> None:
        try:
            self._networks.settle()
        except Error as error:
            logger.error("%s", error)

    def _try_again(self) -> None:
        config = self._networks.config
        wrong = drift(self._networks.state(), config) if self._faults else {}
        failed, self._faults = self._faults.keys() & wrong.keys() - self._lost.keys(), {}
        for name in sorted(failed):
            self._apply(config, {name})
        self._keep_clients()

    def _answer_by_source(self, state: State) -> None:
        """What came to an address of a DHCP server is answered through the router that the server told with it."""
        todo = [o for net in self._networks.config.networks.values() if net.dhcp4 for o in _sources(state, net)]
        if todo:
            try:
                self._networks.do_alone(todo)
            except Error as error:
                # The lease may have ended, or a change begun, in between: the next look is not far.
                logger.warning("answers by source: %s", error)

    def _bring_back(self, seen: State) -> None:
        config = self._networks.config
        was, self._lost = self._lost, missing_nics(seen, config)
        back = {name for name, nics in was.items() if set(nics) - set(self._lost.get(name, ()))}
        back &= (config.networks.keys() - self._lost.keys()) | config.bonds.keys()
        back |= {net.name for net in config.networks.values() if net.base in back}
        if back:
            logger.warning("NICs of %s came back", ", ".join(sorted(back)))
            self._apply(config, back)

    def _restore(self, safe: Config) -> None:
        state = self._networks.state()
        # No server of addresses may hold a boot up.
        patient = {name: msgspec.structs.replace(net, dhcp_wait=False) for name, net in safe.networks.items()}
        safe = Config(networks=patient, bonds=safe.bonds)
        self._lost = missing_nics(state, safe)
        bonds = {name for name, bond in safe.bonds.items() if any(nic in state.links for nic in bond.nics)}
        nets = {name for name, net in safe.networks.items() if name not in self._lost}
        nets -= {name for name in nets if safe.networks[name].base in safe.bonds.keys() - bonds}
        if self._apply(safe, bonds | nets):
            return
        # One of them spoils it for all: each for itself, the way out first.
        self._faults.clear()
        done = Config()
        for net in sorted(safe.networks.values(), key=lambda net: not net.default_route):
            if net.name in nets:
                done = self._restore_one(done, net, safe)
        self._networks.own(safe)

    def _restore_one(self, done: Config, net: Network, safe: Config) -> Config:
        """`done` and what could be done of this one: without its trimmings rather than not at all."""
        under = {net.base} & safe.bonds.keys()
        bonds = {name: safe.bonds[name] for name in done.bonds.keys() | under}
        plain = msgspec.structs.replace(net, host_qos={}, nameservers=(), bridge_options={})
        for wanted in (net, plain) if plain != net else (net,):
            more = Config(networks={**done.networks, net.name: wanted}, bonds=bonds)
            if self._apply(more, {net.name, *(under - done.bonds.keys())}):
                return more
        return done

    def _apply(self, config: Config, names: set[str]) -> bool:
        try:
            self._networks.apply(config, names)
        except Error as error:
            # The rest of the agent must come up: without it nobody could repair the network from outside.
            for name in names:
                self._faults[name] = f"{name} could not be brought up: {error}"
            logger.error("%s could not be brought up: %s", ", ".join(sorted(names)), error)
            return False
        return True

    def _keep_clients(self) -> None:
        """Clients outlive us; start those that did not live on, or had no wire when they were wanted."""
        self._clients.clear()
        for net in self._networks.config.networks.values():
            for six, wanted in ((False, net.dhcp4), (True, net.dhcp6)):
                if wanted and client_pid(net.top, six=six) is None:
                    self._start_client(net, six=six)

    def _start_client(self, net: Network, *, six: bool) -> None:
        try:
            self._networks.do(("dhcp-start", client_options(net, six=six)))
        except Error as error:
            self._clients[net.name, six] = f"network {net.name} has no DHCP client: {error}"
            logger.error("%s", self._clients[net.name, six])
            return
        if client_pid(net.top, six=six) is None:
            self._clients[net.name, six] = f"network {net.name} has no DHCP client: nobody is at the end of its wire"


def _sources(state: State, net: Network) -> list[Operation]:
    """Steps to the rules of a network whose address comes from a server."""
    link = state.links.get(net.top)
    address = next((a for a in link.addresses if ":" not in a), "") if link is not None else ""
    gateway = router_of(net.top, address.partition("/")[0]) if address else ""
    wanted = {address: Source(net.top, gateway)} if gateway else {}
    there = {a: source for a, source in state.sources.items() if source.device == net.top}
    gone: list[Operation] = [
        ("source-route-remove", {"name": net.top, "address": a}) for a in there.keys() - wanted.keys()
    ]
    return gone + [source_set(a, source) for a, source in wanted.items() if there.get(a) != source]
