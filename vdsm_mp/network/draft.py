# SPDX-License-Identifier: Apache-2.0
"""The state as it will be after the steps so far, and the steps, each with what undoes it. Pure.

Every method leaves the draft as the kernel will be, so that later steps see what earlier ones did.
"""

from collections.abc import Mapping

from msgspec.structs import replace

from vdsm_mp.network.addressing import Addressing
from vdsm_mp.network.options import SWITCHED_OFF, as_shown, bond_as_shown, bond_before, bridge_text
from vdsm_mp.network.shaping import same, text_of
from vdsm_mp.network.state import Link, State
from vdsm_mp.network.steps import Operation, bond_create, bond_set, family_of, shape_remove, shape_set, source_set
from vdsm_mp.network.wanted import IPV6_MTU, Bond, Config

#: How a device that the kernel has just made treats IPv6.
_NEW_IPV6 = "auto"


class Draft(Addressing):
    """See the module. old: what the networks were made of, to make devices of ours again as they were."""

    def __init__(self, state: State, old: Config) -> None:
        super().__init__(state)
        self._old = old
        self._has_ipv6 = bool(state.ipv6)
        self._nameservers = state.nameservers
        #: {(NIC, VLAN): curves of ours, or what others made of them}
        self._shaped: dict[tuple[str, int | None], str] = {}
        for net in old.networks.values():
            if net.curves and (found := state.curves(net.base, net.vlan)):
                self._shaped[net.base, net.vlan] = net.curves if same(net.curves, found) else text_of(found)

    def ports(self, master: str) -> list[str]:
        return sorted(link.name for link in self.links.values() if link.master == master)

    # Devices

    def create(self, link: Link, do: Operation) -> None:
        self._step(do, ("link-remove", {"name": link.name}))
        self.links[link.name] = link
        if self._has_ipv6 and link.mtu >= IPV6_MTU:
            self._ipv6[link.name] = _NEW_IPV6

    def remove(self, name: str) -> None:
        """Ports must be gone. What undoes it makes the device again with all it had."""
        link = self.links[name]
        if link.master:
            self.detach(name)
            link = self.links[name]
        for nic, tag in list(self._shaped):
            if nic == name:
                self.unshape(nic, tag)
        self.set_addresses(name, (), {})
        undo = [*self._recreate(link), ("mtu-set", {"name": name, "mtu": link.mtu})]
        mode = self._ipv6.pop(name, _NEW_IPV6)
        if mode != _NEW_IPV6:
            undo.append(("ipv6-set", {"name": name, "mode": mode}))
        if link.up:
            undo += [("link-up", {"name": name}), *self.routes_back(name, six=True)]
        self._step(("link-remove", {"name": name}), *undo)
        del self.links[name]
        self._routes.pop(name, None)

    def _recreate(self, link: Link) -> list[Operation]:
        """Bonds of ours come back with the options that once made them."""
        if link.kind == "bridge":
            net = self._old.networks.get(link.name)
            made: Operation = ("bridge-create", {"name": link.name, "stp": bool(link.options.get("stp_state"))})
            if net is None or not net.bridge_options:
                return [made]
            return [made, ("bridge-set", {"name": link.name, "options": bridge_text(net.bridge_options)})]
        if link.kind == "vlan":
            return [("vlan-create", {"name": link.name, "nic": link.base, "tag": link.tag})]
        ours = self._old.bonds.get(link.name)
        return [bond_create(ours if ours is not None else Bond(name=link.name, nics=(), options=link.bond_options))]

    def attach(self, port: str, master: str) -> None:
        self._step(("port-attach", {"port": port, "to": master}), ("port-detach", {"port": port}))
        self.links[port] = replace(self.links[port], master=master)

    def detach(self, port: str) -> None:
        link = self.links[port]
        undo: list[Operation] = []
        if link.master and link.master in self.links:
            if self.links[link.master].kind == "bond":
                undo.append(("link-down", {"name": port}))
            undo.append(("port-attach", {"port": port, "to": link.master}))
            if link.up:
                undo.append(("link-up", {"name": port}))
        self._step(("port-detach", {"port": port}), *undo)
        # The kernel switches off what leaves a bond.
        off = link.master in self.links and self.links[link.master].kind == "bond"
        self.links[port] = replace(link, master="", up=link.up and not off)

    def switch(self, name: str, *, up: bool) -> None:
        link = self.links[name]
        if link.up == up:
            return
        word, back = ("link-up", "link-down") if up else ("link-down", "link-up")
        routes = [] if up else [*self.routes_back(name, six=False), *self.routes_back(name, six=True)]
        self._step((word, {"name": name}), (back, {"name": name}), *routes)
        self.links[name] = replace(link, up=up)
        if not up:
            self._routes.pop(name, None)

    def mtu(self, name: str, mtu: int) -> None:
        link = self.links[name]
        if link.mtu == mtu:
            return
        undo: list[Operation] = [("mtu-set", {"name": name, "mtu": link.mtu}), *self._resized(name, mtu)]
        for above in list(self.links.values()):
            # The kernel takes VLAN devices down with their base, and does not bring them up again.
            if above.base == name and above.mtu > mtu:
                undo += [("mtu-set", {"name": above.name, "mtu": above.mtu}), *self._resized(above.name, mtu)]
        self._step(("mtu-set", {"name": name, "mtu": mtu}), *undo)

    def _resized(self, name: str, mtu: int) -> list[Operation]:
        """What brings IPv6 back: the kernel drops all of it on a device that is too small, and forgets how it was."""
        mode, link = self._ipv6.get(name), replace(self.links[name], mtu=mtu)
        self.links[name] = link
        if mtu >= IPV6_MTU and mode is None and self._has_ipv6:
            self._ipv6[name] = _NEW_IPV6
        if mtu >= IPV6_MTU or mode is None:
            return []
        del self._ipv6[name]
        lost = tuple(address for address in link.addresses if family_of(address) == "6")
        gateway = self._gateways.get(name, {}).pop("6", "")
        self.links[name] = replace(link, addresses=tuple(a for a in link.addresses if a not in lost))
        back: list[Operation] = [("ipv6-set", {"name": name, "mode": mode})] if mode != _NEW_IPV6 else []
        back += [("address-add", {"name": name, "address": address}) for address in lost]
        routes = self.routes_back(name, six=True)
        if gateway and not self._ranked(name, gateway):
            routes.append(self.route_back(name, gateway))
        self._routes[name] = tuple(route for route in self._routes.get(name, ()) if not route.six)
        return back + routes

    def stp(self, name: str, enabled: bool) -> None:
        link = self.links[name]
        if bool(link.options.get("stp_state")) == enabled:
            return
        undo: Operation = ("stp-set", {"name": name, "enabled": not enabled})
        self._step(("stp-set", {"name": name, "enabled": enabled}), undo)
        self.links[name] = replace(link, options={**link.options, "stp_state": int(enabled)})

    def bridge_options(self, name: str, wanted: Mapping[str, str]) -> None:
        """wanted: {option of ours: value}; what it does not name stays as it is."""
        shown = self.links[name].bridge_options
        different = {key: value for key, value in wanted.items() if shown.get(key) != value}
        if not different:
            return
        undo: list[Operation] = []
        if back := {key: shown[key] for key in different if key in shown}:
            undo.append(("bridge-set", {"name": name, "options": bridge_text(back)}))
        self._step(("bridge-set", {"name": name, "options": bridge_text(different)}), *undo)
        self.links[name] = replace(self.links[name], options={**self.links[name].options, **as_shown(different)})

    def bond_options(self, name: str, mode: str, change: Mapping[str, str]) -> None:
        """change: see options.in_place. A bond that has to be switched off for that gets back what it loses by it."""
        link = self.links[name]
        off = link.up and bool(change.keys() & SWITCHED_OFF.keys())
        lost = self._lost_when_off(name) if off else []
        before = bond_before(link.options, change)
        if off:
            self._step(("link-down", {"name": name}), ("link-up", {"name": name}), *lost)
        undo: list[Operation] = [bond_set(name, mode, before)] if before else []
        self._step(bond_set(name, mode, change), *undo)
        if off:
            self._step(("link-up", {"name": name}), ("link-down", {"name": name}))
            for operation in lost:
                self._step(operation)
        self.links[name] = replace(link, options={**link.options, **bond_as_shown(change)})

    def _lost_when_off(self, name: str) -> list[Operation]:
        """What brings back routes and IPv6 addresses of a device and of the VLAN devices on it."""
        found: list[Operation] = []
        for link in [self.links[name], *(link for link in self.links.values() if link.base == name)]:
            if link.name != name and link.up:
                found.append(("link-up", {"name": link.name}))
            for address in link.addresses:
                if family_of(address) == "6" and "6" not in link.dynamic:
                    found.append(("address-add", {"name": link.name, "address": address}))
            found += [*self.routes_back(link.name, six=False), *self.routes_back(link.name, six=True)]
            plain = [g for g in self.gateways_of(link.name).values() if not self._ranked(link.name, g)]
            found += [self.route_back(link.name, gateway) for gateway in plain]
            found += [source_set(a, source) for a, source in self._sources.items() if source.device == link.name]
        return found

    # The host's own

    def nameservers(self, servers: tuple[str, ...]) -> None:
        if servers and servers != self._nameservers:
            undo: Operation = ("nameservers-set", {"servers": ",".join(self._nameservers)})
            self._step(("nameservers-set", {"servers": ",".join(servers)}), undo)
            self._nameservers = servers

    def shape(self, nic: str, tag: int | None, curves: str) -> None:
        before = self._shaped.get((nic, tag))
        if before == curves:
            return
        undo = shape_set(nic, tag, before) if before else shape_remove(nic, tag)
        self._step(shape_set(nic, tag, curves), undo)
        self._shaped[nic, tag] = curves

    def unshape(self, nic: str, tag: int | None) -> None:
        if before := self._shaped.pop((nic, tag), ""):
            self._step(shape_remove(nic, tag), shape_set(nic, tag, before))
