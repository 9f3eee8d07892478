# SPDX-License-Identifier: Apache-2.0
"""`network` of Host.getStats: totals that engines turn into rates. Strings, as VDSM sends them; sampleTime a float."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdsm_mp.common.clock import wall_s
from vdsm_mp.common.options import Vars
from vdsm_mp.network.caps import hidden
from vdsm_mp.network.state import State

_KINDS = ("", "veth", "dummy", "bond", "vlan", "bridge")


def counters(state: State, options: Vars, table: Mapping[str, list[int]]) -> dict[str, dict[str, Any]]:
    """{device: {name, state, speed, rx, tx, rxDropped, txDropped, rxErrors, txErrors, sampleTime}}"""
    now = wall_s()
    return {
        name: {
            "name": name,
            "state": "up" if link.up and link.carrier else "down",
            # Unknown is said to be 1000: an engine divides by it.
            "speed": str(state.speed(name) or 1000),
            "rx": str(table[name][0]),
            "rxErrors": str(table[name][2]),
            "rxDropped": str(table[name][3]),
            "tx": str(table[name][8]),
            "txErrors": str(table[name][10]),
            "txDropped": str(table[name][11]),
            "sampleTime": now,
        }
        for name, link in state.links.items()
        if name in table and link.kind in _KINDS and name != "lo" and not hidden(link, options)
    }


def read_table(path: str = "/proc/self/net/dev") -> dict[str, list[int]]:
    """{device: the sixteen numbers of its line}, of our own network namespace."""
    found: dict[str, list[int]] = {}
    for line in Path(path).read_text(encoding="ascii", errors="replace").splitlines():
        name, colon, rest = line.partition(":")
        numbers = [int(word) for word in rest.split() if word.isdigit()]
        if colon and len(numbers) >= 16:
            found[name.strip()] = numbers
    return found
