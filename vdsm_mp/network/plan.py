# SPDX-License-Identifier: Apache-2.0
"""From what is and what is wanted to steps for root, each with what undoes it. Pure: no I/O, no clock.

Only what is asked for is touched: a network that somebody changed by hand stays as it is until it is asked for again.
Bridges that keep their name are changed in place, because guests are plugged into them.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Set

from vdsm_mp.api.errors_network import UsedNic
from vdsm_mp.network.checks import check
from vdsm_mp.network.draft import Draft
from vdsm_mp.network.options import in_place
from vdsm_mp.network.state import Link, State
from vdsm_mp.network.steps import Operation, Step, bond_create, client_options, family_of
from vdsm_mp.network.wanted import Bond, Config, Network

#: What a device has that nobody asked for anything.
_MTU = 1500


def plan(state: State, old: Config, new: Config, asked: Set[str] | None = None, *, strict: bool = True) -> list[Step]:
    """Steps from `state` (where `old` is in force) to `new`. Raises: the network errors; nothing has changed.

    asked: names of the networks and bonds that are to be as `new` says, None = all of them. Those that stand on a
    bond which has to be made anew come along, and so do bonds that they need and are gone. strict: what is asked for
    must be possible to its last NIC; else as much as possible is done.
    """
    asked = frozenset(asked if asked is not None else (*new.networks, *new.bonds))
    bases = {net.base for net in new.networks.values() if net.name in asked}
    asked |= {name for name in new.bonds.keys() & bases if name not in state.links}
    check(state, old, new, asked if strict else frozenset())
    draft = Draft(state, old)
    rebuilt = {name for name, bond in new.bonds.items() if name in asked and _rebuild(state, old, bond)}
    wanted = [net for net in new.networks.values() if net.name in asked or net.base in rebuilt]
    # What stands on a bond that is made anew is another device afterwards, of which a client knows nothing.
    anew = {net.name for net in new.networks.values() if net.base in rebuilt and not net.bridged}
    _take_down(draft, old, new, anew)
    for bond in new.bonds.values():
        if bond.name in asked and any(nic in draft.links for nic in bond.nics):
            _bond(draft, bond, old.bonds.get(bond.name), rebuild=bond.name in rebuilt)
    for net in wanted:
        if not net.base or net.base in draft.links:
            _network(draft, net, old.networks.get(net.name), old, new, anew=net.name in anew)
    _free_mtu(draft, old, new)
    return draft.steps


def _rebuild(state: State, old: Config, bond: Bond) -> bool:
    was, there = old.bonds.get(bond.name), state.links.get(bond.name)
    if there is None:
        return False
    return (was is not None and was.mac != bond.mac) or _change(state.links, was, bond) is None


def _change(links: Mapping[str, Link], was: Bond | None, bond: Bond) -> dict[str, str] | None:
    """Options to set, None = it has to be made anew. was: None when it is somebody else's until now."""
    wanted = {key: value for key, value in bond.options.items() if key != "primary" or value in links}
    return in_place(links[bond.name].options, was.options if was is not None else {}, wanted)


def _take_down(draft: Draft, old: Config, new: Config, anew: Set[str]) -> None:
    for was in old.networks.values():
        will = new.networks.get(was.name)
        if was.dhcp4 and (was.name in anew or not _keeps_dhcp(was, will, six=False)):
            draft.dhcp(was, six=False, start=False)
        if was.dhcp6 and (was.name in anew or not _keeps_dhcp(was, will, six=True)):
            draft.dhcp(was, six=True, start=False)
        if will is None or not will.curves or (will.base, will.vlan) != (was.base, was.vlan):
            draft.unshape(was.base, was.vlan)
    for was in old.networks.values():
        will = new.networks.get(was.name)
        if was.bridged and (will is None or not will.bridged):
            _drop_bridge(draft, was)
        elif was.bridged and will is not None and was.lower != will.lower and was.lower in draft.links:
            draft.detach(was.lower)
        elif not was.bridged and (will is None or will.top != was.top) and was.top in draft.links:
            draft.set_addresses(was.top, (), {})
            draft.ipv6(was.top, "default")
    needed = {net.lower for net in new.networks.values()}
    for was in old.networks.values():
        if was.vlan is not None and was.lower not in needed and was.lower in draft.links:
            draft.remove(was.lower)
    for name, bond in old.bonds.items():
        if name not in new.bonds and name in draft.links:
            _free_ports(draft, name, bond.nics)
            draft.remove(name)


def _keeps_dhcp(was: Network | None, will: Network | None, *, six: bool) -> bool:
    if was is None or will is None:
        return False
    if not ((was.dhcp6 and will.dhcp6) if six else (was.dhcp4 and will.dhcp4)):
        return False
    if six and was.autoconf6 != will.autoconf6:
        return False
    # What a client asks for is decided when it starts.
    return was.lower == will.lower and client_options(was, six=six) == client_options(will, six=six)


def _drop_bridge(draft: Draft, was: Network) -> None:
    if was.name not in draft.links:
        return
    ports = draft.ports(was.name)
    if guests := [port for port in ports if port != was.lower]:
        raise UsedNic(was.name, f"{guests[0]} is plugged into it")
    for port in ports:
        draft.detach(port)
    draft.remove(was.name)


def _free_ports(draft: Draft, bond: str, nics: Iterable[str]) -> None:
    for nic in draft.ports(bond):
        if nic in nics:
            draft.detach(nic)


def _bond(draft: Draft, bond: Bond, was: Bond | None, *, rebuild: bool) -> None:
    if bond.name in draft.links and rebuild:
        # The kernel changes some options only while a bond is empty: make it anew, with what stands on it.
        for above in [link.name for link in draft.links.values() if link.base == bond.name]:
            draft.remove(above)
        _free_ports(draft, bond.name, draft.ports(bond.name))
        draft.remove(bond.name)
    if bond.name not in draft.links:
        draft.create(Link(bond.name, kind="bond"), bond_create(bond))
    elif change := _change(draft.links, was, bond):
        draft.bond_options(bond.name, bond.options.get("mode", "0"), change)
    for nic in draft.ports(bond.name):
        if nic not in bond.nics:
            draft.detach(nic)
    for nic in bond.nics:
        if nic not in draft.links:
            continue
        if draft.links[nic].master != bond.name:
            if draft.links[nic].master:
                draft.detach(nic)
            draft.set_addresses(nic, (), {})
            draft.switch(nic, up=False)
            draft.attach(nic, bond.name)
        draft.switch(nic, up=True)
    draft.switch(bond.name, up=True)


def _network(draft: Draft, net: Network, was: Network | None, old: Config, new: Config, *, anew: bool) -> None:
    if net.base:
        _uplink(draft, net, was, old, new)
    gateways = {
        **({"4": net.gateway} if net.gateway and net.default_route else {}),
        **({"6": net.gateway6} if net.gateway6 and net.default_route else {}),
    }
    if net.bridged:
        if net.name not in draft.links:
            create: Operation = ("bridge-create", {"name": net.name, "stp": net.stp})
            draft.create(Link(net.name, kind="bridge", options={"stp_state": int(net.stp)}), create)
        draft.stp(net.name, net.stp)
        draft.bridge_options(net.name, net.bridge_options)
        if net.lower and draft.links[net.lower].master != net.name:
            # The default route goes away with the addresses and comes back on the bridge.
            gateways = {**{f: g for f, g in draft.gateways_of(net.lower).items() if _reaches(net, g)}, **gateways}
            draft.set_addresses(net.lower, (), {})
            if draft.links[net.lower].master:
                draft.detach(net.lower)
            draft.attach(net.lower, net.name)
        if (mtu := _mtu(draft, net, was)) is not None:
            draft.mtu(net.name, mtu)
        draft.switch(net.name, up=True)
    elif _on_a_bridge(draft.links, net.lower):
        draft.detach(net.lower)
    _addresses(draft, net, was, gateways, anew=anew)
    if net.curves:
        draft.shape(net.base, net.vlan, net.curves)
    if net.default_route:
        draft.nameservers(net.nameservers)


def _on_a_bridge(links: Mapping[str, Link], name: str) -> bool:
    """Of somebody else: what is called at an address of a bridge's port never hears it."""
    master = links.get(links[name].master)
    return master is not None and master.kind == "bridge"


def _addresses(draft: Draft, net: Network, was: Network | None, gateways: dict[str, str], *, anew: bool) -> None:
    by_others = {"4" * net.dhcp4, "6" * (net.autoconf6 or net.dhcp6)} - {""}
    found = draft.gateways_of(net.top)
    gateways = {**{family: found[family] for family in by_others if family in found and net.default_route}, **gateways}
    # IPv6 has to be there before an address of it, and goes after the last one.
    if net.ipv6 != "off":
        draft.ipv6(net.top, net.ipv6)
    mine = tuple(address for address in (net.address, net.address6) if address)
    kept = _kept(draft, net, was, by_others)
    # The one of a server's address is set when there is one; see upkeep.
    source = net.gateway or (draft.source_of(net.top, kept) if net.dhcp4 else "")
    draft.set_addresses(net.top, (*kept, *(a for a in mine if a not in kept)), gateways, source)
    if net.ipv6 == "off":
        draft.ipv6(net.top, net.ipv6)
    if net.dhcp4 and (anew or not _keeps_dhcp(was, net, six=False)):
        draft.dhcp(net, six=False, start=True)
    if net.dhcp6 and (anew or not _keeps_dhcp(was, net, six=True)):
        draft.dhcp(net, six=True, start=True)


def _kept(draft: Draft, net: Network, was: Network | None, by_others: set[str]) -> list[str]:
    """Addresses that others look after (a DHCP client, the kernel's autoconfiguration); not those we once gave."""
    ours = (was.address, was.address6) if was is not None else ()
    if was is not None and was.autoconf6 and not net.autoconf6:
        # Which of them routers gave, nobody can tell; a DHCP client is started anew and gets its own again.
        by_others = by_others - {"6"}
    return [a for a in draft.links[net.top].addresses if family_of(a) in by_others and a not in ours]


def _reaches(net: Network, gateway: str) -> bool:
    """Is a gateway that nobody named any use with the network's own address?"""
    address = net.address if family_of(gateway) == "4" else net.address6
    if not address:
        return False
    way = ipaddress.ip_address(gateway)
    return way.is_link_local or way in ipaddress.ip_interface(address).network


def _mtu(draft: Draft, net: Network, was: Network | None) -> int | None:
    """None: nobody ever asked."""
    if net.mtu is None and was is not None and was.mtu is not None:
        # A VLAN cannot be larger than its base, which other networks may have made smaller.
        return min(_MTU, draft.links[net.base].mtu) if net.base else _MTU
    return net.mtu


def _base_mtu(base: str, old: Config, new: Config) -> int | None:
    """A VLAN cannot be larger than its base, and ports of a bond follow the bond."""
    wanted = [net.mtu for net in new.networks.values() if net.base == base and net.mtu is not None]
    if wanted:
        return max(wanted)
    asked = any(net.base == base and net.mtu is not None for net in old.networks.values())
    return _MTU if asked else None


def _uplink(draft: Draft, net: Network, was: Network | None, old: Config, new: Config) -> None:
    if (mtu := _base_mtu(net.base, old, new)) is not None:
        draft.mtu(net.base, mtu)
    draft.switch(net.base, up=True)
    if net.vlan is None:
        return
    if net.lower not in draft.links:
        create: Operation = ("vlan-create", {"name": net.lower, "nic": net.base, "tag": net.vlan})
        link = Link(net.lower, kind="vlan", base=net.base, tag=net.vlan, mtu=draft.links[net.base].mtu)
        draft.create(link, create)
    if (mtu := _mtu(draft, net, was)) is not None:
        draft.mtu(net.lower, mtu)
    draft.switch(net.lower, up=True)


def _free_mtu(draft: Draft, old: Config, new: Config) -> None:
    """The largest network may be gone."""
    gone = {net.base for name, net in old.networks.items() if new.networks.get(name) != net and net.base}
    for base in sorted(gone & draft.links.keys()):
        # A bond that goes with its network has taken its own along.
        if (mtu := _base_mtu(base, old, new)) is not None:
            draft.mtu(base, mtu)
