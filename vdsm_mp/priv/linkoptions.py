# SPDX-License-Identifier: Apache-2.0
"""Options of bonds and bridges: which there are, what they may be, and as which words of `ip`.

Standard library only: root checks with this what it is told, and the network room what it is asked.
"""

import re
from collections.abc import Iterator, Mapping

_NUMBER = r"[0-9]{1,8}"
_FLAG = "[01]"

BOND: Mapping[str, str] = {
    "mode": r"[0-6]|balance-rr|active-backup|balance-xor|broadcast|802\.3ad|balance-tlb|balance-alb",
    "miimon": r"[0-9]{1,6}",
    "updelay": r"[0-9]{1,6}",
    "downdelay": r"[0-9]{1,6}",
    "arp_interval": r"[0-9]{1,6}",
    "arp_ip_target": r"[0-9.]{7,15}(,[0-9.]{7,15}){0,15}",
    "arp_validate": "none|active|backup|all",
    "arp_all_targets": "any|all",
    "primary": r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}",
    "primary_reselect": "always|better|failure",
    "fail_over_mac": "none|active|follow",
    "xmit_hash_policy": r"layer2|layer3\+4|layer2\+3|encap2\+3|encap3\+4|vlan\+srcmac",
    "resend_igmp": r"[0-9]{1,3}",
    "num_grat_arp": r"[0-9]{1,3}",
    "num_unsol_na": r"[0-9]{1,3}",
    "all_slaves_active": _FLAG,
    "use_carrier": _FLAG,
    "lacp_rate": "slow|fast",
    "min_links": r"[0-9]{1,3}",
    "ad_select": "stable|bandwidth|count",
    "lp_interval": _NUMBER,
    "packets_per_slave": r"[0-9]{1,5}",
    "tlb_dynamic_lb": _FLAG,
}

MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")

#: Numbers that the kernel's files take for words, and `ip` does not.
_BOND_WORDS: Mapping[str, tuple[str, ...]] = {
    "mode": MODES,
    "xmit_hash_policy": ("layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4"),
    "lacp_rate": ("slow", "fast"),
    "ad_select": ("stable", "bandwidth", "count"),
    "primary_reselect": ("always", "better", "failure"),
    "fail_over_mac": ("none", "active", "follow"),
    "arp_validate": ("none", "active", "backup", "all"),
    "arp_all_targets": ("any", "all"),
}

_ARP_MODES = frozenset(MODES[:4])
#: What the kernel has in some modes only.
_ONLY_IN: Mapping[str, frozenset[str]] = {
    "lacp_rate": frozenset({"802.3ad"}),
    "primary": frozenset({"active-backup", "balance-tlb", "balance-alb"}),
    "arp_interval": _ARP_MODES,
    "arp_ip_target": _ARP_MODES,
    "arp_validate": _ARP_MODES,
    "packets_per_slave": frozenset({"balance-rr"}),
    "tlb_dynamic_lb": frozenset({"balance-tlb", "balance-alb"}),
}

#: As the kernel's files name them -> as `ip` does. Times in hundredths of a second.
BRIDGE_WORDS: Mapping[str, str] = {
    "multicast_snooping": "mcast_snooping",
    "multicast_router": "mcast_router",
    "multicast_querier": "mcast_querier",
    "multicast_query_use_ifaddr": "mcast_query_use_ifaddr",
    "hash_max": "mcast_hash_max",
    "multicast_last_member_count": "mcast_last_member_count",
    "multicast_last_member_interval": "mcast_last_member_interval",
    "multicast_membership_interval": "mcast_membership_interval",
    "multicast_querier_interval": "mcast_querier_interval",
    "multicast_query_interval": "mcast_query_interval",
    "multicast_query_response_interval": "mcast_query_response_interval",
    "multicast_startup_query_count": "mcast_startup_query_count",
    "multicast_startup_query_interval": "mcast_startup_query_interval",
    **{
        name: name
        for name in (
            *("forward_delay", "hello_time", "max_age", "ageing_time", "priority", "group_fwd_mask", "vlan_filtering"),
            *("nf_call_iptables", "nf_call_ip6tables", "nf_call_arptables"),
        )
    },
}
_FLAGS = frozenset(
    [
        *("mcast_snooping", "mcast_querier", "mcast_query_use_ifaddr", "vlan_filtering"),
        *("nf_call_iptables", "nf_call_ip6tables", "nf_call_arptables"),
    ]
)
BRIDGE: Mapping[str, str] = {
    word: _FLAG if word in _FLAGS else "[012]" if word == "mcast_router" else _NUMBER for word in BRIDGE_WORDS.values()
}


def pairs(text: str) -> Iterator[tuple[str, str]]:
    """The (name, value) of "mode=4,miimon=100"; a comma within a value stays there."""
    for pair in re.split(r",(?=[a-z_0-9]+=)", text):
        if pair:
            key, _, value = pair.partition("=")
            yield key, value


def bond_fault(options: Mapping[str, str]) -> str | None:
    """What is wrong with them in words of the kernel or of `ip`, or None."""
    mode = bond_word("mode", options.get("mode", "0"))
    for key, value in options.items():
        if key not in BOND or not re.fullmatch(BOND[key], bond_word(key, value), re.ASCII):
            return f"bond option {f'{key}={value}'[:60]!r} is not allowed"
        if key in _ONLY_IN and mode not in _ONLY_IN[key]:
            return f"bond option {key} does not exist in mode {mode}"
    return None


def bond_word(key: str, value: str) -> str:
    words = _BOND_WORDS.get(key, ())
    return words[int(value)] if value.isascii() and value.isdigit() and int(value) < len(words) else value


def bridge_fault(options: Mapping[str, str]) -> str | None:
    """options: {word of `ip`: value}."""
    for key, value in options.items():
        if key not in BRIDGE or not re.fullmatch(BRIDGE[key], value, re.ASCII):
            return f"bridge option {f'{key}={value}'[:60]!r} is not allowed"
    return None
