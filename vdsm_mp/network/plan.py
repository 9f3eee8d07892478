# SPDX-License-Identifier: Apache-2.0
"""From what is and what is wanted to steps for root, each with what undoes it. Pure: no I/O, no clock.

A plan is made on a draft of the state that every step changes as the kernel will, so that later steps see what
earlier ones did. Bridges that keep their name are changed in place, because guests are plugged into them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vdsm_mp.api.errors_network import BadBridge, BadNetworkParameters, BadNic, BadVlan, UsedBond, UsedNic
from vdsm_mp.network.state import Link, State
from vdsm_mp.network.wanted import Bond, Config, Network

Operation = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Step:
    """do: operation and parameters of root. undo: operations that bring back what was before, in order."""

    do: Operation
    undo: tuple[Operation, ...] = ()


def plan(state: State, old: Config, new: Config) -> list[Step]:
    """Steps from `state` (where `old` is in force) to `new`. Raises: the network errors; nothing has changed."""
    check(state, old, new)
    draft = _Draft(state, old)
    _take_down(draft, old, new)
    for bond in new.bonds.values():
        _bond(draft, bond, rebuild=bond.name in old.bonds and old.bonds[bond.name].options != bond.options)
    for network in new.networks.values():
        _network(draft, network, old.networks.get(network.name), new)
        if network.dhcp4 and not _keeps_dhcp(old.networks.get(network.name), network):
            draft.dhcp(network, start=True)
    return draft.steps


def check(state: State, old: Config, new: Config) -> None:
    """Everything that can be refused without touching the host."""
    users: dict[str, str] = {}
    in_bonds = {nic: bond.name for bond in new.bonds.values() for nic in bond.nics}
    for bond in new.bonds.values():
        for nic in bond.nics:
            _check_bond_nic(state, bond, nic, in_bonds[nic])
    for name in old.bonds.keys() - new.bonds.keys():
        if users_of := [net.name for net in new.networks.values() if net.base == name]:
            raise UsedBond(name, f"network {users_of[0]} needs it")
    for net in new.networks.values():
        _check_base(state, net, new, in_bonds)
        _check_bridge(state, net, old)
        if net.lower and (other := users.setdefault(net.lower, net.name)) != net.name:
            error = BadVlan if net.vlan is not None else UsedNic
            raise error(net.name if net.vlan is not None else net.base, f"network {other} has it")
    default = [net.name for net in new.networks.values() if net.default_route]
    if len(default) > 1:
        raise BadNetworkParameters(f"{' and '.join(sorted(default))} both have the default route")


def _check_bond_nic(state: State, bond: Bond, nic: str, owner: str) -> None:
    link = state.links.get(nic)
    if link is None or not link.is_nic:
        raise BadNic(nic, f"bond {bond.name} needs it, it does not exist")
    if owner != bond.name:
        raise UsedNic(nic, f"bond {owner} has it")


def _check_base(state: State, net: Network, new: Config, in_bonds: Mapping[str, str]) -> None:
    if not net.base or net.base in new.bonds:
        return
    link = state.links.get(net.base)
    if link is None or not (link.is_nic or link.kind == "bond"):
        raise BadNic(net.base, f"network {net.name} needs it, it does not exist")
    if net.base in in_bonds:
        raise UsedNic(net.base, f"bond {in_bonds[net.base]} has it")
    ours = {other.name for other in new.networks.values()}
    if link.master and link.master not in ours and state.links.get(link.master, link).kind == "bond":
        raise UsedNic(net.base, f"bond {link.master} has it")


def _check_bridge(state: State, net: Network, old: Config) -> None:
    there = state.links.get(net.name)
    if net.bridged and there is not None and there.kind != "bridge":
        raise BadBridge(net.name, "there is another device of this name")
    if there is not None and there.kind == "bridge" and not net.bridged and net.name not in old.networks:
        raise BadBridge(net.name, "there is a bridge of this name")


def _take_down(draft: "_Draft", old: Config, new: Config) -> None:
    for was in old.networks.values():
        if was.dhcp4 and not _keeps_dhcp(was, new.networks.get(was.name)):
            draft.dhcp(was, start=False)
    for was in old.networks.values():
        will = new.networks.get(was.name)
        if was.bridged and (will is None or not will.bridged):
            _drop_bridge(draft, was)
        elif was.bridged and will is not None and was.lower != will.lower and was.lower in draft.links:
            draft.detach(was.lower)
        elif not was.bridged and (will is None or will.top != was.top) and was.top in draft.links:
            draft.set_addresses(was.top, (), {})
    needed = {net.lower for net in new.networks.values()}
    for was in old.networks.values():
        if was.vlan is not None and was.lower not in needed and was.lower in draft.links:
            draft.remove(was.lower)
    for name, bond in old.bonds.items():
        if name not in new.bonds and name in draft.links:
            _free_ports(draft, name, bond.nics)
            draft.remove(name)


def _keeps_dhcp(was: Network | None, will: Network | None) -> bool:
    if was is None or will is None or not (was.dhcp4 and will.dhcp4):
        return False
    return (was.top, was.lower, was.default_route) == (will.top, will.lower, will.default_route)


def _drop_bridge(draft: "_Draft", was: Network) -> None:
    if was.name not in draft.links:
        return
    ports = draft.ports(was.name)
    if guests := [port for port in ports if port != was.lower]:
        raise UsedNic(was.name, f"{guests[0]} is plugged into it")
    for port in ports:
        draft.detach(port)
    draft.remove(was.name)


def _free_ports(draft: "_Draft", bond: str, nics: Iterable[str]) -> None:
    for nic in draft.ports(bond):
        if nic in nics:
            draft.detach(nic)


def _bond(draft: "_Draft", bond: Bond, *, rebuild: bool) -> None:
    if bond.name in draft.links and rebuild:
        # The kernel changes a bond's mode only while it is empty: make it anew, with what stands on it.
        for above in [link.name for link in draft.links.values() if link.base == bond.name]:
            draft.remove(above)
        _free_ports(draft, bond.name, draft.ports(bond.name))
        draft.remove(bond.name)
    if bond.name not in draft.links:
        draft.create(Link(bond.name, kind="bond"), _bond_create(bond.name, bond.options))
    for nic in draft.ports(bond.name):
        if nic not in bond.nics:
            draft.detach(nic)
    for nic in bond.nics:
        if draft.links[nic].master != bond.name:
            if draft.links[nic].master:
                draft.detach(nic)
            draft.set_addresses(nic, (), {})
            draft.switch(nic, up=False)
            draft.attach(nic, bond.name)
        draft.switch(nic, up=True)
    draft.switch(bond.name, up=True)


def _network(draft: "_Draft", net: Network, was: Network | None, new: Config) -> None:
    if net.base:
        _uplink(draft, net, new)
    gateways = {
        **({"4": net.gateway} if net.gateway and net.default_route else {}),
        **({"6": net.gateway6} if net.gateway6 and net.default_route else {}),
    }
    if net.bridged:
        if net.name not in draft.links:
            draft.create(Link(net.name, kind="bridge"), ("bridge-create", {"name": net.name, "stp": net.stp}))
        elif bool(draft.links[net.name].options.get("stp_state")) != net.stp:
            draft.stp(net.name, net.stp)
        if net.lower and draft.links[net.lower].master != net.name:
            # The default route goes away with the addresses and comes back on the bridge.
            gateways = {**{f: g for f, g in draft.gateways_of(net.lower).items() if _family_kept(net, f)}, **gateways}
            draft.set_addresses(net.lower, (), {})
            if draft.links[net.lower].master:
                draft.detach(net.lower)
            draft.attach(net.lower, net.name)
        if net.mtu is not None:
            draft.mtu(net.name, net.mtu)
        draft.switch(net.name, up=True)
    draft.set_addresses(net.top, (*_kept(draft, net, was), *(a for a in (net.address, net.address6) if a)), gateways)


def _kept(draft: "_Draft", net: Network, was: Network | None) -> list[str]:
    """Addresses that others look after (a DHCP client, the kernel's autoconfiguration); not those we once gave."""
    families = {"4" * net.dhcp4, "6" * net.autoconf6}
    ours = (was.address, was.address6) if was is not None else ()
    return [a for a in draft.links[net.top].addresses if _family(a) in families and a not in ours]


def _family_kept(net: Network, family: str) -> bool:
    return bool(net.address if family == "4" else net.address6)


def _uplink(draft: "_Draft", net: Network, new: Config) -> None:
    wanted = [other.mtu for other in new.networks.values() if other.base == net.base and other.mtu is not None]
    if wanted:
        # A VLAN cannot be larger than its base, and ports of a bond follow the bond.
        draft.mtu(net.base, max(wanted))
    draft.switch(net.base, up=True)
    if net.vlan is None:
        return
    if net.lower not in draft.links:
        create: Operation = ("vlan-create", {"name": net.lower, "nic": net.base, "tag": net.vlan})
        link = Link(net.lower, kind="vlan", base=net.base, tag=net.vlan, mtu=draft.links[net.base].mtu)
        draft.create(link, create)
    if net.mtu is not None:
        draft.mtu(net.lower, net.mtu)
    draft.switch(net.lower, up=True)


def _bond_create(name: str, options: Mapping[str, str]) -> Operation:
    text = ",".join(f"{key}={value}" for key, value in options.items())
    return ("bond-create", {"name": name, **({"options": text} if text else {})})


class _Draft:
    """The state as it will be after the steps so far."""

    def __init__(self, state: State, old: Config) -> None:
        self._bonds = old.bonds
        self.links = dict(state.links)
        self.steps: list[Step] = []
        self._gateways = {device: dict(found) for device, found in state.gateways.items()}

    def ports(self, master: str) -> list[str]:
        return sorted(link.name for link in self.links.values() if link.master == master)

    def gateways_of(self, device: str) -> dict[str, str]:
        return dict(self._gateways.get(device, {}))

    def create(self, link: Link, do: Operation) -> None:
        self._step(do, ("link-remove", {"name": link.name}))
        self.links[link.name] = link

    def remove(self, name: str) -> None:
        """Ports must be gone. What undoes it makes the device again with all it had."""
        link = self.links[name]
        if link.master:
            self.detach(name)
            link = self.links[name]
        self.set_addresses(name, (), {})
        undo: list[Operation] = [_recreate(link, self._bonds), ("mtu-set", {"name": name, "mtu": link.mtu})]
        if link.up:
            undo.append(("link-up", {"name": name}))
        self._step(("link-remove", {"name": name}), *undo)
        del self.links[name]

    def attach(self, port: str, master: str) -> None:
        self._step(("port-attach", {"port": port, "to": master}), ("port-detach", {"port": port}))
        self.links[port] = replace(self.links[port], master=master)

    def detach(self, port: str) -> None:
        link = self.links[port]
        undo: list[Operation] = []
        if link.master and link.master in self.links:
            if self.links[link.master].kind == "bond":
                undo.append(("link-down", {"name": port}))
            undo.append(("port-attach", {"port": port, "to": link.master}))
            if link.up:
                undo.append(("link-up", {"name": port}))
        self._step(("port-detach", {"port": port}), *undo)
        self.links[port] = replace(link, master="")

    def switch(self, name: str, *, up: bool) -> None:
        link = self.links[name]
        if link.up == up:
            return
        word, back = ("link-up", "link-down") if up else ("link-down", "link-up")
        self._step((word, {"name": name}), (back, {"name": name}))
        self.links[name] = replace(link, up=up)

    def mtu(self, name: str, mtu: int) -> None:
        link = self.links[name]
        if link.mtu == mtu:
            return
        self._step(("mtu-set", {"name": name, "mtu": mtu}), ("mtu-set", {"name": name, "mtu": link.mtu}))
        self.links[name] = replace(link, mtu=mtu)

    def dhcp(self, net: Network, *, start: bool) -> None:
        begin: Operation = ("dhcp-start", {"name": net.top, "routes": net.default_route, "wait": net.dhcp_wait})
        end: Operation = ("dhcp-stop", {"name": net.top})
        if start:
            self._step(begin, end)
        else:
            self._step(end, begin)

    def stp(self, name: str, enabled: bool) -> None:
        undo: Operation = ("stp-set", {"name": name, "enabled": not enabled})
        self._step(("stp-set", {"name": name, "enabled": enabled}), undo)

    def set_addresses(self, name: str, wanted: tuple[str, ...], gateways: Mapping[str, str]) -> None:
        """Exactly these, and the default routes through them. Removing an address takes its routes along."""
        link, routes = self.links[name], self._gateways.get(name, {})
        lost = tuple(address for address in link.addresses if address not in wanted)
        for address in lost:
            undo: list[Operation] = [("address-add", {"name": name, "address": address})]
            family = _family(address)
            if routes.get(family):
                undo.append(("route-set", {"name": name, "gateway": routes[family]}))
            self._step(("address-remove", {"name": name, "address": address}), *undo)
        for address in wanted:
            if address not in link.addresses:
                self._step(
                    ("address-add", {"name": name, "address": address}),
                    ("address-remove", {"name": name, "address": address}),
                )
        kept = {family: gateway for family, gateway in routes.items() if family not in map(_family, lost)}
        for family, gateway in gateways.items():
            if kept.get(family) != gateway:
                self._route(name, gateway, kept.get(family))
                kept[family] = gateway
        self.links[name] = replace(link, addresses=wanted)
        self._gateways[name] = kept

    def _route(self, name: str, gateway: str, before: str | None) -> None:
        family = _family(gateway)
        undo: list[Operation] = [("route-remove", {"name": name, "gateway": gateway})]
        if before:
            undo = [("route-set", {"name": name, "gateway": before})]
        else:
            for device, found in self._gateways.items():
                # `route-set` replaces the default route wherever it points to.
                if device != name and found.get(family):
                    undo = [("route-set", {"name": device, "gateway": found.pop(family)})]
                    break
        self._step(("route-set", {"name": name, "gateway": gateway}), *undo)

    def _step(self, do: Operation, *undo: Operation) -> None:
        self.steps.append(Step(do, undo))


def _family(address: str) -> str:
    return "6" if ":" in address else "4"


def _recreate(link: Link, bonds: Mapping[str, Bond]) -> Operation:
    """Bonds come back with the options that once made them: the kernel shows more than it lets one set in a mode."""
    if link.kind == "bridge":
        return ("bridge-create", {"name": link.name, "stp": bool(link.options.get("stp_state"))})
    if link.kind == "vlan":
        return ("vlan-create", {"name": link.name, "nic": link.base, "tag": link.tag})
    return _bond_create(link.name, bonds[link.name].options)
