# SPDX-License-Identifier: Apache-2.0
"""What devices are called at: addresses, default routes, rules for replies, IPv6 and DHCP clients. Pure.

The lower half of a draft (`network/draft.py`), and like it: every method leaves it as the kernel will be.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from vdsm_mp.network.state import Link, Route, Source, State
from vdsm_mp.network.steps import Operation, Step, client_options, family_of, route_restore, source_set
from vdsm_mp.network.wanted import Network

#: Seconds that an address lives which somebody else looks after and which we had to give back: they renew it by then.
_BORROWED_S = 3600


class Addressing:
    """links: {name: device} as it will be after `steps`."""

    def __init__(self, state: State) -> None:
        self.links = dict(state.links)
        self.steps: list[Step] = []
        #: {device: {family: gateway of its default route}}
        self._gateways = {device: dict(found) for device, found in state.gateways.items()}
        #: {device: routes of others that are neither the kernel's nor plain default routes}
        self._routes = dict(state.routes)
        #: {address: where what comes to it is answered}
        self._sources = dict(state.sources)
        #: {device: how it treats IPv6}; none on a kernel without IPv6.
        self._ipv6 = dict(state.ipv6)

    def _step(self, do: Operation, *undo: Operation) -> None:
        self.steps.append(Step(do, undo))

    def gateways_of(self, device: str) -> dict[str, str]:
        return dict(self._gateways.get(device, {}))

    def source_of(self, device: str, addresses: Iterable[str]) -> str:
        """The gateway through which what came to one of them is answered; "" when there is no such rule."""
        found = (self._sources.get(address) for address in addresses)
        return next((source.gateway for source in found if source is not None and source.device == device), "")

    def ipv6(self, name: str, mode: str) -> None:
        """mode: see details.py. Nothing on a kernel without IPv6."""
        before = self._ipv6.get(name)
        if before is None or before == mode:
            return
        self._step(("ipv6-set", {"name": name, "mode": mode}), ("ipv6-set", {"name": name, "mode": before}))
        self._ipv6[name] = mode

    def dhcp(self, net: Network, *, six: bool, start: bool) -> None:
        wait = {"wait": True} if start and net.dhcp_wait else {}
        begin: Operation = ("dhcp-start", {**client_options(net, six=six), **wait})
        end: Operation = ("dhcp-stop", {"name": net.top, "six": six})
        if start:
            # A client that is stopped may take along all that its device is called, not only what it brought.
            self._step(begin, end, *([] if six else self._called_before(net.top)))
        else:
            if not six:
                self._set_source(net.top, "", "")
            # Undoing does not wait: a server that is silent now must not stop it.
            self._step(end, begin)
            if not six and net.top in self.links:
                # With the lease its address goes, and the way out through it. (Those of IPv6 are routers' as well.)
                link = self.links[net.top]
                self.links[net.top] = replace(link, addresses=tuple(a for a in link.addresses if family_of(a) == "6"))
                self._gateways.get(net.top, {}).pop("4", None)
                self._routes[net.top] = tuple(route for route in self._routes.get(net.top, ()) if route.six)

    def _called_before(self, device: str) -> list[Operation]:
        """What gives a device again the IPv4 addresses that others gave it, and its routes."""
        link = self.links[device]
        back = [_address_add(link, address) for address in link.addresses if family_of(address) == "4"]
        gateway = self._gateways.get(device, {}).get("4", "")
        if back and gateway and not self._ranked(device, gateway):
            back.append(self.route_back(device, gateway))
        return [*back, *self.routes_back(device, six=False)] if back else []

    def set_addresses(
        self, name: str, wanted: tuple[str, ...], gateways: Mapping[str, str], source: str = "", ours: bool = True
    ) -> None:
        """Exactly these, and the default routes through them.

        Removing the last IPv4 address takes its routes along; any other leaves them.

        source: the gateway of the first IPv4 address, by which what came to it is answered. ours: default routes that
        `gateways` does not name are removed, too.
        """
        link, routes = self.links[name], self.gateways_of(name)
        lost = tuple(address for address in link.addresses if address not in wanted)
        for family in sorted(set(map(family_of, lost)) & routes.keys()):
            if family == "6" or "4" in map(family_of, set(link.addresses) - set(lost)):
                self._remove_route(name, routes.pop(family))
        back = self._routes_that_go(name, lost, routes)
        for address in lost:
            # Undone last, when all addresses of the family are back.
            self._lose(link, address, back.pop(family_of(address), []))
        for address in wanted:
            if address not in link.addresses:
                self._step(
                    ("address-add", {"name": name, "address": address}),
                    ("address-remove", {"name": name, "address": address}),
                )
        kept = {family: gateway for family, gateway in routes.items() if family not in map(family_of, lost)}
        for family, gateway in list(kept.items()):
            if ours and family not in gateways:
                self._remove_route(name, gateway)
                del kept[family]
        for family, gateway in gateways.items():
            if kept.get(family) != gateway:
                self._route(name, gateway, kept.get(family))
                kept[family] = gateway
        self.links[name] = replace(link, addresses=wanted)
        self._gateways[name] = kept
        self._set_source(name, next((a for a in wanted if family_of(a) == "4"), "") if source else "", source)

    def route_back(self, device: str, gateway: str) -> Operation:
        """What makes a default route again as it is."""
        route = self._ranked(device, gateway)
        return route_restore(device, route) if route else ("route-set", {"name": device, "gateway": gateway})

    def routes_back(self, device: str, *, six: bool) -> list[Operation]:
        """What makes the routes of others again, those that later ones need first."""
        found = [route for route in self._routes.get(device, ()) if route.six == six]
        found.sort(key=lambda route: (bool(route.gateway), route.destination == "default"))
        return [route_restore(device, route) for route in found]

    def _ranked(self, device: str, gateway: str) -> Route | None:
        """The default route through this gateway when it is no plain one: it does not give way to a plain one."""
        routes = self._routes.get(device, ())
        return next((r for r in routes if r.destination == "default" and r.gateway == gateway), None)

    def _remove_route(self, device: str, gateway: str) -> None:
        self._step(("route-remove", {"name": device, "gateway": gateway}), self.route_back(device, gateway))
        gone = self._ranked(device, gateway)
        self._routes[device] = tuple(route for route in self._routes.get(device, ()) if route != gone)

    def _routes_that_go(
        self, device: str, lost: Iterable[str], gateways: Mapping[str, str]
    ) -> dict[str, list[Operation]]:
        """{family: what brings back routes that go with these addresses}; those of IPv6 go only when it is off."""
        back: dict[str, list[Operation]] = {}
        for family in {family_of(address) for address in lost}:
            back[family] = self.routes_back(device, six=family == "6")
            gateway = gateways.get(family, "")
            if gateway and not self._ranked(device, gateway):
                back[family].append(self.route_back(device, gateway))
            self._routes[device] = tuple(r for r in self._routes.get(device, ()) if r.six != (family == "6"))
        return back

    def _lose(self, link: Link, address: str, back: Iterable[Operation]) -> None:
        self._drop_source(link.name, address)
        self._step(("address-remove", {"name": link.name, "address": address}), _address_add(link, address), *back)

    def _set_source(self, name: str, address: str, gateway: str) -> None:
        for other, source in list(self._sources.items()):
            if source.device == name and other != address:
                self._drop_source(name, other)
        if not address or self._sources.get(address) == Source(name, gateway):
            return
        undo: list[Operation] = [("source-route-remove", {"name": name, "address": address})]
        if (before := self._sources.get(address)) is not None:
            undo.append(source_set(address, before))
        self._step(source_set(address, Source(name, gateway)), *undo)
        self._sources[address] = Source(name, gateway)

    def _drop_source(self, name: str, address: str) -> None:
        source = self._sources.get(address)
        if source is None or source.device != name:
            return
        self._step(("source-route-remove", {"name": name, "address": address}), source_set(address, source))
        del self._sources[address]

    def _route(self, name: str, gateway: str, before: str | None) -> None:
        family = family_of(gateway)
        if before and self._ranked(name, before):
            self._remove_route(name, before)
            before = None
        undo: list[Operation] = [("route-remove", {"name": name, "gateway": gateway})]
        if before:
            undo = [("route-set", {"name": name, "gateway": before})]
        else:
            for device, found in self._gateways.items():
                # `route-set` replaces the plain default route wherever it points to.
                if device != name and found.get(family) and not self._ranked(device, found[family]):
                    undo = [("route-set", {"name": device, "gateway": found.pop(family)})]
                    break
        self._step(("route-set", {"name": name, "gateway": gateway}), *undo)


def _address_add(link: Link, address: str) -> Operation:
    given: dict[str, Any] = {"name": link.name, "address": address}
    return ("address-add", given | ({"valid_s": _BORROWED_S} if family_of(address) in link.dynamic else {}))
