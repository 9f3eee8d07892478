# SPDX-License-Identifier: Apache-2.0
"""What a guest agent tells, as libvirt hands it on -> the keys of the statistics. Pure.

The guest is not trusted: texts are cut, lists have an end, and a key without a usable value is left out.
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_TEXT = 256
_LIST = 256
#: An agent's answer may be long, but not without end.
_ANSWER = 4 << 20

Told = dict[str, Any]


class Abilities(msgspec.Struct, frozen=True):
    """What an agent is, and the commands that it would answer."""

    version: str = ""
    commands: frozenset[str] = frozenset()


def answer(text: Any) -> Any:
    """What an agent's reply holds; None when it makes no sense."""
    if not isinstance(text, str) or len(text) > _ANSWER:
        return None
    try:
        reply = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return reply.get("return") if isinstance(reply, dict) else None


def abilities(info: Any) -> Abilities:
    """Of guest-info. A command that is switched off is as good as none."""
    if not isinstance(info, Mapping):
        return Abilities()
    commands = (one for one in _mappings(info.get("supported_commands")) if one.get("enabled"))
    return Abilities(_text(info.get("version")), frozenset(_text(one.get("name")) for one in commands))


def processors(cpus: Any) -> Told:
    """Of guest-get-vcpus: how many the guest uses."""
    found = [one for one in _mappings(cpus) if one.get("online") is True]
    return {"guestCPUCount": len(found)} if found else {}


def pci_devices(devices: Any) -> Told:
    """Of guest-get-devices, in either of its forms; each kind of device once."""
    found: list[Told] = []
    for device in _mappings(devices):
        place: Any = device.get("id") or device.get("address")
        ids = place.get("data", place) if isinstance(place, Mapping) else None
        if not isinstance(ids, Mapping) or not all(isinstance(ids.get(key), int) for key in ("device-id", "vendor-id")):
            continue
        entry = {
            "device_id": ids["device-id"],
            "vendor_id": ids["vendor-id"],
            "driver_date": _date(device.get("driver-date")),
            "driver_name": _text(device.get("driver-name")),
            "driver_version": _text(device.get("driver-version")),
        }
        if entry not in found:
            found.append(entry)
    return {"pci_devices": found}


def _date(value: Any) -> str:
    """YYYY-MM-DD of such a text, or of nanoseconds since the epoch."""
    if isinstance(value, int) and 0 <= value < 1 << 62:
        return time.strftime("%Y-%m-%d", time.gmtime(value // 1_000_000_000))
    return _text(value)[:10]


def _mappings(values: Any) -> Iterator[Mapping[str, Any]]:
    for value in values[:_LIST] if isinstance(values, list) else ():
        if isinstance(value, Mapping):
            yield value


def telling(info: Mapping[str, Any], version: str = "") -> Told:
    """virDomainGetGuestInfo's flat dict -> statistics. version: of the agent, which is one of the guest's programs."""
    found: Told = {}
    found |= _users(info)
    found |= _system(info)
    if "appsList" in found and version:
        found["appsList"].append(f"qemu-guest-agent-{version}")
    hostname = _text(info.get("hostname"))
    if hostname:
        found |= {"guestName": hostname, "guestFQDN": hostname}
    zone = _text(info.get("timezone.name"))
    if zone and isinstance(info.get("timezone.offset"), int):
        # libvirt tells seconds, the engine counts minutes.
        found["guestTimezone"] = {"zone": zone, "offset": int(info["timezone.offset"]) // 60}
    if "fs.count" in info:
        found["disksUsage"] = [
            {
                "path": _text(fs.get("mountpoint")),
                "fs": _text(fs.get("fstype")),
                "total": str(_number(fs.get("total-bytes"))),
                "used": str(_number(fs.get("used-bytes"))),
            }
            for fs in _each(info, "fs")
        ]
    if "disk.count" in info:
        disks = [disk for disk in _each(info, "disk") if _text(disk.get("serial"))]
        found["diskMapping"] = {_text(disk["serial"]): {"name": _text(disk.get("name"))} for disk in disks}
    return found


def network(interfaces: Mapping[str, Any] | None) -> Told:
    """virDomainInterfaceAddresses of the agent -> netIfaces and guestIPs. Loopback is of no interest."""
    if interfaces is None:
        return {}
    found = []
    for name, interface in list(interfaces.items())[:_LIST]:
        addresses = [a for a in (interface.get("addrs") or ())[:_LIST] if isinstance(a.get("addr"), str)]
        if name == "lo":
            continue
        found.append(
            {
                "name": _text(name),
                "hw": _text(interface.get("hwaddr")),
                "inet": [_text(a["addr"]) for a in addresses if a.get("type") == 0],
                "inet6": [_text(a["addr"]) for a in addresses if a.get("type") == 1],
            }
        )
    return {"netIfaces": found, "guestIPs": " ".join(address for one in found for address in one["inet"])}


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> Told:
    """What was told before stays until it is told anew."""
    return {**old, **new}


def _users(info: Mapping[str, Any]) -> Told:
    if "user.count" not in info:
        return {}
    names = []
    for user in _each(info, "user"):
        domain = _text(user.get("domain"))
        names.append(_text(user.get("name")) + (f"@{domain}" if domain else ""))
    return {"username": ", ".join(names), "session": "Active" if names else "LoggedOff"}


def _system(info: Mapping[str, Any]) -> Told:
    release, machine = _text(info.get("os.kernel-release")), _text(info.get("os.machine"))
    if not release and not _text(info.get("os.id")):
        return {}
    windows = _text(info.get("os.id")) == "mswindows"
    system = {
        "type": "windows" if windows else "linux",
        "arch": machine,
        "kernel": "" if windows else release,
        "distribution": "" if windows else _text(info.get("os.name")),
        "version": _text(info.get("os.version-id")) or _text(info.get("os.version")),
        "codename": _text(info.get("os.pretty-name")) if windows else _text(info.get("os.variant")),
    }
    found: Told = {"guestOs": _text(info.get("os.pretty-name")) if windows else release, "guestOsInfo": system}
    if not windows:
        found["appsList"] = [f"kernel-{release}"]
    return found


def _each(info: Mapping[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    """Entries of a flat list: {"user.0.name": …} -> {"name": …}."""
    for number in range(min(_number(info.get(f"{kind}.count")), _LIST)):
        prefix = f"{kind}.{number}."
        yield {key.removeprefix(prefix): value for key, value in info.items() if key.startswith(prefix)}


def _text(value: Any) -> str:
    return value[:_TEXT] if isinstance(value, str) else ""


def _number(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
