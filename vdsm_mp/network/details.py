# SPDX-License-Identifier: Apache-2.0
"""What a plan needs to know besides links and addresses: read when a change is planned, and to see what drifted.

How a device treats IPv6 is one word: "off", "static" (no router is listened to), "ra" (routers are, addresses come from
DHCPv6 or nowhere), "auto" (addresses from routers, too), and with "-noroute" without their default route.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from vdsm_mp.common import command
from vdsm_mp.network.shaping import Curves
from vdsm_mp.network.shaping import read as read_classes
from vdsm_mp.network.state import Source, State, ask_ip
from vdsm_mp.network.state import read as read_state

_CONF = Path("/proc/sys/net/ipv6/conf")
_RESOLV = Path("/etc/resolv.conf")
_TC = "/usr/sbin/tc"
_DEADLINE_S = 5.0
#: Of the rules that we make; VDSM's number.
RULE_PRIORITY = 32000
#: Of the root queue that we make.
SHAPER = "5001:"
_MAIN_TABLES = frozenset({"main", "local", "default"})


def read() -> State:
    """Everything, now. Raises: CommandFailed, CommandOverdue."""
    return complete(read_state())


def complete(state: State) -> State:
    """Raises: CommandFailed, CommandOverdue."""
    return replace(
        state,
        sources=sources(ask_ip("-4", "rule", "show"), ask_ip("-4", "route", "show", "table", "all")),
        ipv6={name: mode for name in state.links if (mode := ipv6_mode(name)) is not None},
        nameservers=tuple(nameservers()),
        shaped=shapes(state),
    )


def sources(rules: Iterable[Mapping[str, Any]], routes: Iterable[Mapping[str, Any]]) -> dict[str, Source]:
    """Those that are whole: both rules and both routes."""
    of_table: dict[str, set[str]] = {}
    lengths: dict[str, int] = {}
    for rule in rules:
        if rule.get("priority") == RULE_PRIORITY:
            way = "to" if "iif" in rule else "from"
            of_table.setdefault(str(rule.get("table")), set()).add(way)
            if way == "from":
                lengths[str(rule.get("table"))] = int(rule.get("srclen", 32))
    found: dict[str, Source] = {}
    direct: set[str] = set()
    for route in routes:
        table = str(route.get("table", "main"))
        if table in _MAIN_TABLES or of_table.get(table) != {"from", "to"} or not table.isdigit():
            continue
        if route.get("dst") != "default":
            direct.add(table)
        elif "gateway" in route:
            found[table] = Source(str(route["dev"]), str(route["gateway"]))
    return {
        f"{ipaddress.IPv4Address(int(table))}/{lengths[table]}": source
        for table, source in found.items()
        if table in direct and int(table) < 2**32
    }


def ipv6_mode(device: str, conf: Path = _CONF) -> str | None:
    """None: this kernel, or this device, has no IPv6."""
    try:
        values = [
            int((conf / device / name).read_text(encoding="ascii"))
            for name in ("disable_ipv6", "accept_ra", "autoconf", "accept_ra_defrtr")
        ]
    except (OSError, ValueError):
        return None
    disabled, listens, autoconf, routes = values
    if disabled:
        return "off"
    if not listens:
        return "static"
    return ("auto" if autoconf else "ra") + ("" if routes else "-noroute")


def nameservers(path: Path = _RESOLV) -> list[str]:
    """The resolver's, in its order; none when nobody can tell."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [words[1] for line in lines if (words := line.split())[:1] == ["nameserver"] and len(words) > 1]


def shapes(state: State) -> dict[str, dict[str, Curves]]:
    """{NIC that has our queue: {number of a class: its curves}}. Raises: CommandFailed, CommandOverdue."""
    # As text: what tc writes of such a queue with -j is no JSON.
    queues = command.run([_TC, "qdisc", "show"], deadline_s=_DEADLINE_S).out.decode(errors="replace")
    return {nic: _classes(nic) for nic in sorted(shaped(queues) & state.links.keys())}


def _classes(nic: str) -> dict[str, Curves]:
    try:
        out = command.run([_TC, "class", "show", "dev", nic], deadline_s=_DEADLINE_S).out
    except command.CommandFailed:
        return {}  # the NIC has gone meanwhile, and its classes with it
    return read_classes(out.decode(errors="replace"))


def shaped(queues: str) -> frozenset[str]:
    """From "qdisc hfsc 5001: dev bond0 root refcnt 2 …", a line each."""
    lines = [line.split() for line in queues.splitlines()]
    return frozenset(words[4] for words in lines if words[1:4] == ["hfsc", SHAPER, "dev"] and "root" in words)
