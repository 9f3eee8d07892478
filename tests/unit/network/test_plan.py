# SPDX-License-Identifier: Apache-2.0
"""From a state and a wish to steps; every plan is played on a model of the kernel, forwards and backwards."""

from dataclasses import replace
from typing import Any

import pytest

from vdsm_mp.api.errors_network import (
    BadAddress,
    BadBond,
    BadBridge,
    BadNetworkParameters,
    BadNic,
    BadVlan,
    UsedBond,
    UsedNic,
)
from vdsm_mp.network.plan import Operation, Step, plan
from vdsm_mp.network.state import Link, State
from vdsm_mp.network.wanted import Config, changed


class Kernel:
    """What the helper's operations do to links, as far as plans depend on it; refuses what the kernel refuses."""

    def __init__(self, *links: Link, gateways: dict[str, dict[str, str]] | None = None) -> None:
        self.links = {link.name: link for link in links}
        self.dhcp: set[str] = set()
        self.gateways = {device: dict(found) for device, found in (gateways or {}).items()}

    def state(self) -> State:
        return State(dict(self.links), {d: dict(g) for d, g in self.gateways.items()})

    def dhcp_start(self, name: str, routes: bool = False, wait: bool = False) -> None:
        assert self.links[name].up
        self.dhcp.add(name)

    def dhcp_stop(self, name: str) -> None:
        self.dhcp.discard(name)

    def seen(self) -> tuple[Any, ...]:
        """What counts as the same: without options, which a recreated device has by other names."""
        links = {
            n: replace(link, options={}, addresses=tuple(sorted(link.addresses))) for n, link in self.links.items()
        }
        return links, {d: g for d, g in self.gateways.items() if g}, set(self.dhcp)

    def do(self, operation: Operation) -> None:
        name, p = operation
        getattr(self, name.replace("-", "_"))(**p)

    def _change(self, link: str, **what: Any) -> None:
        self.links[link] = replace(self.links[link], **what)

    def bridge_create(self, name: str, stp: bool = False) -> None:
        assert name not in self.links
        self.links[name] = Link(name, kind="bridge")

    def bond_create(self, name: str, options: str = "") -> None:
        assert name not in self.links
        self.links[name] = Link(name, kind="bond")

    def vlan_create(self, name: str, nic: str, tag: int) -> None:
        assert name not in self.links and nic in self.links
        self.links[name] = Link(name, kind="vlan", base=nic, tag=tag, mtu=self.links[nic].mtu)

    def link_remove(self, name: str) -> None:
        assert self.links.pop(name).kind in ("bridge", "bond", "vlan")
        self.gateways.pop(name, None)
        assert not [link for link in self.links.values() if name in (link.master, link.base)]
        assert name not in self.dhcp, "a client would be left behind"

    def port_attach(self, port: str, to: str) -> None:
        assert self.links[to].kind in ("bridge", "bond")
        if self.links[to].kind == "bond":
            assert not self.links[port].up, "a device cannot enter a bond while it is up"
        self._change(port, master=to)

    def port_detach(self, port: str) -> None:
        self._change(port, master="")

    def link_up(self, name: str) -> None:
        self._change(name, up=True)

    def link_down(self, name: str) -> None:
        self._change(name, up=False)

    def mtu_set(self, name: str, mtu: int) -> None:
        if self.links[name].kind == "vlan":
            assert mtu <= self.links[self.links[name].base].mtu
        self._change(name, mtu=mtu)

    def stp_set(self, name: str, enabled: bool) -> None:
        assert self.links[name].kind == "bridge"

    def address_add(self, name: str, address: str) -> None:
        self._change(name, addresses=(*self.links[name].addresses, address))

    def address_remove(self, name: str, address: str) -> None:
        self._change(name, addresses=tuple(a for a in self.links[name].addresses if a != address))
        family = "6" if ":" in address else "4"
        self.gateways.get(name, {}).pop(family, None)

    def route_set(self, name: str, gateway: str) -> None:
        family = "6" if ":" in gateway else "4"
        for found in self.gateways.values():
            found.pop(family, None)
        self.gateways.setdefault(name, {})[family] = gateway

    def route_remove(self, name: str, gateway: str) -> None:
        self.gateways.get(name, {}).pop("6" if ":" in gateway else "4", None)


class Host:
    """A kernel and the networks that are ours; `set` checks after each change that it could have been undone."""

    def __init__(self, *links: Link, gateways: dict[str, dict[str, str]] | None = None) -> None:
        self.kernel = Kernel(*links, gateways=gateways)
        self.config = Config()

    def set(self, networks: dict[str, Any], bondings: dict[str, Any] | None = None) -> list[Step]:
        wanted = changed(self.config, networks, bondings or {})
        steps = plan(self.kernel.state(), self.config, wanted)
        before = self.kernel.seen()
        for done in range(len(steps) + 1):
            self._and_back(steps[:done], before)
        for step in steps:
            self.kernel.do(step.do)
        self.config = wanted
        return steps

    def _and_back(self, steps: list[Step], before: tuple[Any, ...]) -> None:
        trial = Kernel(*self.kernel.links.values(), gateways=self.kernel.gateways)
        trial.dhcp = set(self.kernel.dhcp)
        undo: list[Operation] = []
        for step in steps:
            undo = [*step.undo, *undo]
            trial.do(step.do)
        for operation in undo:
            trial.do(operation)
        assert trial.seen() == before


def nic(name: str = "eth0", **more: Any) -> Link:
    return Link(name, up=True, **more)


MANAGEMENT = {
    "nic": "eth0",
    "bridged": True,
    "ipaddr": "192.0.2.2",
    "netmask": "255.255.255.0",
    "gateway": "192.0.2.1",
    "defaultRoute": True,
}


def managed_host() -> Host:
    host = Host(nic(addresses=("192.0.2.2/24",)), nic("eth1"), nic("eth2"), gateways={"eth0": {"4": "192.0.2.1"}})
    host.set({"ovirtmgmt": MANAGEMENT})
    return host


def test_a_bridge_takes_its_nics_address_and_route() -> None:
    host = managed_host()
    bridge, port = host.kernel.links["ovirtmgmt"], host.kernel.links["eth0"]
    assert (bridge.addresses, bridge.up, port.master, port.addresses) == (("192.0.2.2/24",), True, "ovirtmgmt", ())
    assert host.kernel.gateways["ovirtmgmt"] == {"4": "192.0.2.1"}


def test_what_is_as_wanted_already_needs_no_step() -> None:
    assert managed_host().set({"ovirtmgmt": MANAGEMENT}) == []


def test_a_guest_stays_plugged_in_while_its_network_changes() -> None:
    host = managed_host()
    host.kernel.links["vnet0"] = Link("vnet0", kind="tun", master="ovirtmgmt", up=True)
    steps = host.set({"ovirtmgmt": {**MANAGEMENT, "nic": "eth1", "mtu": 9000}})
    assert ("link-remove", {"name": "ovirtmgmt"}) not in [step.do for step in steps]
    assert host.kernel.links["vnet0"].master == host.kernel.links["eth1"].master == "ovirtmgmt"
    assert host.kernel.links["eth0"].master == ""


def test_a_network_with_a_guest_is_not_removed() -> None:
    host = managed_host()
    host.kernel.links["vnet0"] = Link("vnet0", kind="tun", master="ovirtmgmt", up=True)
    with pytest.raises(UsedNic, match="vnet0"):
        host.set({"ovirtmgmt": {"remove": True}})


def test_a_removed_network_leaves_nothing() -> None:
    host = managed_host()
    host.set({"ovirtmgmt": {"remove": True}})
    assert "ovirtmgmt" not in host.kernel.links
    assert host.kernel.links["eth0"].master == ""


def test_vlans_share_a_nic_and_go_with_their_last_network() -> None:
    host = managed_host()
    host.set({"red": {"nic": "eth1", "vlan": 10, "mtu": 1500}, "blue": {"nic": "eth1", "vlan": "20", "mtu": "9000"}})
    assert host.kernel.links["eth1.10"].master == "red"
    assert host.kernel.links["eth1"].mtu == 9000
    assert host.kernel.links["eth1.10"].mtu == 1500
    host.set({"red": {"remove": True}})
    assert "eth1.10" not in host.kernel.links
    assert "eth1.20" in host.kernel.links


def test_a_bond_is_made_under_a_network_and_removed_with_it() -> None:
    host = managed_host()
    bond = {"nics": ["eth1", "eth2"], "options": "mode=1 miimon=100"}
    host.set(
        {"storage": {"bonding": "bond0", "bridged": False, "ipaddr": "10.0.0.1", "netmask": "24"}}, {"bond0": bond}
    )
    assert [host.kernel.links[name].master for name in ("eth1", "eth2")] == ["bond0", "bond0"]
    assert host.kernel.links["bond0"].addresses == ("10.0.0.1/24",)
    host.set({}, {"bond0": {"nics": ["eth1"], "options": "mode=1 miimon=100"}})
    assert host.kernel.links["eth2"].master == ""
    host.set({}, {"bond0": {"nics": ["eth1"], "options": "mode=4"}})
    assert host.kernel.links["eth1"].master == "bond0"
    assert host.kernel.links["bond0"].addresses == ("10.0.0.1/24",)
    host.set({"storage": {"remove": True}}, {"bond0": {"remove": True}})
    assert "bond0" not in host.kernel.links


def test_a_bond_in_new_mode_takes_its_vlans_along() -> None:
    host = managed_host()
    host.set({"red": {"bonding": "bond0", "vlan": 5}}, {"bond0": {"nics": ["eth1"], "options": "mode=1"}})
    host.set({}, {"bond0": {"nics": ["eth1"], "options": "mode=4"}})
    assert host.kernel.links["bond0.5"].master == "red"


def test_a_nic_moves_from_a_network_into_a_bond() -> None:
    host = managed_host()
    host.set({"red": {"nic": "eth1"}})
    host.set({"red": {"bonding": "bond0"}}, {"bond0": {"nics": ["eth1", "eth2"]}})
    assert host.kernel.links["eth1"].master == "bond0"
    assert host.kernel.links["bond0"].master == "red"


def test_a_bridge_becomes_plain_and_back() -> None:
    host = managed_host()
    plain = {"nic": "eth1", "bridged": False, "ipaddr": "10.0.0.1", "netmask": "255.255.255.0"}
    host.set({"red": {**plain, "bridged": True}})
    host.set({"red": plain})
    assert "red" not in host.kernel.links
    assert host.kernel.links["eth1"].addresses == ("10.0.0.1/24",)
    host.set({"red": {**plain, "bridged": True}})
    assert host.kernel.links["red"].addresses == ("10.0.0.1/24",)


def test_an_address_changes_on_its_own() -> None:
    host = managed_host()
    steps = host.set({"ovirtmgmt": {**MANAGEMENT, "ipaddr": "192.0.2.9", "ipv6addr": "2001:db8::9/64"}})
    assert {step.do[0] for step in steps} <= {"address-add", "address-remove", "route-set"}
    assert set(host.kernel.links["ovirtmgmt"].addresses) == {"192.0.2.9/24", "2001:db8::9/64"}
    assert host.kernel.gateways["ovirtmgmt"] == {"4": "192.0.2.1"}


def test_a_dhcp_client_goes_with_its_device_and_its_address_is_left_to_it() -> None:
    host = managed_host()
    dhcp = {"nic": "eth0", "bootproto": "dhcp", "defaultRoute": True}
    host.set({"ovirtmgmt": dhcp})
    assert host.kernel.dhcp == {"ovirtmgmt"}
    assert host.kernel.links["ovirtmgmt"].addresses == ()
    host.kernel.address_add("ovirtmgmt", "192.0.2.77/24")
    assert host.set({"ovirtmgmt": {**dhcp, "mtu": 1500}}) == []
    host.set({"ovirtmgmt": {**dhcp, "nic": "eth1"}})
    assert host.kernel.dhcp == {"ovirtmgmt"}
    host.set({"ovirtmgmt": MANAGEMENT})
    assert host.kernel.dhcp == set()
    assert host.kernel.links["ovirtmgmt"].addresses == ("192.0.2.2/24",)
    host.set({"ovirtmgmt": dhcp})
    host.set({"ovirtmgmt": {"remove": True}})
    assert host.kernel.dhcp == set()


@pytest.mark.parametrize(
    ("networks", "bonds", "error"),
    [
        ({"red": {"nic": "nope"}}, {}, BadNic),
        ({"red": {"nic": "lo"}}, {}, BadNic),
        ({"red": {"nic": "eth0"}}, {}, UsedNic),
        ({"red": {"nic": "eth1"}, "blue": {"nic": "eth1"}}, {}, UsedNic),
        ({"red": {"nic": "eth1", "vlan": 4}, "blue": {"nic": "eth1", "vlan": 4}}, {}, BadVlan),
        ({"red": {"nic": "eth1", "vlan": 4095}}, {}, BadVlan),
        ({"red": {"nic": "eth1", "vlan": "x"}}, {}, BadVlan),
        ({"red": {"nic": "eth1", "ipaddr": "1.2.3.4"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "ipaddr": "1.2.3.400", "netmask": "24"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "ipv6addr": "1.2.3.4/24"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "gateway": "::1"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "bootproto": "dhcp", "ipaddr": "10.0.0.1", "netmask": "24"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "dhcpv6": True}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "mtu": 10}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "bonding": "bond0"}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "colour": "red"}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "switch": "ovs"}}, {}, BadNetworkParameters),
        ({"red": {"bridged": False}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "defaultRoute": True, "gateway": "10.0.0.1"}}, {}, BadNetworkParameters),
        ({"red": {"remove": True, "nic": "eth1"}}, {}, BadNetworkParameters),
        ({"red": None}, {}, BadNetworkParameters),
        ({"red": {"remove": True}}, {}, BadBridge),
        ({"a name": {"nic": "eth1"}}, {}, BadBridge),
        ({"a-name-far-too-long": {"nic": "eth1"}}, {}, BadBridge),
        ({"../x": {"nic": "eth1"}}, {}, BadBridge),
        ({"red\n": {"nic": "eth1"}}, {}, BadBridge),
        ({"eth2": {"nic": "eth1"}}, {}, BadBridge),
        ({}, {"bond0": {"nics": []}}, BadBond),
        ({}, {"bond0": {"nics": "eth1"}}, BadBond),
        ({}, {"bond0": {"nics": ["eth1"], "options": "mode"}}, BadBond),
        ({}, {"bond0": {"remove": True}}, BadBond),
        ({}, {"bond0": {"nics": ["nope"]}}, BadNic),
        ({}, {"bond0": {"nics": ["eth1"]}, "bond1": {"nics": ["eth1"]}}, UsedNic),
        ({"red": {"nic": "eth1"}}, {"bond0": {"nics": ["eth1"]}}, UsedNic),
    ],
)
def test_a_bad_wish_is_refused_before_anything_changes(
    networks: dict[str, Any], bonds: dict[str, Any], error: type[Exception]
) -> None:
    host = managed_host()
    before = host.kernel.seen()
    with pytest.raises(error):
        host.set(networks, bonds)
    assert host.kernel.seen() == before


def test_a_bond_is_not_removed_under_a_network() -> None:
    host = managed_host()
    host.set({"red": {"bonding": "bond0"}}, {"bond0": {"nics": ["eth1"]}})
    with pytest.raises(UsedBond):
        host.set({}, {"bond0": {"remove": True}})
