# SPDX-License-Identifier: Apache-2.0
"""Options of bonds and bridges, from what clients write and from what `ip` shows. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from vdsm_mp.priv.linkoptions import BRIDGE, BRIDGE_WORDS, bond_word

#: Shown under another name than it is set by.
_BRIDGE_SHOWN = {
    "mcast_last_member_count": "mcast_last_member_cnt",
    "mcast_last_member_interval": "mcast_last_member_intvl",
    "mcast_membership_interval": "mcast_membership_intvl",
    "mcast_querier_interval": "mcast_querier_intvl",
    "mcast_query_interval": "mcast_query_intvl",
    "mcast_query_response_interval": "mcast_query_response_intvl",
    "mcast_startup_query_count": "mcast_startup_query_cnt",
    "mcast_startup_query_interval": "mcast_startup_query_intvl",
}
#: {option: where `ip` shows it}; those of every mode, and those that only a mode has.
_BOND_SHOWN = {"miimon": "miimon", "updelay": "updelay", "downdelay": "downdelay"}
_BOND_SHOWN_IN = {
    "active-backup": {"primary": "primary"},
    "balance-xor": {"xmit_hash_policy": "xmit_hash_policy"},
    "802.3ad": {"lacp_rate": "ad_lacp_rate", "ad_select": "ad_select", "xmit_hash_policy": "xmit_hash_policy"},
    "balance-tlb": {"primary": "primary", "xmit_hash_policy": "xmit_hash_policy"},
    "balance-alb": {"primary": "primary"},
}

_BOND_ELSEWHERE = {"lacp_rate": "ad_lacp_rate", "num_grat_arp": "num_peer_notif", "num_unsol_na": "num_peer_notif"}


def options_text(options: Mapping[str, str]) -> str:
    """As root's operations take them: "mode=4,miimon=100"."""
    return ",".join(f"{key}={value}" for key, value in options.items())


def bridge_text(options: Mapping[str, str]) -> str:
    """options: {word of `ip`: value}."""
    return options_text(options)


def split(text: str) -> dict[str, str] | str:
    """Of "mode=4 miimon=100", or the word that is no option."""
    found: dict[str, str] = {}
    for pair in text.split():
        key, equals, value = pair.partition("=")
        if not equals or not value:
            return pair
        found[key] = value
    return found


def bridge_words(options: Mapping[str, str]) -> dict[str, str]:
    """From names of the kernel's files, which clients use, to words of `ip`; an unknown name stays."""
    return {BRIDGE_WORDS.get(key, key): value for key, value in options.items()}


def shown_bridge(data: Mapping[str, Any]) -> dict[str, str]:
    """{word of `ip`: value} from what `ip -d` shows."""
    found = {}
    # While its spanning tree changes, the kernel shows the bridge's age for that and not the one that was set.
    passing = {"ageing_time"} if data.get("topology_change") else set()
    for word in BRIDGE.keys() - passing:
        value = data.get(_BRIDGE_SHOWN.get(word, word))
        if value is not None:
            found[word] = str(int(value, 0)) if isinstance(value, str) else str(int(value))
    return found


def as_shown(options: Mapping[str, str]) -> dict[str, Any]:
    """The reverse of `shown_bridge`."""
    return {_BRIDGE_SHOWN.get(word, word): int(value) for word, value in options.items()}


def shown_bond(data: Mapping[str, Any]) -> dict[str, str]:
    """What can be set again, without what is off."""
    mode = str(data.get("mode", "balance-rr"))
    shown = {**_BOND_SHOWN, **_BOND_SHOWN_IN.get(mode, {})}
    values = {option: data.get(place) for option, place in shown.items()}
    return {"mode": mode, **{option: str(value) for option, value in values.items() if value not in (None, 0, "")}}


def same_bond(data: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Has a bond of which `ip -d` shows this what is wanted?"""
    return all(_same(data, key, value) for key, value in {"mode": "0", **_rounded(wanted)}.items())


#: Of a bond: what the kernel changes while it works, and what it changes while it is switched off; each with what it is
#: when nobody says anything. Everything else asks for an empty bond, or is not taken back by any word of `ip`.
_LIVE = {
    **{"miimon": "0", "updelay": "0", "downdelay": "0", "xmit_hash_policy": "layer2", "primary_reselect": "always"},
    **{"resend_igmp": "1", "num_grat_arp": "1", "num_unsol_na": "1", "all_slaves_active": "0", "use_carrier": "1"},
    **{"min_links": "0", "lp_interval": "1", "packets_per_slave": "1"},
}
SWITCHED_OFF = {"lacp_rate": "slow", "ad_select": "stable", "tlb_dynamic_lb": "1"}
_DELAYS = ("updelay", "downdelay")


def in_place(data: Mapping[str, Any], was: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str] | None:
    """Options to set on a bond of which `ip -d` shows this, so that it has what is wanted. None: make it anew.

    was: what it was made with; of that goes what is not wanted any more.
    """
    known = {**_LIVE, **SWITCHED_OFF}
    dropped = {key for key in was if key not in wanted and key != "mode"}
    if not _same(data, "mode", wanted.get("mode", "0")) or dropped - known.keys():
        return None
    whole = {**{key: known[key] for key in dropped}, **_rounded(wanted)}
    different = {key: value for key, value in whole.items() if not _same(data, key, value)}
    # No word of `ip` takes a primary away again.
    may_differ = known.keys() | ({"primary"} if _shows(data, "primary") != "0" else set())
    if different.keys() - may_differ:
        return None
    if different.keys() & {"miimon", *_DELAYS} and not _can_watch(data, whole):
        return None
    return different


def _rounded(wanted: Mapping[str, str]) -> dict[str, str]:
    """The kernel counts delays in looks at the port."""
    every = int(wanted.get("miimon", "0"))
    whole = {key: str(int(wanted[key]) // every * every) for key in _DELAYS if key in wanted and every}
    return {**wanted, **whole}


def _can_watch(data: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """The kernel switches miimon off for ARP and the other way round, and takes a delay only while miimon is on."""
    delayed = any(_shows(data, key) != "0" or wanted.get(key, "0") != "0" for key in _DELAYS)
    always = _shows(data, "miimon") != "0" and wanted.get("miimon", "1") != "0"
    return _shows(data, "arp_interval") == "0" and (always or not delayed)


def bond_as_shown(options: Mapping[str, str]) -> dict[str, str]:
    """As `ip -d` shows them."""
    return {_BOND_ELSEWHERE.get(key, key): bond_word(key, value) for key, value in options.items()}


def bond_before(data: Mapping[str, Any], options: Iterable[str]) -> dict[str, str]:
    """What these are on a bond of which `ip -d` shows this; without a primary that it does not have."""
    values = {key: _shows(data, key) for key in options}
    return {key: value for key, value in values.items() if key != "primary" or value != "0"}


def _same(data: Mapping[str, Any], key: str, value: str) -> bool:
    return _shows(data, key) == bond_word(key, value)


def _shows(data: Mapping[str, Any], option: str) -> str:
    value = data.get(_BOND_ELSEWHERE.get(option, option))
    if isinstance(value, list):
        return ",".join(map(str, value))
    # Nothing is shown of what is off.
    return bond_word(option, "0") if value is None else str(value)
