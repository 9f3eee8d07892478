# SPDX-License-Identifier: Apache-2.0
"""What of our networks is not as it was asked for: somebody changed it by hand, or a NIC is gone. Pure.

Told, never mended: whoever changed it may have had a reason, and an engine asks again when it wants to.
"""

from vdsm_mp.network.options import same_bond
from vdsm_mp.network.shaping import same
from vdsm_mp.network.state import State
from vdsm_mp.network.wanted import Bond, Config, Network


def drift(state: State, config: Config) -> dict[str, str]:
    """{network or bond: what differs}. state: completed."""
    found = {name: says for name, bond in config.bonds.items() if (says := _bond(state, bond))}
    found |= {name: says for name, net in config.networks.items() if (says := _network(state, net, config))}
    return found


def missing_nics(state: State, config: Config) -> dict[str, tuple[str, ...]]:
    """{network or bond: NICs that it needs and the host does not have}."""
    found = {}
    for bond in config.bonds.values():
        if gone := tuple(nic for nic in bond.nics if nic not in state.links):
            found[bond.name] = gone
    for net in config.networks.values():
        if net.base and net.base not in state.links and net.base not in config.bonds:
            found[net.name] = (net.base,)
    return found


def _bond(state: State, bond: Bond) -> str:
    there = state.links.get(bond.name)
    if there is None or there.kind != "bond":
        return f"bond {bond.name} is gone"
    if lost := [nic for nic in bond.nics if nic not in state.ports(bond.name)]:
        return f"bond {bond.name} lacks {', '.join(lost)}"
    if more := [nic for nic in state.ports(bond.name) if nic not in bond.nics]:
        return f"bond {bond.name} has {', '.join(more)}, too"
    if not same_bond(there.options, bond.options):
        return f"bond {bond.name} has other options"
    return "" if there.up else f"bond {bond.name} is switched off"


def _network(state: State, net: Network, config: Config) -> str:
    where = f"network {net.name}"
    top = state.links.get(net.top)
    lower = state.links.get(net.lower)
    if net.lower and lower is None:
        return f"{where}: {net.lower} is gone"
    if top is None:
        return f"{where}: {net.top} is gone"
    if net.bridged and lower is not None and lower.master != net.name:
        return f"{where}: {net.lower} is not plugged into its bridge"
    if not net.bridged and (master := state.links.get(top.master)) is not None and master.kind == "bridge":
        return f"{where}: {net.top} is plugged into bridge {top.master}"
    if not top.up or (lower is not None and not lower.up):
        return f"{where} is switched off"
    if net.mtu is not None and (mtu := _mtu(net, config)) != top.mtu:
        return f"{where}: its MTU is {top.mtu} instead of {mtu}"
    if net.bridged and bool(top.options.get("stp_state")) != net.stp:
        return f"{where}: its spanning tree is {'off' if net.stp else 'on'}"
    if net.bridged and any(top.bridge_options.get(key, value) != value for key, value in net.bridge_options.items()):
        return f"{where}: its bridge has other options"
    return _addresses(state, net, where) or _beside(state, net, where)


def _mtu(net: Network, config: Config) -> int:
    """Of the device that has its addresses: a NIC or bond is as large as the largest network on it."""
    sharing = config.networks.values() if net.top == net.base else [net]
    return max(other.mtu for other in sharing if other.base == net.base and other.mtu is not None)


def _addresses(state: State, net: Network, where: str) -> str:
    top = state.links[net.top]
    for address in (net.address, net.address6):
        if address and address not in top.addresses:
            return f"{where} has lost its address {address}"
    borrowed = {"4" * net.dhcp4, "6" * (net.autoconf6 or net.dhcp6)}
    for address in top.addresses:
        family = "6" if ":" in address else "4"
        if address not in (net.address, net.address6) and family not in borrowed:
            return f"{where} has address {address}, too"
    for gateway, family in ((net.gateway, "4"), (net.gateway6, "6")):
        if net.default_route and gateway and state.gateway(net.top, family) != gateway:
            return f"{where} has lost its default route through {gateway}"
    return ""


def _beside(state: State, net: Network, where: str) -> str:
    if net.gateway and net.address not in state.sources:
        return f"{where}: replies to what comes to {net.address} may go elsewhere, its rules or routes are gone"
    if net.curves and net.base not in state.shaped:
        return f"{where}: its traffic is not shaped any more"
    if net.curves and not same(net.curves, state.curves(net.base, net.vlan)):
        return f"{where}: its traffic is shaped otherwise"
    if state.ipv6.get(net.top, net.ipv6) != net.ipv6:
        return f"{where}: IPv6 is {state.ipv6[net.top]} instead of {net.ipv6}"
    if net.default_route and net.nameservers and net.nameservers != state.nameservers:
        return f"{where}: the nameservers are {', '.join(state.nameservers) or 'none'}"
    return ""
