# SPDX-License-Identifier: Apache-2.0
"""Copies of what passes a bridge, for cards of guests that listen to it. Root side, standard library only.

A filter for each card and direction, in queue `clsact` of the bridge. Each lets the next one look, too, so that several
cards, and filters of others, see every frame. The bridge hears what passes through it only while it is promiscuous.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from vdsm_mp.priv.child import OperationFailed, Refused
from vdsm_mp.priv.context import Context

_TC, _IP = "/usr/sbin/tc", "/usr/sbin/ip"
#: What the bridge itself receives, which is all that passes when it is promiscuous; and what the host sends through it.
#: {direction: preference of our filters}; with one number for both, u32 takes filters of one for those of the other.
DIRECTIONS: Mapping[str, str] = {"ingress": "5001", "egress": "5002"}


def copies(filters: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """{handle of a filter: card it copies to}, from `tc -j filter show`; "*" is a card that is gone."""
    found = {}
    for row in filters:
        options = row.get("options", {})
        for action in options.get("actions", ()):
            if action.get("kind") == "mirred":
                found[str(options["fh"])] = str(action.get("to_dev", "*"))
    return found


def shows(bridge: str, direction: str) -> list[str]:
    """The command whose answer `copies` reads; anybody may ask."""
    return [_TC, "-j", "filter", "show", "dev", bridge, direction, "pref", DIRECTIONS[direction]]


def queued(queues: str, kind: str = "clsact") -> frozenset[str]:
    """Devices that have it, from `tc qdisc show` of all: "qdisc clsact ffff: dev red parent ffff:fff1", a line each."""
    lines = [line.split() for line in queues.splitlines()]
    return frozenset(words[4] for words in lines if words[1:2] == [kind] and words[3:4] == ["dev"])


def _tc(context: Context, *words: str) -> str:
    return context.children.run([_TC, *words], context.deadline_mono)


def _kind(context: Context, name: str) -> str:
    """Raises: OperationFailed when there is no such device."""
    shown = context.children.run([_IP, "-j", "-d", "link", "show", "dev", name], context.deadline_mono)
    return str(json.loads(shown)[0].get("linkinfo", {}).get("info_kind", ""))


def _set(context: Context, p: Mapping[str, Any]) -> None:
    bridge, cards = p["bridge"], [card for card in p["cards"].split(",") if card]
    if _kind(context, bridge) != "bridge":
        raise Refused(f"{bridge} is no bridge")
    for card in cards:
        if _kind(context, card) != "tun":
            raise Refused(f"{card} is no card of a guest")
    queues = _tc(context, "qdisc", "show")
    has_queue = bridge in queued(queues)
    if bridge in queued(queues, "ingress"):
        # The kernel has a place for one of the two. VDSM, for one, leaves such behind.
        raise OperationFailed(f"another program has queue ingress on {bridge}: tc qdisc del dev {bridge} ingress")
    if cards:
        if not has_queue:
            _tc(context, "qdisc", "add", "dev", bridge, "clsact")
        for direction in DIRECTIONS:
            _copy(context, bridge, direction, cards)
        _promiscuous(context, bridge, "on")
    elif has_queue and any(_filters(context, bridge, direction, ours) for direction, ours in DIRECTIONS.items()):
        # Filters mark what is ours: they come before and go after the rest, so that death leaves nothing unmarked.
        _promiscuous(context, bridge, "off")
        for direction, ours in DIRECTIONS.items():
            if _filters(context, bridge, direction, ours):
                _tc(context, "filter", "del", "dev", bridge, direction, "pref", ours)
        if not any(_filters(context, bridge, direction) for direction in DIRECTIONS):
            _tc(context, "qdisc", "del", "dev", bridge, "clsact")


def _filters(context: Context, bridge: str, direction: str, preference: str = "") -> bool:
    which = ("pref", preference) if preference else ()
    return bool(_tc(context, "filter", "show", "dev", bridge, direction, *which).strip())


def _copy(context: Context, bridge: str, direction: str, cards: list[str]) -> None:
    which = ("dev", bridge, direction, "pref", DIRECTIONS[direction])
    shown = json.loads(_tc(context, *shows(bridge, direction)[1:]) or "[]")
    kept = set[str]()
    for handle, card in copies(row for row in shown if row).items():
        if card in cards and card not in kept:
            kept.add(card)
        else:
            _tc(context, "filter", "del", *which, "handle", handle, "u32")
    for card in cards:
        if card not in kept:
            copy = ("action", "mirred", "egress", "mirror", "dev", card, "continue")
            _tc(context, "filter", "add", *which, "protocol", "all", "u32", "match", "u8", "0", "0", *copy)


def _promiscuous(context: Context, bridge: str, state: str) -> None:
    context.children.run([_IP, "link", "set", "dev", bridge, "promisc", state], context.deadline_mono)


HANDLERS: Mapping[str, Callable[[Context, Mapping[str, Any]], None]] = {"mirror-set": _set}
