# SPDX-License-Identifier: Apache-2.0
"""The network part of Host.getCapabilities, typed as engines read it. Pure.

`speed` and `vlanid` are integers, `mtu` is a string, `switch` must be there, and the base of every VLAN must be listed
(in nics, bondings or vlans): each of these, done wrong, loses the whole answer.
"""

import ipaddress
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from vdsm_mp.common.options import Vars
from vdsm_mp.network.options import same_bond
from vdsm_mp.network.shaping import same, told
from vdsm_mp.network.state import Link, State
from vdsm_mp.network.wanted import Config, Network

#: The kernel's words and numbers of a bond's mode, as engines know them.
_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")


def facts(state: State, config: Config, options: Vars, nameservers: list[str]) -> dict[str, Any]:
    """{networks, nics, bridges, vlans, bondings, nameservers}. state: with `shaped` if any network has hostQos."""
    # An engine takes a network that is not told for one that it has to set up.
    used = {name for network in config.networks.values() for name in (network.base, network.lower, network.top)}
    links = {name: link for name, link in state.links.items() if name in used or not hidden(link, options)}
    found = _facts(state, links, config, nameservers)
    for network in config.networks.values():
        # Engines look for the way to an address at the device, too; of DHCPv6 the device itself knows nothing.
        for kind in ("nics", "bondings", "vlans", "bridges"):
            if network.top in found[kind]:
                found[kind][network.top] |= _ways(network)
    return found


def _ways(network: Network) -> dict[str, bool]:
    return {"dhcpv4": network.dhcp4, "dhcpv6": network.dhcp6, "ipv6autoconf": network.autoconf6}


def _facts(state: State, links: Mapping[str, Link], config: Config, nameservers: list[str]) -> dict[str, Any]:
    return {
        "nics": {name: _nic(state, link) for name, link in links.items() if link.is_nic},
        "bondings": {name: _bond(state, link, config) for name, link in links.items() if link.kind == "bond"},
        "vlans": {name: _vlan(state, link) for name, link in links.items() if _listed_vlan(link, links)},
        "bridges": {name: _bridge(state, link) for name, link in links.items() if link.kind == "bridge"},
        "networks": {
            name: _network(state, network, links[network.top])
            for name, network in config.networks.items()
            if network.top in links
        },
        "nameservers": nameservers,
    }


def hidden(link: Link, options: Vars) -> bool:
    """Is this device none of the engine's business, unless a network of ours is on it? A virtual NIC is shown when an
    option names it, or somebody uses it.
    """
    patterns = {"bond": options.hidden_bonds, "vlan": options.hidden_vlans, "bridge": ""}
    if link.kind in ("veth", "dummy") and not link.master and not link.addresses:
        return not _matches(link.name, options.fake_nics)
    return _matches(link.name, patterns.get(link.kind, options.hidden_nics))


def _matches(name: str, patterns: str) -> bool:
    return any(fnmatch(name, pattern.strip()) for pattern in patterns.split(",") if pattern.strip())


def _listed_vlan(link: Link, links: Mapping[str, Link]) -> bool:
    """Does it stand, maybe by way of others, on a NIC or bond? On the bridge of somebody else it is not for engines."""
    base = links.get(link.base)
    if link.kind != "vlan" or link.tag is None or base is None:
        return False
    return base.is_nic or base.kind == "bond" or _listed_vlan(base, links)


def _addresses(state: State, link: Link) -> dict[str, Any]:
    v4 = [address for address in link.addresses if ":" not in address]
    v6 = [address for address in link.addresses if ":" in address]
    first = ipaddress.IPv4Interface(v4[0]) if v4 else None
    gateway = state.gateway(link.name, "4")
    return {
        "addr": str(first.ip) if first else "",
        "netmask": str(first.netmask) if first else "",
        "ipv4addrs": v4,
        "ipv6addrs": v6,
        "gateway": gateway,
        "ipv6gateway": state.gateway(link.name, "6") or "::",
        "ipv4defaultroute": bool(gateway),
        "dhcpv4": "4" in link.dynamic,
        "dhcpv6": False,
        "ipv6autoconf": "6" in link.dynamic,
        "mtu": str(link.mtu),
    }


def _nic(state: State, link: Link) -> dict[str, Any]:
    found = {**_addresses(state, link), "hwaddr": link.mac, "speed": link.speed}
    if link.master in state.links and state.links[link.master].kind == "bond":
        found["permhwaddr"] = link.permanent_mac or link.mac
        aggregator = link.port_options.get("ad_aggregator_id")
        if aggregator is not None:
            found["ad_aggregator_id"] = str(aggregator)
    return found


def _bond(state: State, link: Link, config: Config) -> dict[str, Any]:
    """opts: of ours in the engine's words as long as they are so, because it compares; of others what matters most."""
    options, ours = link.options, config.bonds.get(link.name)
    mode = str(options.get("mode", "balance-rr"))
    shown = {"mode": str(_MODES.index(mode)) if mode in _MODES else mode}
    if ours is not None:
        told = ours.options if same_bond(options, ours.options) else link.bond_options
        shown |= {key: value for key, value in told.items() if key != "mode"}
    elif options.get("miimon") is not None:
        shown["miimon"] = str(options["miimon"])
    ports = state.ports(link.name)
    return {
        **_addresses(state, link),
        "hwaddr": link.mac,
        "slaves": ports,
        "opts": shown,
        "active_slave": str(options.get("active_slave", "")),
        "ad_partner_mac": str(options.get("ad_info", {}).get("ad_partner_mac", "")),
        "speed": state.speed(link.name),
        "switch": "legacy",
    }


def _vlan(state: State, link: Link) -> dict[str, Any]:
    return {**_addresses(state, link), "iface": link.base, "vlanid": link.tag}


def _bridge(state: State, link: Link) -> dict[str, Any]:
    stp = "on" if link.options.get("stp_state") else "off"
    return {**_addresses(state, link), "ports": state.ports(link.name), "stp": stp, "opts": {}}


def _qos(state: State, network: Network) -> dict[str, Any]:
    """As the kernel has it; in the engine's words as long as that is the same, because it compares."""
    found = state.curves(network.base, network.vlan)
    return network.host_qos if same(network.curves, found) else told(found)


def _network(state: State, network: Network, top: Link) -> dict[str, Any]:
    found = {
        **_addresses(state, top),
        "iface": top.name,
        "bridged": network.bridged,
        "switch": "legacy",
        "southbound": network.lower,
        "nameservers": list(network.nameservers),
        "hostQos": _qos(state, network),
        "bootproto4": "dhcp" if network.dhcp4 else "none",
        **_ways(network),
    }
    if network.bridged:
        found |= {"ports": state.ports(top.name), "stp": "on" if network.stp else "off"}
    if network.vlan is not None:
        found["vlanid"] = network.vlan
    return found
