# SPDX-License-Identifier: Apache-2.0
"""What a guest agent tells, as libvirt hands it on -> the keys of the statistics. Pure.

The guest is not trusted: texts are cut, lists have an end, and a key without a usable value is left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_TEXT = 256
_LIST = 256

Told = dict[str, Any]


def telling(info: Mapping[str, Any]) -> Told:
    """virDomainGetGuestInfo's flat dict -> statistics."""
    found: Told = {}
    found |= _users(info)
    found |= _system(info)
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
