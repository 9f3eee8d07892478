# SPDX-License-Identifier: Apache-2.0
"""Links and addresses, by `ip` with fixed words. Root side, standard library only.

Only bridges, bonds and VLAN devices can be removed; `lo` is never touched. The network worker owns the host's
network, so which NIC is whose is its decision; that nothing else can be said is decided here.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vdsm_mp.priv.child import OperationFailed, Refused
from vdsm_mp.priv.context import Context

_IP = "/usr/sbin/ip"
_DHCLIENT = "/usr/sbin/dhclient"
#: What is asked of a DHCP server for a device that must not have the default route.
_NO_ROUTES = "request subnet-mask, broadcast-address, interface-mtu;\n"
#: Engines name it; no other name may begin like that.
_DUMMY = ";vdsmdummy;"
_REMOVABLE = frozenset({"bridge", "bond", "vlan"})
_BOND_OPTIONS: Mapping[str, str] = {
    "mode": r"[0-6]|balance-rr|active-backup|balance-xor|broadcast|802\.3ad|balance-tlb|balance-alb",
    "miimon": r"[0-9]{1,6}",
    "updelay": r"[0-9]{1,6}",
    "downdelay": r"[0-9]{1,6}",
    "arp_interval": r"[0-9]{1,6}",
    "arp_ip_target": r"[0-9.]{7,15}(,[0-9.]{7,15}){0,15}",
    "arp_validate": "none|active|backup|all",
    "primary": r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}",
    "primary_reselect": "always|better|failure",
    "fail_over_mac": "none|active|follow",
    "xmit_hash_policy": r"layer2|layer3\+4|layer2\+3|encap2\+3|encap3\+4|vlan\+srcmac",
    "resend_igmp": r"[0-9]{1,3}",
    "use_carrier": "[01]",
    "lacp_rate": "slow|fast",
    "min_links": r"[0-9]{1,3}",
    "ad_select": "stable|bandwidth|count",
}

#: Numbers that the kernel's files take for words, and `ip` does not.
_BOND_WORDS: Mapping[str, Mapping[str, str]] = {
    "xmit_hash_policy": {"0": "layer2", "1": "layer3+4", "2": "layer2+3", "3": "encap2+3", "4": "encap3+4"},
    "lacp_rate": {"0": "slow", "1": "fast"},
    "ad_select": {"0": "stable", "1": "bandwidth", "2": "count"},
    "primary_reselect": {"0": "always", "1": "better", "2": "failure"},
    "fail_over_mac": {"0": "none", "1": "active", "2": "follow"},
    "arp_validate": {"0": "none", "1": "active", "2": "backup", "3": "all"},
}


def _ip(context: Context, *words: str, ok: tuple[int, ...] = (0,)) -> str:
    return context.children.run([_IP, *words], context.deadline_mono, ok=ok)


def _kind(context: Context, name: str) -> str:
    """What a device is; "" for a NIC. Raises: OperationFailed when it does not exist."""
    links = json.loads(_ip(context, "-j", "-d", "link", "show", "dev", _plain(name)))
    return str(links[0].get("linkinfo", {}).get("info_kind", ""))


def _plain(name: str) -> str:
    if name == "lo":
        raise Refused("lo is not ours")
    return name


def _bridge_create(context: Context, p: Mapping[str, Any]) -> None:
    stp = "1" if p.get("stp") else "0"
    _ip(context, "link", "add", "name", _plain(p["name"]), "type", "bridge", "stp_state", stp, "forward_delay", "0")


def _dummy_bridge(context: Context, p: Mapping[str, Any]) -> None:
    # Somebody else may make it at the same time: what counts is that it is there in the end.
    _ip(context, "link", "add", "name", _DUMMY, "type", "bridge", "stp_state", "0", "forward_delay", "0", ok=(0, 2))
    _ip(context, "link", "set", "dev", _DUMMY, "up")


def bond_words(text: str | None) -> list[str]:
    """ "mode=4,miimon=100" as words of `ip`. Raises: Refused."""
    words: list[str] = []
    for pair in re.split(r",(?=[a-z_]+=)", text or ""):
        if pair:
            key, _, value = pair.partition("=")
            value = _BOND_WORDS.get(key, {}).get(value, value)
            if key not in _BOND_OPTIONS or not re.fullmatch(_BOND_OPTIONS[key], value):
                raise Refused(f"bond option {pair[:60]!r} is not allowed")
            words += [key, value]
    return words


def _bond_create(context: Context, p: Mapping[str, Any]) -> None:
    _ip(context, "link", "add", "name", _plain(p["name"]), "type", "bond", *bond_words(p.get("options")))


def _vlan_create(context: Context, p: Mapping[str, Any]) -> None:
    nic, name = _plain(p["nic"]), _plain(p["name"])
    _ip(context, "link", "add", "link", nic, "name", name, "type", "vlan", "id", str(p["tag"]))


def _link_remove(context: Context, p: Mapping[str, Any]) -> None:
    kind = _kind(context, p["name"])
    if kind not in _REMOVABLE:
        raise Refused(f"{p['name']} is no bridge, bond or VLAN device")
    _ip(context, "link", "delete", "dev", p["name"], "type", kind)


def _port_attach(context: Context, p: Mapping[str, Any]) -> None:
    if _kind(context, p["to"]) not in ("bridge", "bond"):
        raise Refused(f"{p['to']} is neither a bridge nor a bond")
    _ip(context, "link", "set", "dev", _plain(p["port"]), "master", p["to"])


def _addresses_flush(context: Context, p: Mapping[str, Any]) -> None:
    _ip(context, "addr", "flush", "dev", _plain(p["name"]), "scope", "global")


def _address_add(context: Context, p: Mapping[str, Any]) -> None:
    _ip(context, "addr", "replace", p["address"], "dev", _plain(p["name"]))


def _address_remove(context: Context, p: Mapping[str, Any]) -> None:
    try:
        _ip(context, "addr", "del", p["address"], "dev", _plain(p["name"]))
    except OperationFailed as error:
        if "Cannot assign" not in str(error):
            raise


def _ipv6_set(context: Context, p: Mapping[str, Any]) -> None:
    name = _plain(p["name"])
    if name in ("all", "default"):
        raise Refused("this would be every device")
    path = Path("/proc/sys/net/ipv6/conf") / name / "disable_ipv6"
    path.write_text("0" if p["enabled"] else "1")


def _route(word: str) -> Callable[[Context, Mapping[str, Any]], None]:
    def run(context: Context, p: Mapping[str, Any]) -> None:
        family = "-6" if ":" in p["gateway"] else "-4"
        table = ["table", str(p["table"])] if p.get("table") else []
        _ip(context, family, "route", word, "default", "via", p["gateway"], "dev", _plain(p["name"]), *table)

    return run


def _set(*words: str) -> Callable[[Context, Mapping[str, Any]], None]:
    def run(context: Context, p: Mapping[str, Any]) -> None:
        name = _plain(p.get("name") or p["port"])
        _ip(context, "link", "set", "dev", name, *(word.format(**p) for word in words))

    return run


def _stp_set(context: Context, p: Mapping[str, Any]) -> None:
    state = "1" if p["enabled"] else "0"
    _ip(context, "link", "set", "dev", _plain(p["name"]), "type", "bridge", "stp_state", state)


def _dhclient(name: str, *words: str) -> list[str]:
    """Files where Debian's AppArmor profile lets dhclient write."""
    if not Path(_DHCLIENT).exists():
        raise OperationFailed("dhclient (package isc-dhcp-client) is not installed")
    own = f"dhclient-vdsm-{_plain(name)}"
    return [_DHCLIENT, "-4", *words, "-pf", f"/run/{own}.pid", "-lf", f"/var/lib/dhcp/{own}.leases", name]


def _dhcp_pid(name: str) -> int | None:
    """The client of a device, if it still is one."""
    try:
        pid = int(Path(f"/run/dhclient-vdsm-{name}.pid").read_text(encoding="ascii"))
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if words[0].endswith(b"dhclient") and name.encode() in words else None


def _dhcp_start(context: Context, p: Mapping[str, Any]) -> None:
    if _dhcp_pid(_plain(p["name"])) is not None:
        return
    # It leaves our session and outlives us on purpose: the address has to be renewed whoever restarts.
    words = ["-1"] if p.get("wait") else ["-nw"]
    if not p.get("routes"):
        config = Path(f"/var/lib/dhcp/dhclient-vdsm-{p['name']}.conf")
        config.write_text(_NO_ROUTES, encoding="ascii")
        words += ["-cf", str(config)]
    context.children.run(_dhclient(p["name"], *words), context.deadline_mono)


def _dhcp_stop(context: Context, p: Mapping[str, Any]) -> None:
    if _dhcp_pid(_plain(p["name"])) is not None:
        context.children.run(_dhclient(p["name"], "-r"), context.deadline_mono)


HANDLERS: Mapping[str, Callable[[Context, Mapping[str, Any]], None]] = {
    "bridge-create": _bridge_create,
    "dummy-bridge": _dummy_bridge,
    "bond-create": _bond_create,
    "vlan-create": _vlan_create,
    "link-remove": _link_remove,
    "port-attach": _port_attach,
    "port-detach": _set("nomaster"),
    "link-up": _set("up"),
    "link-down": _set("down"),
    "mtu-set": _set("mtu", "{mtu}"),
    "address-add": _address_add,
    "address-remove": _address_remove,
    "addresses-flush": _addresses_flush,
    "ipv6-set": _ipv6_set,
    "stp-set": _stp_set,
    "route-set": _route("replace"),
    "route-remove": _route("del"),
    "dhcp-start": _dhcp_start,
    "dhcp-stop": _dhcp_stop,
}
