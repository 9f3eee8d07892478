# SPDX-License-Identifier: Apache-2.0
"""Steps of a plan, and root's operations as this room asks for them."""

from collections.abc import Mapping
from typing import Any

import msgspec

from vdsm_mp.network.options import options_text
from vdsm_mp.network.state import Route, Source
from vdsm_mp.network.wanted import Bond, Network

#: Name and parameters, as in root's table.
Operation = tuple[str, dict[str, Any]]


class Step(msgspec.Struct, frozen=True):
    """do: operation and parameters of root. undo: operations that bring back what was before, in order."""

    do: Operation
    undo: tuple[Operation, ...] = ()


def family_of(address: str) -> str:
    return "6" if ":" in address else "4"


def client_options(net: Network, *, six: bool) -> dict[str, Any]:
    """How root is asked for a DHCP client. Two clients that both tell of nameservers would take each other's away."""
    dns = net.default_route and not net.nameservers and not (six and net.dhcp4)
    return {"name": net.top, "six": six, "dns": dns, **({} if six else {"routes": net.default_route})}


def bond_create(bond: Bond) -> Operation:
    given: dict[str, Any] = {"name": bond.name}
    if bond.options:
        given["options"] = options_text(bond.options)
    if bond.mac:
        given["mac"] = bond.mac
    return ("bond-create", given)


def bond_set(name: str, mode: str, options: Mapping[str, str]) -> Operation:
    return ("bond-set", {"name": name, "options": options_text({"mode": mode, **options})})


def source_set(address: str, source: Source) -> Operation:
    return ("source-route-set", {"name": source.device, "address": address, "gateway": source.gateway})


def route_restore(device: str, route: Route) -> Operation:
    given: dict[str, Any] = {"name": device, "destination": route.destination, "protocol": route.protocol}
    more = {"gateway": route.gateway, "source": route.source, "metric": route.metric, "onlink": route.onlink}
    return ("route-restore", given | {key: value for key, value in {**more, "six": route.six}.items() if value})


def shape_set(nic: str, tag: int | None, curves: str) -> Operation:
    return ("shape-set", {"nic": nic, "curves": curves, **({} if tag is None else {"tag": tag})})


def shape_remove(nic: str, tag: int | None) -> Operation:
    return ("shape-remove", {"nic": nic, **({} if tag is None else {"tag": tag})})
