# SPDX-License-Identifier: Apache-2.0
"""What an engine wants: networks and bonds as records, from VDSM's dictionaries, and their refusal with VDSM's codes.

Pure. Nothing is looked up here; what depends on the state of the host is checked by `plan.py`.
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from vdsm_mp.api.errors_network import BadAddress, BadBond, BadBridge, BadNetworkParameters, BadNic
from vdsm_mp.network import attributes, options
from vdsm_mp.network.shaping import curves_of
from vdsm_mp.priv.linkoptions import bond_fault

_NAME = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z")
#: A bridge is named after its network: no dot (it would look like a VLAN device).
_BRIDGE = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_-]{0,14}\Z")
#: The kernel keeps settings of all devices under these.
_RESERVED = frozenset({"all", "default", "lo", "bonding_masters"})
#: A device that is smaller has no IPv6.
IPV6_MTU = 1280
_MAC = re.compile(r"\A[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")
_BOND_KNOWN = frozenset({"nics", "options", "hwaddr", "switch", "remove", "custom"})
_KNOWN = frozenset(
    [
        *("nic", "bonding", "vlan", "bridged", "mtu", "stp", "STP", "ipaddr", "netmask", "prefix", "gateway"),
        *("bootproto", "ipv6addr", "ipv6gateway", "ipv6autoconf", "dhcpv6", "defaultRoute", "nameservers", "switch"),
        *("hostQos", "custom", "remove", "dhcpv4", "blockingdhcp", "vlanid"),
    ]
)


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network as it is kept on disk. base: NIC or bond, "" for a bridge without uplink.

    address: "a.b.c.d/len". dhcp_wait: the change is over only when there is an address.
    """

    name: str
    base: str = ""
    on_bond: bool = False
    vlan: int | None = None
    bridged: bool = True
    mtu: int | None = None
    stp: bool = False
    dhcp4: bool = False
    dhcp_wait: bool = False
    dhcp6: bool = False
    autoconf6: bool = False
    address: str = ""
    gateway: str = ""
    address6: str = ""
    gateway6: str = ""
    default_route: bool = False
    nameservers: tuple[str, ...] = ()
    host_qos: dict[str, Any] = {}
    bridge_options: dict[str, str] = {}

    @property
    def curves(self) -> str:
        """The shaping of what the network sends, as root takes it; "" when it has none."""
        return curves_of(self.name, self.host_qos)

    @property
    def ipv6(self) -> str:
        """How its device treats IPv6; see details.py."""
        if self.autoconf6 or self.dhcp6:
            return ("auto" if self.autoconf6 else "ra") + ("" if self.default_route else "-noroute")
        return "static" if self.address6 else "off"

    @property
    def lower(self) -> str:
        """The device that carries the network's frames: NIC, bond or VLAN device; "" when there is none."""
        return f"{self.base}.{self.vlan}" if self.vlan is not None else self.base

    @property
    def top(self) -> str:
        """The device that has the addresses."""
        return self.name if self.bridged else self.lower


class Bond(msgspec.Struct, frozen=True, kw_only=True):
    """options: {"mode": "4", "miimon": "100"} as the client gave them. mac: "" for the first NIC's."""

    name: str
    nics: tuple[str, ...]
    options: dict[str, str] = {}
    mac: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All networks and bonds that are ours. format: of the file it is kept in."""

    format: int = 1
    networks: dict[str, Network] = {}
    bonds: dict[str, Bond] = {}


def changed(old: Config, networks: Mapping[str, Any], bondings: Mapping[str, Any]) -> Config:
    """`old` with the wanted changes. Raises: the errors below, at the first fault; nothing has changed."""
    nets, bonds = dict(old.networks), dict(old.bonds)
    for name, given in networks.items():
        if _removed(name, given):
            if nets.pop(name, None) is None:
                raise BadBridge(name, "it cannot be removed, it does not exist")
        else:
            nets[name] = network(name, given)
    for name, given in bondings.items():
        if _removed(name, given):
            if bonds.pop(name, None) is None:
                raise BadBond(name, "it cannot be removed, it does not exist")
        else:
            bonds[name] = bond(name, given)
    return Config(networks=nets, bonds=bonds)


def _removed(name: str, given: Any) -> bool:
    if not isinstance(given, Mapping):
        raise BadNetworkParameters(f"{name} has no attributes")
    if not attributes.true(given.get("remove", False)):
        return False
    if set(given) - {"remove", "custom"}:
        raise BadNetworkParameters(f"{name} is to be removed and has other attributes")
    return True


def network(name: str, given: Mapping[str, Any]) -> Network:
    bridged = attributes.true(given.get("bridged", True))
    if not (_BRIDGE if bridged else _NAME).match(name) or name in _RESERVED:
        raise BadBridge(name, "a name has up to 15 letters, digits, '-' and '_'")
    _check_shape(name, given, bridged=bridged)
    dhcp4 = given.get("bootproto") == "dhcp" or attributes.true(given.get("dhcpv4", False))
    net = Network(
        name=name,
        base=str(given.get("nic") or given.get("bonding") or ""),
        on_bond=bool(given.get("bonding")),
        vlan=attributes.tag(name, given.get("vlan")),
        bridged=bridged,
        mtu=attributes.mtu(name, given.get("mtu")),
        stp=attributes.true(given.get("stp", given.get("STP", False))),
        dhcp4=dhcp4,
        dhcp_wait=attributes.true(given.get("blockingdhcp", False)),
        dhcp6=attributes.true(given.get("dhcpv6", False)),
        autoconf6=attributes.true(given.get("ipv6autoconf", False)),
        address=attributes.address(name, given),
        gateway=attributes.gateway(name, given.get("gateway"), 4),
        address6=attributes.address6(name, given.get("ipv6addr")),
        gateway6=attributes.gateway(name, given.get("ipv6gateway"), 6),
        default_route=attributes.true(given.get("defaultRoute", False)),
        nameservers=attributes.nameservers(name, given.get("nameservers")),
        host_qos=attributes.qos(name, given.get("hostQos")),
        bridge_options=attributes.bridge_options(name, given.get("custom"), bridged=bridged),
    )
    _check_addresses(net)
    if net.host_qos and not net.base:
        raise BadNetworkParameters(f"{name}: there is no NIC whose traffic could be shaped")
    return net


def _check_shape(name: str, given: Mapping[str, Any], *, bridged: bool) -> None:
    if unknown := set(given) - _KNOWN:
        raise BadNetworkParameters(f"{name}: unknown attribute {sorted(unknown)[0]}")
    if given.get("nic") and given.get("bonding"):
        raise BadNetworkParameters(f"{name}: both a NIC and a bond")
    base = given.get("nic") or given.get("bonding")
    if base is not None and not isinstance(base, str):
        raise BadNetworkParameters(f"{name}: {base!r} is not the name of a device")
    _check_switch(name, given)
    if not base and (not bridged or given.get("vlan") not in (None, "")):
        raise BadNetworkParameters(f"{name}: neither a NIC nor a bond")
    if given.get("bootproto") not in (None, "", "none", "static", "dhcp"):
        raise BadAddress(name, f"bootproto {given['bootproto']!r} is neither none nor dhcp")


def _check_switch(name: str, given: Mapping[str, Any]) -> None:
    if (given.get("switch") or "legacy") != "legacy":
        raise BadNetworkParameters(f"{name}: switch type {given['switch']!r} is not supported here, only legacy is")


def _check_addresses(net: Network) -> None:
    name = net.name
    if net.dhcp4 and (net.address or net.gateway):
        raise BadAddress(name, "both a static address and DHCP")
    if net.gateway and not net.address:
        raise BadAddress(name, "a gateway and no address")
    if (net.dhcp6 or net.autoconf6) and (net.address6 or net.gateway6):
        raise BadAddress(name, "both a static IPv6 address and DHCPv6 or autoconfiguration")
    if net.gateway6 and not net.address6:
        raise BadAddress(name, "an IPv6 gateway and no address")
    for address, gateway in ((net.address, net.gateway), (net.address6, net.gateway6)):
        if gateway and address.partition("/")[0] == gateway:
            raise BadAddress(name, f"{gateway} is its own gateway")
    if net.mtu is not None and net.mtu < IPV6_MTU and net.ipv6 != "off":
        raise BadAddress(name, f"IPv6 needs an MTU of {IPV6_MTU}, and this is {net.mtu}")


def bond(name: str, given: Mapping[str, Any]) -> Bond:
    if not _NAME.match(name) or name in _RESERVED:
        raise BadBond(name, "a name has up to 15 letters, digits, '-', '_' and '.'")
    if unknown := set(given) - _BOND_KNOWN:
        raise BadNetworkParameters(f"{name}: unknown attribute {sorted(unknown)[0]}")
    _check_switch(name, given)
    nics = given.get("nics")
    if not isinstance(nics, list) or not nics or not all(isinstance(nic, str) and _NAME.match(nic) for nic in nics):
        raise BadNic(name, "a bond needs at least one NIC")
    found = options.split(str(given.get("options") or ""))
    if isinstance(found, str):
        raise BadBond(name, f"option {found!r} is not name=value")
    found.pop("custom", None)
    if fault := bond_fault(found):
        raise BadBond(name, fault)
    if found.get("primary", nics[0]) not in nics:
        raise BadBond(name, f"its primary {found['primary']} is none of its NICs")
    mac = str(given.get("hwaddr") or "").lower()
    if mac and not _MAC.match(mac):
        raise BadBond(name, f"{mac[:40]!r} is not a MAC address")
    return Bond(name=name, nics=tuple(sorted(set(nics))), options=found, mac=mac)
