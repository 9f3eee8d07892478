# SPDX-License-Identifier: Apache-2.0
"""Links, addresses and routes, by `ip` with fixed words. Root side, standard library only.

Only bridges, bonds and VLAN devices can be removed; `lo` is never touched. The network worker owns the host's
network, so which NIC is whose is its decision; that nothing else can be said is decided here.
"""

import contextlib
import ipaddress
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vdsm_mp.priv.child import OperationFailed, Refused
from vdsm_mp.priv.context import Context
from vdsm_mp.priv.linkoptions import bond_fault, bond_word, bridge_fault, pairs

_IP = "/usr/sbin/ip"
_IPV6 = Path("/proc/sys/net/ipv6/conf")
_IPV6_FILES = ("disable_ipv6", "accept_ra", "autoconf", "accept_ra_defrtr")
#: accept_ra 2: also on a host that forwards, as one with libvirt's own networks does.
_IPV6_MODES: Mapping[str, tuple[str, ...]] = {
    "off": ("1",),
    "static": ("0", "0", "0", "1"),
    "ra": ("0", "2", "0", "1"),
    "ra-noroute": ("0", "2", "0", "0"),
    "auto": ("0", "2", "1", "1"),
    "auto-noroute": ("0", "2", "1", "0"),
}
#: Rules that answer what came to an address by its own table; VDSM's number.
_RULE_PRIORITY = "32000"
#: Engines name it; no other name may begin like that.
_DUMMY = ";vdsmdummy;"
_REMOVABLE = frozenset({"bridge", "bond", "vlan"})


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
    options = dict(pairs(text or ""))
    if fault := bond_fault(options):
        raise Refused(fault)
    # The mode first: what else there is depends on it.
    return [
        word for key in sorted(options, key=lambda key: key != "mode") for word in (key, bond_word(key, options[key]))
    ]


def _bond_create(context: Context, p: Mapping[str, Any]) -> None:
    words, primary = bond_words(p.get("options")), []
    if "primary" in words:
        # A primary has to be there; it is not, in an empty bond, and by its name it may come later.
        at = words.index("primary")
        primary, words = words[at : at + 2], words[:at] + words[at + 2 :]
    mac = ["address", p["mac"]] if p.get("mac") else []
    _ip(context, "link", "add", "name", _plain(p["name"]), *mac, "type", "bond", *words, *primary)


def _bond_set(context: Context, p: Mapping[str, Any]) -> None:
    # The mode tells which others there are; it is not changed.
    words = bond_words(p["options"])
    if words[:1] != ["mode"] or not words[2:]:
        raise Refused("options of a bond without its mode, or nothing but the mode")
    _ip(context, "link", "set", "dev", _plain(p["name"]), "type", "bond", *words[2:])


def _bridge_set(context: Context, p: Mapping[str, Any]) -> None:
    options = dict(pairs(p["options"]))
    if fault := bridge_fault(options):
        raise Refused(fault)
    words = [word for pair in options.items() for word in pair]
    _ip(context, "link", "set", "dev", _plain(p["name"]), "type", "bridge", *words)


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
    seconds = p.get("valid_s")
    life = ["valid_lft", str(seconds), "preferred_lft", str(seconds)] if seconds else []
    _ip(context, "addr", "replace", p["address"], "dev", _plain(p["name"]), *life)


def _address_remove(context: Context, p: Mapping[str, Any]) -> None:
    try:
        _ip(context, "addr", "del", p["address"], "dev", _plain(p["name"]))
    except OperationFailed as error:
        if "Cannot assign" not in str(error) and "ddress not found" not in str(error):
            raise


def _ipv6_set(context: Context, p: Mapping[str, Any]) -> None:
    name = _plain(p["name"])
    if name in ("all", "default"):
        raise Refused("this would be every device")
    values = _IPV6_MODES.get(p["mode"]) or [(_IPV6 / "default" / file).read_text() for file in _IPV6_FILES]
    # Switched on last: the kernel asks for routers at once, and what it does with them is decided by the others.
    for file, value in reversed([*zip(_IPV6_FILES, values, strict=False)]):
        (_IPV6 / name / file).write_text(value)


def _source(address: str) -> tuple[str, str, str]:
    """Of "192.0.2.5/24": its address, its network, its table, whose number is the address as VDSM has it."""
    try:
        interface = ipaddress.IPv4Interface(address)
    except ValueError as error:
        raise Refused(str(error)) from error
    return str(interface.ip), str(interface.network), str(int(interface.ip))


def _source_route_remove(context: Context, p: Mapping[str, Any]) -> None:
    _, _, table = _source(p["address"])
    for rule in json.loads(_ip(context, "-j", "-4", "rule", "show", "table", table) or "[]"):
        if str(rule.get("priority")) == _RULE_PRIORITY:
            way = ["to", _cidr(rule, "dst"), "iif", rule["iif"]] if "iif" in rule else ["from", _cidr(rule, "src")]
            _ip(context, "-4", "rule", "del", "priority", _RULE_PRIORITY, *way, "table", table)
    with contextlib.suppress(OperationFailed):  # the kernel says so when there is none
        _ip(context, "-4", "route", "flush", "table", table)


def _cidr(rule: Mapping[str, Any], end: str) -> str:
    return f"{rule[end]}/{rule.get(f'{end}len', 32)}"


def _source_route_set(context: Context, p: Mapping[str, Any]) -> None:
    ip, net, table = _source(p["address"])
    name = _plain(p["name"])
    _source_route_remove(context, p)
    _ip(context, "-4", "route", "replace", net, "dev", name, "src", ip, "table", table)
    _ip(context, "-4", "route", "replace", "default", "via", p["gateway"], "dev", name, "table", table)
    for way in (["from", net], ["to", net, "iif", name]):
        _ip(context, "-4", "rule", "add", "priority", _RULE_PRIORITY, *way, "table", table)


def _route(word: str) -> Callable[[Context, Mapping[str, Any]], None]:
    def run(context: Context, p: Mapping[str, Any]) -> None:
        family = "-6" if ":" in p["gateway"] else "-4"
        table = ["table", str(p["table"])] if p.get("table") else []
        try:
            _ip(context, family, "route", word, "default", "via", p["gateway"], "dev", _plain(p["name"]), *table)
        except OperationFailed as error:
            # It went with its address, or with the client that had brought it.
            if word != "del" or "No such process" not in str(error):
                raise

    return run


def _route_restore(context: Context, p: Mapping[str, Any]) -> None:
    family = "-6" if p.get("six") else "-4"
    words = {"via": p.get("gateway"), "src": p.get("source"), "metric": p.get("metric"), "proto": p["protocol"]}
    more = [text for word, value in words.items() if value for text in (word, str(value))]
    more += ["onlink"] if p.get("onlink") else []
    _ip(context, family, "route", "replace", p["destination"], "dev", _plain(p["name"]), *more)


def _set(*words: str) -> Callable[[Context, Mapping[str, Any]], None]:
    def run(context: Context, p: Mapping[str, Any]) -> None:
        name = _plain(p.get("name") or p["port"])
        _ip(context, "link", "set", "dev", name, *(word.format(**p) for word in words))

    return run


def _stp_set(context: Context, p: Mapping[str, Any]) -> None:
    state = "1" if p["enabled"] else "0"
    _ip(context, "link", "set", "dev", _plain(p["name"]), "type", "bridge", "stp_state", state)


HANDLERS: Mapping[str, Callable[[Context, Mapping[str, Any]], None]] = {
    "bridge-create": _bridge_create,
    "dummy-bridge": _dummy_bridge,
    "bridge-set": _bridge_set,
    "bond-create": _bond_create,
    "bond-set": _bond_set,
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
    "route-restore": _route_restore,
    "source-route-set": _source_route_set,
    "source-route-remove": _source_route_remove,
}
