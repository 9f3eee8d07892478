# SPDX-License-Identifier: Apache-2.0
"""Everything about a wish that can be refused without touching the host, with VDSM's codes. Pure."""

from collections.abc import Mapping, Set

from vdsm_mp.api.errors_network import (
    BadAddress,
    BadBond,
    BadBridge,
    BadNetworkParameters,
    BadNic,
    BadVlan,
    UsedBond,
    UsedNic,
)
from vdsm_mp.network.state import Link, State
from vdsm_mp.network.wanted import Bond, Config, Network

#: IFNAMSIZ without its end.
_NAME_LENGTH = 15


def check(state: State, old: Config, new: Config, asked: Set[str]) -> None:
    """asked: names of networks and bonds that have to be possible now; the others need not (their NIC may be lost)."""
    in_bonds: dict[str, str] = {}
    for bond in new.bonds.values():
        if bond.name in asked:
            _check_bond(state, bond)
        for nic in bond.nics:
            if (owner := in_bonds.setdefault(nic, bond.name)) != bond.name:
                raise UsedNic(nic, f"bond {owner} has it")
    for name in old.bonds.keys() - new.bonds.keys():
        if users_of := [net.name for net in new.networks.values() if net.base == name]:
            raise UsedBond(name, f"network {users_of[0]} needs it")
    users: dict[str, str] = {}
    for net in new.networks.values():
        if net.base in in_bonds:
            raise UsedNic(net.base, f"bond {in_bonds[net.base]} has it")
        if net.name in asked:
            _check_vlan(state, net)
            _check_base(state, net, old, new, asked)
            _check_bridge(state, net, old)
        if net.lower and (other := users.setdefault(net.lower, net.name)) != net.name:
            raise BadNetworkParameters(f"{net.name}: network {other} has {net.lower}")
        _check_addresses(net, new, asked)
    _check_default_route(new)


def _check_addresses(net: Network, new: Config, asked: Set[str]) -> None:
    """The kernel would take one address twice, and answer by one of the two."""
    mine = _ips(net)
    for other in new.networks.values():
        if other.name != net.name and net.name in asked and (twice := mine & _ips(other)):
            raise BadAddress(net.name, f"network {other.name} has {min(twice)}")


def _ips(net: Network) -> set[str]:
    return {address.partition("/")[0] for address in (net.address, net.address6) if address}


def _check_default_route(new: Config) -> None:
    default = [net.name for net in new.networks.values() if net.default_route]
    if len(default) > 1:
        raise BadNetworkParameters(f"{' and '.join(sorted(default))} both have the default route")


def _check_bond(state: State, bond: Bond) -> None:
    for nic in bond.nics:
        link = state.links.get(nic)
        if link is None or not link.is_nic:
            raise BadNic(nic, f"bond {bond.name} needs it, it does not exist")
    there = state.links.get(bond.name)
    if there is not None and there.kind != "bond":
        raise BadBond(bond.name, "there is another device of this name")


def _check_base(state: State, net: Network, old: Config, new: Config, asked: Set[str]) -> None:
    if not net.base or net.base in new.bonds:
        return
    link = state.links.get(net.base)
    if link is None or not (link.is_nic or link.kind == "bond"):
        missing = BadBond if net.on_bond else BadNic
        raise missing(net.base, f"network {net.name} needs it, it does not exist")
    if link.master and _is_bond(state.links, link.master) and not _lets_go(link, old, new, asked):
        raise UsedNic(net.base, f"bond {link.master} has it")


def _lets_go(nic: Link, old: Config, new: Config, asked: Set[str]) -> bool:
    """Does its bond go, or lose it, with this very change?"""
    will = new.bonds.get(nic.master)
    if will is None:
        return nic.master in old.bonds
    return will.name in asked and nic.name not in will.nics


def _check_vlan(state: State, net: Network) -> None:
    if net.vlan is None:
        return
    if len(net.lower) > _NAME_LENGTH:
        raise BadVlan(
            net.name, f"{net.lower} is longer than the {_NAME_LENGTH} characters that a device's name may have"
        )
    there = state.links.get(net.lower)
    if there is not None and (there.kind, there.base, there.tag) != ("vlan", net.base, net.vlan):
        raise BadVlan(net.name, f"there is another device of the name {net.lower}")
    for link in state.links.values():
        if link.kind == "vlan" and (link.base, link.tag) == (net.base, net.vlan) and link is not there:
            raise BadVlan(net.name, f"{link.name} has VLAN {net.vlan} of {net.base}")


def _is_bond(links: Mapping[str, object], name: str) -> bool:
    return getattr(links.get(name), "kind", "") == "bond"


def _check_bridge(state: State, net: Network, old: Config) -> None:
    there = state.links.get(net.name)
    if net.bridged and there is not None and there.kind != "bridge":
        raise BadBridge(net.name, "there is another device of this name")
    if there is not None and there.kind == "bridge" and not net.bridged and net.name not in old.networks:
        raise BadBridge(net.name, "there is a bridge of this name")
