# SPDX-License-Identifier: Apache-2.0
"""What is: links, addresses and default routes, as records. Reads by `ip -j`; pure parsing apart from `read`.

Works in whichever network namespace the process lives, so it asks netlink (through `ip`) and never sysfs, which
shows the namespace it was mounted in; the speed of a NIC, a matter of taste, is the one exception.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vdsm_mp.common import command
from vdsm_mp.network.options import shown_bond, shown_bridge
from vdsm_mp.network.shaping import Curves
from vdsm_mp.priv.shape import class_number

_IP = "/usr/sbin/ip"
_DEADLINE_S = 5.0
#: Of routes that administrators and their programs make, and nobody else brings back.
_KEPT_PROTOCOLS = frozenset({"boot", "static", "dhcp"})
#: What the kernel gives a route of IPv6 of which nobody says how good it is.
_METRIC_6 = 1024
#: Half finished devices of other programs and the like; but what is plugged into a bridge or bond counts, guests too.
_IGNORED_KINDS = frozenset({"ifb", "tun", "ipip", "sit", "gre", "ip6tnl", "vti", "ip6gre", "erspan", "gretap"})


class Link(msgspec.Struct, frozen=True):
    """One network device.

    kind: "" for a NIC, "bridge", "bond", "vlan", "veth", "dummy", "tun" ... base: of a VLAN. up: switched on; carrier:
    and has a link. addresses: "192.0.2.1/24", global ones of both families. dynamic: families ("4", "6") that have an
    address with a limited life (DHCP, autoconfiguration). options: of a bond or bridge, as `ip` names them.
    """

    name: str
    kind: str = ""
    mac: str = ""
    permanent_mac: str = ""
    mtu: int = 1500
    up: bool = False
    carrier: bool = False
    master: str = ""
    base: str = ""
    tag: int | None = None
    addresses: tuple[str, ...] = ()
    dynamic: frozenset[str] = frozenset()
    speed: int = 0
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    port_options: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def is_nic(self) -> bool:
        """Hardware, or what tests use in its place."""
        return self.kind in ("", "veth", "dummy") and self.name != "lo"

    @property
    def bond_options(self) -> dict[str, str]:
        """Of a bond, as they can be set."""
        return shown_bond(self.options)

    @property
    def bridge_options(self) -> dict[str, str]:
        """Of a bridge, as they can be set."""
        return shown_bridge(self.options)


class Route(msgspec.Struct, frozen=True):
    """One that others made and that `route-set` would not make as it is.

    destination: "198.51.100.0/24", an address, or "default". gateway: "" for what is reached directly.
    """

    destination: str
    gateway: str = ""
    source: str = ""
    protocol: str = "boot"
    metric: int = 0
    onlink: bool = False
    six: bool = False


class Source(msgspec.Struct, frozen=True):
    """What came to an address of `device` is answered through `gateway`, whatever the default route is."""

    device: str
    gateway: str


class State(msgspec.Struct, frozen=True):
    """links by name; gateways: {device: {"4": gateway, "6": gateway}} of the main table. routes: {device: others}.

    The others are there only after `details.complete`. sources: {"192.0.2.1/24": Source}. ipv6: {device: how it treats
    IPv6}, empty on a kernel without. nameservers: of the resolver. shaped: {NIC or bond that has our queue:
    {number of a class: its curves}}.
    """

    links: Mapping[str, Link]
    gateways: Mapping[str, Mapping[str, str]]
    sources: Mapping[str, Source] = msgspec.field(default_factory=dict)
    ipv6: Mapping[str, str] = msgspec.field(default_factory=dict)
    nameservers: tuple[str, ...] = ()
    shaped: Mapping[str, Mapping[str, Curves]] = msgspec.field(default_factory=dict)
    routes: Mapping[str, tuple[Route, ...]] = msgspec.field(default_factory=dict)

    def ports(self, master: str) -> list[str]:
        return sorted(link.name for link in self.links.values() if link.master == master)

    def curves(self, nic: str, tag: int | None) -> Curves:
        """Of what the NIC sends for a VLAN, or without one."""
        return self.shaped.get(nic, {}).get(class_number(tag), {})

    def speed(self, name: str) -> int:
        """Mb/s of a NIC, bond or VLAN device, as engines divide by it; 0 when nobody knows, and of everything else."""
        link = self.links.get(name)
        if link is None or link.kind in ("", "veth", "dummy"):
            return link.speed if link is not None else 0
        if link.kind == "vlan":
            return self.speed(link.base) if link.base != name else 0
        if link.kind != "bond":
            return 0
        if link.options.get("mode") in ("active-backup", "broadcast"):
            return self.speed(str(link.options.get("active_slave") or ""))
        return sum(self.speed(port) for port in self.ports(name))

    def gateway(self, device: str, family: str) -> str:
        return self.gateways.get(device, {}).get(family, "")


def read() -> State:
    """Raises: CommandFailed, CommandOverdue."""
    return parse(ask_ip("-d", "addr", "show"), [*ask_ip("-4", "route", "show"), *ask_ip("-6", "route", "show")])


def parse(devices: Iterable[Mapping[str, Any]], routes: Iterable[Mapping[str, Any]]) -> State:
    links = {}
    for device in devices:
        link = _link(device)
        if link.master or link.kind not in _IGNORED_KINDS:
            links[link.name] = link
    gateways: dict[str, dict[str, str]] = {}
    others: dict[str, tuple[Route, ...]] = {}
    for route in routes:
        gateway = route.get("gateway", "")
        if route.get("dst") == "default" and gateway and "dev" in route:
            gateways.setdefault(route["dev"], {}).setdefault("6" if ":" in gateway else "4", gateway)
        if (other := _others(route)) is not None:
            others[route["dev"]] = (*others.get(route["dev"], ()), other)
    return State(links, gateways, routes=others)


def _others(route: Mapping[str, Any]) -> Route | None:
    """None for what the kernel, routers, daemons or we ourselves make (again)."""
    destination, protocol, gateway = str(route.get("dst", "")), route.get("protocol", "boot"), route.get("gateway", "")
    if (
        protocol not in _KEPT_PROTOCOLS
        or "dev" not in route
        or "via" in route
        or route.get("type", "unicast") != "unicast"
    ):
        return None
    six = ":" in f"{destination}{gateway}"
    found = Route(
        destination=destination,
        gateway=gateway,
        source=route.get("prefsrc", ""),
        protocol=protocol,
        metric=route.get("metric", 0),
        onlink="onlink" in route.get("flags", ()),
        six=six,
    )
    plain = destination == "default" and gateway and found.metric == (_METRIC_6 if six else 0) and not found.onlink
    return None if plain else found


def ask_ip(*words: str) -> list[Mapping[str, Any]]:
    """What `ip -j` tells. Raises: CommandFailed, CommandOverdue."""
    out = command.run([_IP, "-j", *words], deadline_s=_DEADLINE_S).out
    # A name or alias may be any bytes: one that others made must not cost all the rest.
    answer = json.loads(out.decode(errors="replace") or "[]", strict=False)
    return [item for item in answer if item]


def _link(device: Mapping[str, Any]) -> Link:
    info = device.get("linkinfo", {})
    kind, data = info.get("info_kind", ""), info.get("info_data", {})
    addresses = [found for found in device.get("addr_info", ()) if found.get("scope") == "global"]
    name, flags = device["ifname"], device.get("flags", ())
    return Link(
        name=name,
        kind=kind or ("loopback" if "LOOPBACK" in flags else ""),
        mac=device.get("address", ""),
        permanent_mac=device.get("permaddr") or info.get("info_slave_data", {}).get("perm_hwaddr", ""),
        mtu=device.get("mtu", 1500),
        up="UP" in flags,
        carrier="LOWER_UP" in flags and "UP" in flags,
        master=device.get("master", ""),
        base=device.get("link", "") if kind == "vlan" else "",
        tag=data.get("id") if kind == "vlan" else None,
        addresses=tuple(f"{found['local']}/{found['prefixlen']}" for found in addresses),
        dynamic=frozenset("6" if ":" in found["local"] else "4" for found in addresses if found.get("dynamic")),
        speed=_speed(name) if not kind and "LOWER_UP" in flags else 0,
        options=data if kind in ("bond", "bridge") else {},
        port_options=info.get("info_slave_data", {}),
    )


def _speed(nic: str) -> int:
    """Mb/s; 0 when nobody knows (virtual NICs say -1 or refuse)."""
    try:
        return max(0, int(Path(f"/sys/class/net/{nic}/speed").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return 0
