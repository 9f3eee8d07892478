# SPDX-License-Identifier: Apache-2.0
"""Single attributes of a wanted network, from what clients write to values, refused with VDSM's codes. Pure."""

import ipaddress
from collections.abc import Mapping
from typing import Any

from vdsm_mp.api.errors_network import BadAddress, BadBridge, BadNetworkParameters, BadVlan
from vdsm_mp.network import options
from vdsm_mp.network.shaping import curves_of
from vdsm_mp.priv.linkoptions import bridge_fault

#: What the resolver takes.
_NAMESERVERS_MOST = 3
_EVERYBODY = "255.255.255.255"


def nameservers(name: str, given: Any) -> tuple[str, ...]:
    if not given:
        return ()
    if not isinstance(given, list) or len(given) > _NAMESERVERS_MOST:
        raise BadNetworkParameters(f"{name}: nameservers are a list of up to {_NAMESERVERS_MOST} addresses")
    return tuple(str(_ip(name, server)) for server in given)


def qos(name: str, given: Any) -> dict[str, Any]:
    if not given:
        return {}
    if not isinstance(given, dict):
        raise BadNetworkParameters(f"{name}: hostQos is no object")
    curves_of(name, given)
    return given


def bridge_options(name: str, custom: Any, *, bridged: bool) -> dict[str, str]:
    """Of custom property bridge_opts; the others are for hooks."""
    if custom is not None and not isinstance(custom, Mapping):
        raise BadNetworkParameters(f"{name}: custom is no object")
    text = custom.get("bridge_opts") if custom else None
    if not text or not bridged:
        return {}
    found = options.split(str(text))
    if isinstance(found, str):
        raise BadBridge(name, f"bridge option {found!r} is not name=value")
    words = options.bridge_words(found)
    if fault := bridge_fault(words):
        raise BadBridge(name, fault)
    return words


def true(value: Any) -> bool:
    return value if isinstance(value, bool) else str(value).lower() in ("true", "yes", "on", "1")


def tag(name: str, value: Any) -> int | None:
    if value in (None, ""):
        return None
    number = _whole(value)
    if number is None or not 0 <= number <= 4094:
        raise BadVlan(name, f"{value!r} is not a VLAN id")
    return number


def mtu(name: str, value: Any) -> int | None:
    if value in (None, ""):
        return None
    number = _whole(value)
    if number is None or not 68 <= number <= 65535:
        raise BadNetworkParameters(f"{name}: {value!r} is not an MTU")
    return number


def _whole(value: Any) -> int | None:
    """Of a number, or of its digits as engines send them."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value[:9])
    return value if type(value) is int else None


def address(name: str, given: Mapping[str, Any]) -> str:
    ip, mask = given.get("ipaddr") or "", given.get("netmask") or given.get("prefix") or ""
    if not ip and not mask:
        return ""
    if not ip or not mask:
        raise BadAddress(name, "an address and its netmask belong together")
    try:
        interface = ipaddress.IPv4Interface(f"{ip}/{mask}")
    except ValueError as error:
        raise BadAddress(name, str(error)) from error
    if "." in str(mask) and str(interface.netmask) != mask:
        raise BadAddress(name, f"{mask!r} is not a netmask")
    return _of_a_host(name, interface)


def _ip(name: str, value: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """One that a host can be asked at."""
    try:
        found = ipaddress.ip_address(str(value))
    except ValueError as error:
        raise BadAddress(name, str(error)) from error
    if "%" in str(value):
        raise BadAddress(name, f"{value} names a device, which the network does by itself")
    if found.is_multicast or found.is_unspecified or str(found) == _EVERYBODY:
        raise BadAddress(name, f"{found} is not the address of a host")
    return found


def address6(name: str, value: Any) -> str:
    if not value:
        return ""
    try:
        interface = ipaddress.IPv6Interface(str(value))
    except ValueError as error:
        raise BadAddress(name, str(error)) from error
    return _of_a_host(name, interface)


def _of_a_host(name: str, interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> str:
    ip, net = _ip(name, str(interface).partition("/")[0]), interface.network
    if ip.is_loopback or (ip.version == 6 and ip.is_link_local):
        raise BadAddress(name, f"{ip} is an address that the kernel gives")
    if not net.prefixlen or (isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None):
        raise BadAddress(name, f"{interface} is not the address of a host")
    if ip.version == 4 and net.prefixlen < 31 and ip in (net.network_address, net.broadcast_address):
        raise BadAddress(name, f"{interface} is the network's own address or its broadcast")
    return str(interface)


def gateway(name: str, value: Any, version: int) -> str:
    if not value:
        return ""
    found = _ip(name, value)
    if found.version != version:
        raise BadAddress(name, f"{value} is of the wrong family")
    return str(found)
