# SPDX-License-Identifier: Apache-2.0
"""What switches say, from frames as they send them, and from frames that nobody should send."""

import base64
import random
from typing import Any

from vdsm_mp.network.neighbours import Neighbours
from vdsm_mp.network.state import Link, State
from vdsm_mp.network.tlvs import heard


def tlv(kind: int, value: bytes) -> bytes:
    return (kind << 9 | len(value)).to_bytes(2, "big") + value


HEAD = bytes.fromhex("0180c200000e52540000000188cc")
SWITCH = HEAD + b"".join(
    [
        tlv(1, b"\x04" + bytes.fromhex("525400000001")),
        tlv(2, b"\x05Gi1/0/7"),
        tlv(3, (120).to_bytes(2, "big")),
        tlv(4, b"to rack 4"),
        tlv(5, "Schrank-4-ö".encode()),
        tlv(6, b"A switch\x07\x00"),
        tlv(7, bytes.fromhex("00140004")),
        tlv(8, b"\x05\x01\xc0\x00\x02\x01\x02\x00\x00\x00\x05\x00"),
        tlv(127, bytes.fromhex("0080c201") + (100).to_bytes(2, "big")),
        tlv(127, bytes.fromhex("0080c203") + (100).to_bytes(2, "big") + b"\x04prod"),
        tlv(127, bytes.fromhex("00120f03") + b"\x03" + (7).to_bytes(4, "big")),
        tlv(127, bytes.fromhex("00120f04") + (9216).to_bytes(2, "big")),
        tlv(127, bytes.fromhex("00e02b01") + b"\x01"),
        tlv(0, b""),
        tlv(5, b"after the end"),
    ]
)


def test_a_switch_is_told_as_engines_know_it() -> None:
    what = heard(SWITCH)
    assert what.ttl_s == 120
    assert what.tlvs == [
        {
            "type": 1,
            "name": "Chassis ID",
            "properties": {"chassis ID subtype": "MAC", "chassis ID": "52:54:00:00:00:01"},
        },
        {"type": 2, "name": "Port ID", "properties": {"port ID subtype": "Ifname", "port ID": "Gi1/0/7"}},
        {"type": 3, "name": "Time to Live", "properties": {"time to live": "120"}},
        {"type": 4, "name": "Port Description", "properties": {"port description": "to rack 4"}},
        {"type": 5, "name": "System Name", "properties": {"system name": "Schrank-4-ö"}},
        {"type": 6, "name": "System Description", "properties": {"system description": "A switch "}},
        {
            "type": 7,
            "name": "System Capabilities",
            "properties": {"system capabilities": "Bridge, Router", "enabled capabilities": "Bridge"},
        },
        {
            "type": 8,
            "name": "Management Address",
            "properties": {
                "management address subtype": "IPv4",
                "management address": "192.0.2.1",
                "interface numbering subtype": "Ifindex",
                "interface numbering": "5",
            },
        },
        {"type": 127, "oui": 0x80C2, "subtype": 1, "name": "Port VLAN ID", "properties": {"Port VLAN ID": "100"}},
        {
            "type": 127,
            "oui": 0x80C2,
            "subtype": 3,
            "name": "VLAN Name",
            "properties": {"VLAN ID": "100", "VLAN Name": "prod"},
        },
        {
            "type": 127,
            "oui": 0x80C2,
            "subtype": 7,
            "name": "Link Aggregation",
            "properties": {
                "Aggregation capable": "True",
                "Currently aggregated": "True",
                "Aggregated Port ID": "7",
            },
        },
        {"type": 127, "oui": 0x120F, "subtype": 4, "name": "MTU", "properties": {"mtu": "9216"}},
    ]


def test_no_frame_is_too_strange() -> None:
    chance = random.Random(8)
    for length in range(len(SWITCH)):
        heard(SWITCH[:length])
    for _ in range(20_000):
        frame = bytearray(SWITCH)
        for _ in range(chance.randint(1, 8)):
            frame[chance.randrange(len(HEAD), len(frame))] = chance.randrange(256)
        told = heard(bytes(frame))
        assert len(told.tlvs) < 40
        assert all(isinstance(value, str) for one in told.tlvs for value in one["properties"].values())


class _Root:
    """Root that hears the same on every NIC but silent ones."""

    def __init__(self, silent: frozenset[str] = frozenset()) -> None:
        self.asked: list[str] = []
        self._silent = silent

    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> Any:
        assert operation == "lldp-hear" and params["seconds"] < deadline_s
        self.asked.append(params["names"])
        return {n: base64.b64encode(SWITCH).decode() for n in params["names"].split(",") if n not in self._silent}


STATE = State({n: Link(n, up=True, carrier=n != "eth2") for n in ("eth0", "eth1", "eth2")}, {})


def test_what_was_heard_counts_as_long_as_the_neighbour_said_and_silence_a_minute() -> None:
    now = [100.0]
    root = _Root(frozenset({"eth1"}))
    neighbours = Neighbours(root, enabled=True, clock=lambda: now[0])
    told = neighbours.tell(STATE, STATE.links)
    assert {nic: len(one["tlvs"]) for nic, one in told.items()} == {"eth0": 12, "eth1": 0, "eth2": 0}
    assert neighbours.tell(STATE, STATE.links) == told
    now[0] += 61
    neighbours.tell(STATE, STATE.links)
    now[0] += 60
    neighbours.tell(STATE, ["eth0"])
    assert root.asked == ["eth0,eth1", "eth1", "eth0"]


def test_an_operator_may_switch_it_off() -> None:
    root = _Root()
    assert Neighbours(root, enabled=False).tell(STATE, ["eth0"]) == {"eth0": {"enabled": False, "tlvs": []}}
    assert root.asked == []
