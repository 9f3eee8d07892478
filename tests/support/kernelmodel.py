# SPDX-License-Identifier: Apache-2.0
"""A model of the kernel's links, which refuses what the kernel refuses, and a host that plays plans on it both ways."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from msgspec.structs import replace

from vdsm_mp.network.options import bond_as_shown
from vdsm_mp.network.plan import plan
from vdsm_mp.network.state import Link, Route, Source, State
from vdsm_mp.network.steps import Operation, Step
from vdsm_mp.network.wanted import Config, changed
from vdsm_mp.priv.linkoptions import bond_word, pairs
from vdsm_mp.priv.shape import class_number


class Kernel:
    """What the helper's operations do to links, as far as plans depend on it; refuses what the kernel refuses."""

    def __init__(self, *links: Link, gateways: dict[str, dict[str, str]] | None = None) -> None:
        self.links = {link.name: link for link in links}
        self.dhcp: set[str] = set()
        self.gateways = {device: dict(found) for device, found in (gateways or {}).items()}
        self.leases: dict[str, tuple[tuple[str, ...], str]] = {}
        self.sources: dict[str, Source] = {}
        self.ipv6 = dict.fromkeys(self.links, "auto")
        self.nameservers: tuple[str, ...] = ("192.0.2.53",)
        self.shaped: dict[str, dict[int | None, str]] = {}
        #: Of others; a default route among them is in `gateways`, too.
        self.routes: dict[str, set[Route]] = {}

    def state(self) -> State:
        gateways = {d: dict(g) for d, g in self.gateways.items()}
        shaped = {
            nic: {class_number(tag): dict(_curves(text)) for tag, text in found.items()}
            for nic, found in self.shaped.items()
        }
        beside = dict(self.sources), dict(self.ipv6), self.nameservers, shaped
        return State(dict(self.links), gateways, *beside, {name: tuple(found) for name, found in self.routes.items()})

    def twin(self) -> "Kernel":
        return copy.deepcopy(self)

    def dhcp_start(self, name: str, six: bool, routes: bool = False, wait: bool = False, dns: bool = False) -> None:
        assert self.links[name].up
        self.dhcp.add(name)
        # The server gives the same again to whom it knows.
        addresses, gateway = self.leases.pop(name, ((), ""))
        self._change(name, addresses=(*self.links[name].addresses, *addresses))
        if gateway:
            self.gateways.setdefault(name, {})["4"] = gateway

    def dhcp_stop(self, name: str, six: bool) -> None:
        if not six and name in self.dhcp:
            leased = tuple(a for a in self.links[name].addresses if ":" not in a)
            self.leases[name] = leased, self.gateways.get(name, {}).pop("4", "")
            self._change(name, addresses=tuple(a for a in self.links[name].addresses if a not in leased))
            self._keep_routes(name, lambda route: route.six)
        self.dhcp.discard(name)

    def seen(self) -> tuple[Any, ...]:
        """What counts as the same: without options, which a recreated device has by other names."""
        links = {
            n: replace(link, options={}, addresses=tuple(sorted(link.addresses))) for n, link in self.links.items()
        }
        gateways = {d: dict(g) for d, g in self.gateways.items() if g}
        routes = {name: set(found) for name, found in self.routes.items() if found}
        beside = dict(self.sources), dict(self.ipv6), self.nameservers, copy.deepcopy(self.shaped), routes
        return links, gateways, set(self.dhcp), *beside

    def do(self, operation: Operation) -> None:
        name, p = operation
        getattr(self, name.replace("-", "_"))(**p)

    def _change(self, link: str, **what: Any) -> None:
        self.links[link] = replace(self.links[link], **what)

    def bridge_create(self, name: str, stp: bool = False) -> None:
        assert name not in self.links
        self._made(Link(name, kind="bridge", options={"stp_state": int(stp)}))

    def _made(self, link: Link) -> None:
        self.links[link.name] = link
        if link.mtu >= 1280:
            self.ipv6[link.name] = "auto"

    def bridge_set(self, name: str, options: str) -> None:
        changed = {key: int(value) for key, value in pairs(options)}
        self._change(name, options={**self.links[name].options, **changed})

    def bond_create(self, name: str, options: str = "", mac: str = "") -> None:
        assert name not in self.links
        self._made(Link(name, kind="bond", options=bond_as_shown({"mode": "0", **dict(pairs(options))})))

    def bond_set(self, name: str, options: str) -> None:
        given = {key: bond_word(key, value) for key, value in pairs(options)}
        assert given.pop("mode") == bond_word("mode", str(self.links[name].options["mode"]))
        off = given.keys() & {"lacp_rate", "ad_select", "tlb_dynamic_lb"}
        assert not off or not self.links[name].up
        assert not given.keys() & {"fail_over_mac", "arp_interval", "arp_ip_target"}, "needs an empty bond"
        self._change(name, options={**self.links[name].options, **bond_as_shown(given)})

    def vlan_create(self, name: str, nic: str, tag: int) -> None:
        assert name not in self.links and nic in self.links
        self._made(Link(name, kind="vlan", base=nic, tag=tag, mtu=self.links[nic].mtu))

    def link_remove(self, name: str) -> None:
        assert self.links.pop(name).kind in ("bridge", "bond", "vlan")
        self.gateways.pop(name, None)
        self.routes.pop(name, None)
        assert not [link for link in self.links.values() if name in (link.master, link.base)]
        assert name not in self.dhcp, "a client would be left behind"
        assert name not in [source.device for source in self.sources.values()], "rules would be left behind"
        self.ipv6.pop(name, None)
        self.shaped.pop(name, None)

    def port_attach(self, port: str, to: str) -> None:
        assert self.links[to].kind in ("bridge", "bond")
        if self.links[to].kind == "bond":
            assert not self.links[port].up, "a device cannot enter a bond while it is up"
        self._change(port, master=to)

    def port_detach(self, port: str) -> None:
        if self.links[port].master and self.links[self.links[port].master].kind == "bond":
            self.link_down(port)
        self._change(port, master="")

    def link_up(self, name: str) -> None:
        assert not self.links[name].base or self.links[self.links[name].base].up, "the network is down"
        self._change(name, up=True)

    def link_down(self, name: str) -> None:
        self._change(name, up=False)
        for link in list(self.links.values()):
            if name in (link.name, link.base):
                self._change(link.name, up=False, addresses=tuple(a for a in link.addresses if ":" not in a))
                self.gateways.pop(link.name, None)
                self.routes.pop(link.name, None)
                self.sources = {a: source for a, source in self.sources.items() if source.device != link.name}

    def mtu_set(self, name: str, mtu: int) -> None:
        if self.links[name].kind == "vlan":
            assert mtu <= self.links[self.links[name].base].mtu
        self._resize(name, mtu)
        for link in list(self.links.values()):
            if link.base == name and link.mtu > mtu:
                self._resize(link.name, mtu)

    def _resize(self, name: str, mtu: int) -> None:
        self._change(name, mtu=mtu)
        if mtu < 1280:
            self.ipv6.pop(name, None)
            self._change(name, addresses=tuple(a for a in self.links[name].addresses if ":" not in a))
            self.gateways.get(name, {}).pop("6", None)
        elif name not in self.ipv6:
            self.ipv6[name] = "auto"

    def stp_set(self, name: str, enabled: bool) -> None:
        assert self.links[name].kind == "bridge"
        self._change(name, options={**self.links[name].options, "stp_state": int(enabled)})

    def ipv6_set(self, name: str, mode: str) -> None:
        assert name in self.ipv6, "the kernel has no IPv6 there"
        if mode == "off":
            assert not [address for address in self.links[name].addresses if ":" in address]
            self.gateways.get(name, {}).pop("6", None)
        self.ipv6[name] = "auto" if mode == "default" else mode

    def source_route_set(self, name: str, address: str, gateway: str) -> None:
        assert address in self.links[name].addresses
        self.sources[address] = Source(name, gateway)

    def source_route_remove(self, name: str, address: str) -> None:
        self.sources.pop(address, None)

    def nameservers_set(self, servers: str) -> None:
        self.nameservers = tuple(servers.split(","))

    def shape_set(self, nic: str, curves: str, tag: int | None = None) -> None:
        self.shaped.setdefault(nic, {})[tag] = curves

    def shape_remove(self, nic: str, tag: int | None = None) -> None:
        self.shaped[nic].pop(tag)
        if not self.shaped[nic]:
            del self.shaped[nic]

    def address_add(self, name: str, address: str, valid_s: int = 0) -> None:
        if address in self.links[name].addresses:
            return
        if ":" in address:
            assert self.ipv6[name] != "off"
        self._change(name, addresses=(*self.links[name].addresses, address))

    def address_remove(self, name: str, address: str) -> None:
        self._change(name, addresses=tuple(a for a in self.links[name].addresses if a != address))
        if not [a for a in self.links[name].addresses if ":" not in a]:
            self.gateways.get(name, {}).pop("4", None)
            self._keep_routes(name, lambda route: route.six)

    def _keep_routes(self, name: str, stays: Callable[[Route], bool]) -> None:
        self.routes[name] = {route for route in self.routes.get(name, ()) if stays(route)}

    def _ranked(self, name: str, gateway: str) -> bool:
        return any((r.destination, r.gateway) == ("default", gateway) for r in self.routes.get(name, ()))

    def route_set(self, name: str, gateway: str) -> None:
        family = "6" if ":" in gateway else "4"
        for device, found in self.gateways.items():
            if not self._ranked(device, found.get(family, "")):
                found.pop(family, None)
        self.gateways.setdefault(name, {})[family] = gateway

    def route_restore(self, name: str, destination: str, gateway: str = "", **more: Any) -> None:
        assert self.links[name].up
        route = Route(destination, gateway, **more)
        assert route.gateway.startswith("fe80") or [a for a in self.links[name].addresses if (":" in a) == route.six]
        self.routes.setdefault(name, set()).add(route)
        if destination == "default":
            self.gateways.setdefault(name, {})["6" if route.six else "4"] = gateway

    def route_remove(self, name: str, gateway: str) -> None:
        self.gateways.get(name, {}).pop("6" if ":" in gateway else "4", None)
        self._keep_routes(name, lambda route: (route.destination, route.gateway) != ("default", gateway))


def _curves(text: str) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for curve in text.split(","):
        name, _, numbers = curve.partition("=")
        first, after_us, then = map(int, numbers.split(":"))
        yield name, (first, after_us, then)


class Host:
    """A kernel and the networks that are ours; `set` checks after each change that it could have been undone."""

    def __init__(self, *links: Link, gateways: dict[str, dict[str, str]] | None = None) -> None:
        self.kernel = Kernel(*links, gateways=gateways)
        self.config = Config()

    def set(self, networks: dict[str, Any], bondings: dict[str, Any] | None = None) -> list[Step]:
        wanted = changed(self.config, networks, bondings or {})
        steps = plan(self.kernel.state(), self.config, wanted, {*networks, *(bondings or {})})
        before = self.kernel.seen()
        for done in range(len(steps) + 1):
            self._and_back(steps[:done], before)
        for step in steps:
            self.kernel.do(step.do)
        self.config = wanted
        return steps

    def _and_back(self, steps: list[Step], before: tuple[Any, ...]) -> None:
        trial = self.kernel.twin()
        undo: list[Operation] = []
        for step in steps:
            undo = [*step.undo, *undo]
            trial.do(step.do)
        for operation in undo:
            trial.do(operation)
        assert trial.seen() == before


def nic(name: str = "eth0", **more: Any) -> Link:
    return Link(name, up=True, **more)


MANAGEMENT = {
    "nic": "eth0",
    "bridged": True,
    "ipaddr": "192.0.2.2",
    "netmask": "255.255.255.0",
    "gateway": "192.0.2.1",
    "defaultRoute": True,
}


def managed_host() -> Host:
    host = Host(nic(addresses=("192.0.2.2/24",)), nic("eth1"), nic("eth2"), gateways={"eth0": {"4": "192.0.2.1"}})
    host.set({"ovirtmgmt": MANAGEMENT})
    return host
