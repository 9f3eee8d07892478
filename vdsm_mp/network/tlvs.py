# SPDX-License-Identifier: Apache-2.0
"""What an LLDP frame says, as engines read it: [{type, name, properties}], with oui and subtype for IEEE's. Pure.

A frame comes from whoever is at the other end of the wire: nothing in it is believed, and a part that is not as
IEEE 802.1AB has it is left out.
"""

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

_ETHERNET = 14
_TTL = 3
_SPECIFIC = 127
_IEEE_8021 = 0x0080C2
_IEEE_8023 = 0x00120F
_TEXT_MOST = 255
#: Numbers of address families (IANA).
_IPV4, _IPV6 = 1, 2

_CHASSIS = {1: "Chassis", 2: "IfAlias", 3: "Port", 4: "MAC", 5: "Network", 6: "Ifname", 7: "Local"}
_PORT = {1: "Ifalias", 2: "Port", 3: "MAC", 4: "Network", 5: "Ifname", 6: "Agent circuit", 7: "Local"}
_NUMBERING = {1: "Unknown", 2: "Ifindex", 3: "System port number"}
_ABLE = (
    *("Other", "Repeater", "Bridge", "WLAN Access Point", "Router", "Telephone", "DOCSIS Cable Device"),
    *("Station Only", "C-VLAN", "S-VLAN", "Two-port MAC Relay"),
)

Properties = dict[str, str]


class Heard(msgspec.Struct, frozen=True):
    """ttl_s: how long the neighbour wants to be remembered; 0: it says goodbye."""

    ttl_s: int
    tlvs: list[dict[str, Any]]


def heard(frame: bytes) -> Heard:
    ttl_s, found = 0, []
    for kind, value in _parts(frame[_ETHERNET:]):
        if kind == _TTL and len(value) >= 2:
            ttl_s = int.from_bytes(value[:2], "big")
        if (told := _tlv(kind, value)) is not None:
            found.append(told)
    return Heard(ttl_s, found)


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) up to the end, or up to where the frame is cut off."""
    at = 0
    while at + 2 <= len(data):
        head = int.from_bytes(data[at : at + 2], "big")
        kind, length = head >> 9, head & 0x1FF
        if kind == 0 or at + 2 + length > len(data):
            return
        yield kind, data[at + 2 : at + 2 + length]
        at += 2 + length


def _tlv(kind: int, value: bytes) -> dict[str, Any] | None:
    if kind == _SPECIFIC:
        return _of_ieee(value)
    if kind not in _BASIC:
        return None
    name, read = _BASIC[kind]
    properties = read(value)
    return {"type": kind, "name": name, "properties": properties} if properties is not None else None


def _of_ieee(value: bytes) -> dict[str, Any] | None:
    if len(value) < 4:
        return None
    row = _IEEE.get((int.from_bytes(value[:3], "big"), value[3]))
    properties = row[3](value[4:]) if row is not None else None
    if row is None or properties is None:
        return None
    oui, subtype, name, _ = row
    return {"type": _SPECIFIC, "oui": oui, "subtype": subtype, "name": name, "properties": properties}


def _text(value: bytes) -> str:
    text = value[:_TEXT_MOST].decode("utf-8", errors="replace").rstrip("\0")
    return "".join(c if c.isprintable() else " " for c in text)


def _mac(value: bytes) -> str:
    return value.hex(":")


def _address(family: int, value: bytes) -> tuple[str, str]:
    """(kind, address)"""
    if family == _IPV4 and len(value) == 4:
        return "IPv4", str(ipaddress.IPv4Address(value))
    if family == _IPV6 and len(value) == 16:
        return "IPv6", str(ipaddress.IPv6Address(value))
    return "MAC" if len(value) == 6 else "Other", _mac(value)


def _identity(name: str, kinds: dict[int, str]) -> Callable[[bytes], Properties | None]:
    def read(value: bytes) -> Properties | None:
        if len(value) < 2 or value[0] not in kinds:
            return None
        kind, rest = kinds[value[0]], value[1:]
        if kind == "MAC":
            shown = _mac(rest)
        elif kind == "Network":
            kind, shown = _address(rest[0], rest[1:])
        else:
            shown = _text(rest)
        return {f"{name} subtype": kind, name: shown}

    return read


def _string(name: str) -> Callable[[bytes], Properties | None]:
    return lambda value: {name: _text(value)}


def _ttl(value: bytes) -> Properties | None:
    return {"time to live": str(int.from_bytes(value[:2], "big"))} if len(value) >= 2 else None


def _abilities(value: bytes) -> Properties | None:
    if len(value) != 4:
        return None
    able, on = int.from_bytes(value[:2], "big"), int.from_bytes(value[2:], "big")

    def words(bits: int) -> str:
        return ", ".join(word for bit, word in enumerate(_ABLE) if bits >> bit & 1)

    return {"system capabilities": words(able), "enabled capabilities": words(on)}


def _management(value: bytes) -> Properties | None:
    length = value[0] if value else 0
    if length < 2 or len(value) < 1 + length + 6:
        return None
    kind, shown = _address(value[1], value[2 : 1 + length])
    rest = value[1 + length :]
    oid = rest[6 : 6 + rest[5]]
    return {
        "management address subtype": kind,
        "management address": shown,
        "interface numbering subtype": _NUMBERING.get(rest[0], "Unknown"),
        "interface numbering": str(int.from_bytes(rest[1:5], "big")),
        **({"object identifier": oid.hex()} if oid else {}),
    }


def _port_vlan(value: bytes) -> Properties | None:
    return {"Port VLAN ID": str(int.from_bytes(value[:2], "big"))} if len(value) >= 2 else None


def _vlan_name(value: bytes) -> Properties | None:
    if len(value) < 3 or len(value) < 3 + value[2]:
        return None
    return {"VLAN ID": str(int.from_bytes(value[:2], "big")), "VLAN Name": _text(value[3 : 3 + value[2]])}


def _aggregation(value: bytes) -> Properties | None:
    if len(value) < 5:
        return None
    return {
        "Aggregation capable": str(bool(value[0] & 1)),
        "Currently aggregated": str(bool(value[0] & 2)),
        "Aggregated Port ID": str(int.from_bytes(value[1:5], "big")),
    }


def _mtu(value: bytes) -> Properties | None:
    return {"mtu": str(int.from_bytes(value[:2], "big"))} if len(value) >= 2 else None


_BASIC: dict[int, tuple[str, Callable[[bytes], Properties | None]]] = {
    1: ("Chassis ID", _identity("chassis ID", _CHASSIS)),
    2: ("Port ID", _identity("port ID", _PORT)),
    _TTL: ("Time to Live", _ttl),
    4: ("Port Description", _string("port description")),
    5: ("System Name", _string("system name")),
    6: ("System Description", _string("system description")),
    7: ("System Capabilities", _abilities),
    8: ("Management Address", _management),
}
_AGGREGATION = (_IEEE_8021, 7, "Link Aggregation", _aggregation)
#: {(oui, subtype): as what it is told}. Aggregation came with 802.3 first; engines know it as 802.1's.
_IEEE: dict[tuple[int, int], tuple[int, int, str, Callable[[bytes], Properties | None]]] = {
    (_IEEE_8021, 1): (_IEEE_8021, 1, "Port VLAN ID", _port_vlan),
    (_IEEE_8021, 3): (_IEEE_8021, 3, "VLAN Name", _vlan_name),
    (_IEEE_8021, 7): _AGGREGATION,
    (_IEEE_8023, 3): _AGGREGATION,
    (_IEEE_8023, 4): (_IEEE_8023, 4, "MTU", _mtu),
}
