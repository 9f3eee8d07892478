# SPDX-License-Identifier: Apache-2.0
"""From a state and a wish to steps; every plan is played on a model of the kernel, forwards and backwards."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

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
from vdsm_mp.network.drift import drift
from vdsm_mp.network.options import bond_as_shown, in_place
from vdsm_mp.network.plan import Operation, Step, plan
from vdsm_mp.network.state import Link, Source, State
from vdsm_mp.network.wanted import Config, changed
from vdsm_mp.priv.linkoptions import bond_word, pairs
from vdsm_mp.priv.shape import class_number


class Kernel:
    """What the helper's operations do to links, as far as plans depend on it; refuses what the kernel refuses."""

    def __init__(self, *links: Link, gateways: dict[str, dict[str, str]] | None = None) -> None:
        self.links = {link.name: link for link in links}
        self.dhcp: set[str] = set()
        self.gateways = {device: dict(found) for device, found in (gateways or {}).items()}
        self.leases: dict[str, tuple[tuple[str, ...], str]] = {}
        self.sources: dict[str, Source] = {}
        self.ipv6 = dict.fromkeys(self.links, "auto")
        self.nameservers: tuple[str, ...] = ("192.0.2.53",)
        self.shaped: dict[str, dict[int | None, str]] = {}

    def state(self) -> State:
        gateways = {d: dict(g) for d, g in self.gateways.items()}
        shaped = {
            nic: {class_number(tag): dict(_curves(text)) for tag, text in found.items()}
            for nic, found in self.shaped.items()
        }
        return State(dict(self.links), gateways, dict(self.sources), dict(self.ipv6), self.nameservers, shaped)

    def twin(self) -> "Kernel":
        return copy.deepcopy(self)

    def dhcp_start(self, name: str, six: bool, routes: bool = False, wait: bool = False, dns: bool = False) -> None:
        assert self.links[name].up
        self.dhcp.add(name)
        # The server gives the same again to whom it knows.
        addresses, gateway = self.leases.pop(name, ((), ""))
        self._change(name, addresses=(*self.links[name].addresses, *addresses))
        if gateway:
            self.gateways.setdefault(name, {})["4"] = gateway

    def dhcp_stop(self, name: str, six: bool) -> None:
        if not six and name in self.dhcp:
            leased = tuple(a for a in self.links[name].addresses if ":" not in a)
            self.leases[name] = leased, self.gateways.get(name, {}).pop("4", "")
            self._change(name, addresses=tuple(a for a in self.links[name].addresses if a not in leased))
        self.dhcp.discard(name)

    def seen(self) -> tuple[Any, ...]:
        """What counts as the same: without options, which a recreated device has by other names."""
        links = {
            n: replace(link, options={}, addresses=tuple(sorted(link.addresses))) for n, link in self.links.items()
        }
        gateways = {d: dict(g) for d, g in self.gateways.items() if g}
        beside = dict(self.sources), dict(self.ipv6), self.nameservers, copy.deepcopy(self.shaped)
        return links, gateways, set(self.dhcp), *beside

    def do(self, operation: Operation) -> None:
        name, p = operation
        getattr(self, name.replace("-", "_"))(**p)

    def _change(self, link: str, **what: Any) -> None:
        self.links[link] = replace(self.links[link], **what)

    def bridge_create(self, name: str, stp: bool = False) -> None:
        assert name not in self.links
        self._made(Link(name, kind="bridge", options={"stp_state": int(stp)}))

    def _made(self, link: Link) -> None:
        self.links[link.name] = link
        if link.mtu >= 1280:
            self.ipv6[link.name] = "auto"

    def bridge_set(self, name: str, options: str) -> None:
        changed = {key: int(value) for key, value in pairs(options)}
        self._change(name, options={**self.links[name].options, **changed})

    def bond_create(self, name: str, options: str = "", mac: str = "") -> None:
        assert name not in self.links
        self._made(Link(name, kind="bond", options=bond_as_shown({"mode": "0", **dict(pairs(options))})))

    def bond_set(self, name: str, options: str) -> None:
        given = {key: bond_word(key, value) for key, value in pairs(options)}
        assert given.pop("mode") == bond_word("mode", str(self.links[name].options["mode"]))
        off = given.keys() & {"lacp_rate", "ad_select", "tlb_dynamic_lb"}
        assert not off or not self.links[name].up
        assert not given.keys() & {"fail_over_mac", "arp_interval", "arp_ip_target"}, "needs an empty bond"
        self._change(name, options={**self.links[name].options, **bond_as_shown(given)})

    def vlan_create(self, name: str, nic: str, tag: int) -> None:
        assert name not in self.links and nic in self.links
        self._made(Link(name, kind="vlan", base=nic, tag=tag, mtu=self.links[nic].mtu))

    def link_remove(self, name: str) -> None:
        assert self.links.pop(name).kind in ("bridge", "bond", "vlan")
        self.gateways.pop(name, None)
        assert not [link for link in self.links.values() if name in (link.master, link.base)]
        assert name not in self.dhcp, "a client would be left behind"
        assert name not in [source.device for source in self.sources.values()], "rules would be left behind"
        self.ipv6.pop(name, None)
        self.shaped.pop(name, None)

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
        for link in list(self.links.values()):
            if name in (link.name, link.base):
                self._change(link.name, up=False, addresses=tuple(a for a in link.addresses if ":" not in a))
                self.gateways.pop(link.name, None)
                self.sources = {a: source for a, source in self.sources.items() if source.device != link.name}

    def mtu_set(self, name: str, mtu: int) -> None:
        if self.links[name].kind == "vlan":
            assert mtu <= self.links[self.links[name].base].mtu
        self._resize(name, mtu)
        for link in list(self.links.values()):
            if link.base == name and link.mtu > mtu:
                self._resize(link.name, mtu)

    def _resize(self, name: str, mtu: int) -> None:
        self._change(name, mtu=mtu)
        if mtu < 1280:
            self.ipv6.pop(name, None)
            self._change(name, addresses=tuple(a for a in self.links[name].addresses if ":" not in a))
            self.gateways.get(name, {}).pop("6", None)
        elif name not in self.ipv6:
            self.ipv6[name] = "auto"

    def stp_set(self, name: str, enabled: bool) -> None:
        assert self.links[name].kind == "bridge"
        self._change(name, options={**self.links[name].options, "stp_state": int(enabled)})

    def ipv6_set(self, name: str, mode: str) -> None:
        assert name in self.ipv6, "the kernel has no IPv6 there"
        if mode == "off":
            assert not [address for address in self.links[name].addresses if ":" in address]
            self.gateways.get(name, {}).pop("6", None)
        self.ipv6[name] = "auto" if mode == "default" else mode

    def source_route_set(self, name: str, address: str, gateway: str) -> None:
        assert address in self.links[name].addresses
        self.sources[address] = Source(name, gateway)

    def source_route_remove(self, name: str, address: str) -> None:
        self.sources.pop(address, None)

    def nameservers_set(self, servers: str) -> None:
        self.nameservers = tuple(servers.split(","))

    def shape_set(self, nic: str, curves: str, tag: int | None = None) -> None:
        self.shaped.setdefault(nic, {})[tag] = curves

    def shape_remove(self, nic: str, tag: int | None = None) -> None:
        self.shaped[nic].pop(tag)
        if not self.shaped[nic]:
            del self.shaped[nic]

    def address_add(self, name: str, address: str, valid_s: int = 0) -> None:
        if address in self.links[name].addresses:
            return
        if ":" in address:
            assert self.ipv6[name] != "off"
        self._change(name, addresses=(*self.links[name].addresses, address))

    def address_remove(self, name: str, address: str) -> None:
        self._change(name, addresses=tuple(a for a in self.links[name].addresses if a != address))
        if not [a for a in self.links[name].addresses if ":" not in a]:
            self.gateways.get(name, {}).pop("4", None)

    def route_set(self, name: str, gateway: str) -> None:
        family = "6" if ":" in gateway else "4"
        for found in self.gateways.values():
            found.pop(family, None)
        self.gateways.setdefault(name, {})[family] = gateway

    def route_remove(self, name: str, gateway: str) -> None:
        self.gateways.get(name, {}).pop("6" if ":" in gateway else "4", None)


def _curves(text: str) -> Iterator[tuple[str, tuple[int, int, int]]]:
    for curve in text.split(","):
        name, _, numbers = curve.partition("=")
        first, after_us, then = map(int, numbers.split(":"))
        yield name, (first, after_us, then)


class Host:
    """A kernel and the networks that are ours; `set` checks after each change that it could have been undone."""

    def __init__(self, *links: Link, gateways: dict[str, dict[str, str]] | None = None) -> None:
        self.kernel = Kernel(*links, gateways=gateways)
        self.config = Config()

    def set(self, networks: dict[str, Any], bondings: dict[str, Any] | None = None) -> list[Step]:
        wanted = changed(self.config, networks, bondings or {})
        steps = plan(self.kernel.state(), self.config, wanted, {*networks, *(bondings or {})})
        before = self.kernel.seen()
        for done in range(len(steps) + 1):
            self._and_back(steps[:done], before)
        for step in steps:
            self.kernel.do(step.do)
        self.config = wanted
        return steps

    def _and_back(self, steps: list[Step], before: tuple[Any, ...]) -> None:
        trial = self.kernel.twin()
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


def test_a_bond_keeps_its_ports_while_its_options_change() -> None:
    host = managed_host()
    lacp = {"nics": ["eth1", "eth2"], "options": "mode=4 miimon=100"}
    plain = {"bonding": "bond0", "bridged": False, "ipaddr": "198.51.100.2", "netmask": "24", "gateway": "198.51.100.1"}
    red = {"bonding": "bond0", "vlan": 5, "bridged": False, "ipv6addr": "2001:db8::2/64"}
    host.set({"plain": plain, "red": red, "blue": {"bonding": "bond0", "vlan": 6}}, {"bond0": lacp})
    steps = host.set({}, {"bond0": {**lacp, "options": "mode=802.3ad miimon=150 xmit_hash_policy=layer2+3"}})
    assert [step.do for step in steps] == [
        ("bond-set", {"name": "bond0", "options": "mode=802.3ad,miimon=150,xmit_hash_policy=layer2+3"})
    ]
    # Switched off for a moment, and everything on it is as it was.
    before = host.kernel.seen()
    steps = host.set({}, {"bond0": {**lacp, "options": "mode=4 miimon=150 lacp_rate=1"}})
    assert {step.do[0] for step in steps} >= {"link-down", "bond-set", "link-up", "address-add", "source-route-set"}
    assert not {step.do[0] for step in steps} & {"link-remove", "port-detach", "address-remove"}
    assert host.kernel.seen() == before
    assert host.kernel.links["bond0"].options["xmit_hash_policy"] == "layer2", "what is not named any more"
    # Somebody changed it by hand: who asks for it gets it.
    host.kernel.bond_set("bond0", "mode=4,miimon=77")
    assert [step.do[0] for step in host.set({}, {"bond0": {**lacp, "options": "mode=4 miimon=150 lacp_rate=1"}})] == [
        "bond-set"
    ]


SHOWN = {"mode": "active-backup", "miimon": 100, "updelay": 200, "primary": "eth1", "fail_over_mac": "none"}


@pytest.mark.parametrize(
    ("was", "wanted", "change"),
    [
        ("miimon=100 updelay=200", "mode=1 miimon=100 updelay=200", {}),
        ("miimon=100 updelay=200", "mode=1 miimon=100", {"updelay": "0"}),
        ("miimon=100 updelay=250", "mode=1 miimon=100 updelay=250", {}),
        ("miimon=100", "mode=1 miimon=100 primary=eth2", {"primary": "eth2"}),
        # There is no word that takes it back, nor one that would undo it.
        ("miimon=100 primary=eth9", "mode=4 miimon=100 primary=eth9", None),
        ("miimon=100 primary=eth1", "mode=1 miimon=100", None),
        ("miimon=100", "mode=2 miimon=100", None),
        ("miimon=100", "mode=1 miimon=100 fail_over_mac=1", None),
        # The kernel takes a delay only while it watches.
        ("miimon=100 updelay=200", "mode=1", None),
        ("miimon=100", "mode=1 arp_interval=100 arp_ip_target=192.0.2.1", None),
    ],
)
def test_what_of_a_bond_can_be_changed_while_it_has_ports(was: str, wanted: str, change: dict[str, str] | None) -> None:
    first, then = ({key: value for key, _, value in (w.partition("=") for w in text.split())} for text in (was, wanted))
    assert in_place(SHOWN, first, then) == change


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
    assert {step.do[0] for step in steps} <= {
        *("address-add", "address-remove", "route-set", "source-route-set", "source-route-remove", "ipv6-set")
    }
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
        ({"red": {"nic": "eth0"}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1"}, "blue": {"nic": "eth1"}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "vlan": 4}, "blue": {"nic": "eth1", "vlan": 4}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "vlan": 4095}}, {}, BadVlan),
        ({"red": {"nic": "eth1", "vlan": "x"}}, {}, BadVlan),
        ({"red": {"nic": "eth1", "ipaddr": "1.2.3.4"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "ipaddr": "1.2.3.400", "netmask": "24"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "ipv6addr": "1.2.3.4/24"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "gateway": "::1"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "bootproto": "dhcp", "ipaddr": "10.0.0.1", "netmask": "24"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "dhcpv6": True, "ipv6addr": "2001:db8::1/64"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "gateway": "10.0.0.1"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "ipv6gateway": "fe80::1"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "bootproto": "bootp"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "ipaddr": "224.0.0.1", "netmask": "24"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "ipv6addr": "::1/64"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "nameservers": ["ns.example.org"]}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "nameservers": ["10.0.0.1"] * 4}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "nameservers": "10.0.0.1"}}, {}, BadNetworkParameters),
        ({"red": {"nic": ["eth1"]}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "hostQos": {"in": {}}}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "hostQos": {"out": {"ul": {"m2": 1000}}}}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "hostQos": {"out": {"ls": {"m2": "50"}}}}}, {}, BadNetworkParameters),
        ({"red": {"hostQos": {"out": {"ls": {"m2": 50}}}}}, {}, BadNetworkParameters),
        *(
            ({"red": {"nic": "eth1", "ipaddr": ip, "prefix": prefix}}, {}, BadAddress)
            for ip, prefix in (
                *(("198.51.100.0", 24), ("198.51.100.255", "24"), ("255.255.255.255", 32), ("198.51.100.7", 33)),
                *(("127.0.0.5", 8), ("224.0.0.5", 24), ("0.0.0.0", 8)),
            )
        ),
        *(
            ({"red": {"nic": "eth1", "ipv6addr": address}}, {}, BadAddress)
            for address in (
                *("fe80::2/64", "2001:db8::2%eth1/64", "::ffff:192.0.2.9/96", "2001:db8::2/0", "ff02::1/64", "::/64"),
                *("::1/64", ["2001:db8::2/64"]),
            )
        ),
        *(
            ({"red": {"nic": "eth1", "ipaddr": "198.51.100.2", "netmask": "24", "gateway": way}}, {}, BadAddress)
            for way in ("198.51.100.2", "0.0.0.0", "255.255.255.255", "224.0.0.1", "2001:db8::1", "198.51.100.1/24", 5)
        ),
        *(
            ({"red": {"nic": "eth1", "ipv6addr": "2001:db8::2/64", "ipv6gateway": way}}, {}, BadAddress)
            for way in ("2001:db8::2", "::", "fe80::1%eth1", "ff02::2", "198.51.100.1")
        ),
        ({"red": {"nic": "eth1", "nameservers": ["fe80::53%eth1"]}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "nameservers": ["0.0.0.0"]}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "mtu": 1279, "ipv6addr": "2001:db8::2/64"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "mtu": 1000, "ipv6autoconf": True}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "ipaddr": "192.0.2.2", "prefix": 25}}, {}, BadAddress),
        ({n: {"ipv6addr": a} for n, a in (("red", "2001:db8::2/64"), ("blue", "2001:DB8:0::0:2/48"))}, {}, BadAddress),
        ({"bonding_masters": {"nic": "eth1"}}, {}, BadBridge),
        ({}, {"bonding_masters": {"nics": ["eth1"]}}, BadBond),
        ({"red": {"nic": "eth1", "custom": {"bridge_opts": "forward_delay"}}}, {}, BadBridge),
        ({"red": {"nic": "eth1", "custom": {"bridge_opts": "forward_delay=x"}}}, {}, BadBridge),
        ({"red": {"nic": "eth1", "custom": {"bridge_opts": "up=1"}}}, {}, BadBridge),
        ({"red": {"bonding": "bond7"}}, {}, BadBond),
        ({"red": {"nic": "a-long-name", "vlan": 4000}}, {}, BadVlan),
        ({"all": {"nic": "eth1"}}, {}, BadBridge),
        ({"red": {"nic": "eth1", "mtu": 10}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "mtu": True}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "mtu": 1500.5}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "vlan": 1.5}}, {}, BadVlan),
        ({"red": {"nic": "eth1", "vlan": True}}, {}, BadVlan),
        ({"red": {"nic": "eth1", "vlan": "-1"}}, {}, BadVlan),
        ({"red": {"nic": "eth1", "custom": 5}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "ipaddr": "10.0.0.1", "netmask": "0.0.0.255"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "ipaddr": "10.0.0.1", "netmask": "255.0.255.0"}}, {}, BadAddress),
        ({"red": {"nic": "eth1", "bonding": "bond0"}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "colour": "red"}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "switch": "ovs"}}, {}, BadNetworkParameters),
        ({"red": {"bridged": False}}, {}, BadNetworkParameters),
        ({"red": {"nic": "eth1", "defaultRoute": True}}, {}, BadNetworkParameters),
        ({"red": {"remove": True, "nic": "eth1"}}, {}, BadNetworkParameters),
        ({"red": None}, {}, BadNetworkParameters),
        ({"red": {"remove": True}}, {}, BadBridge),
        ({"a name": {"nic": "eth1"}}, {}, BadBridge),
        ({"a-name-far-too-long": {"nic": "eth1"}}, {}, BadBridge),
        ({"../x": {"nic": "eth1"}}, {}, BadBridge),
        ({"red\n": {"nic": "eth1"}}, {}, BadBridge),
        ({"eth2": {"nic": "eth1"}}, {}, BadBridge),
        ({}, {"bond0": {"nics": []}}, BadNic),
        ({}, {"bond0": {"nics": "eth1"}}, BadNic),
        ({}, {"bond0": {"nics": ["eth1"], "options": "colour=red"}}, BadBond),
        ({}, {"bond0": {"nics": ["eth1"], "options": "mode=7"}}, BadBond),
        ({}, {"bond0": {"nics": ["eth1"], "options": "mode=1 lacp_rate=fast"}}, BadBond),
        ({}, {"bond0": {"nics": ["eth1"], "options": "mode=1 primary=eth2"}}, BadBond),
        ({}, {"bond0": {"nics": ["eth1"], "hwaddr": "not a MAC"}}, BadBond),
        ({}, {"bond0": {"nics": ["eth1"], "switch": "ovs"}}, BadNetworkParameters),
        ({}, {"bond0": {"nics": ["eth1"], "colour": "red"}}, BadNetworkParameters),
        ({}, {"eth2": {"nics": ["eth1"]}}, BadBond),
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


QOS = {"out": {"ls": {"m2": 50}, "ul": {"m2": 10_000_000}}}


def test_only_what_is_asked_for_is_touched() -> None:
    host = managed_host()
    host.set({"red": {"nic": "eth1", "mtu": 1500}})
    host.kernel.address_add("ovirtmgmt", "192.0.2.200/24")
    host.kernel.mtu_set("red", 1400)
    host.set({"blue": {"nic": "eth2"}})
    assert "192.0.2.200/24" in host.kernel.links["ovirtmgmt"].addresses
    assert host.kernel.links["red"].mtu == 1400
    host.set({"red": {"nic": "eth1", "mtu": 1500}})
    assert host.kernel.links["red"].mtu == 1500


def test_a_lost_nic_does_not_stand_in_the_way_of_other_networks() -> None:
    host = managed_host()
    host.set({"red": {"nic": "eth1", "vlan": 5}}, {"bond0": {"nics": ["eth2"]}})
    for name in ("eth1.5", "eth1", "eth2"):
        del host.kernel.links[name]
    host.set({"blue": {}})
    assert "blue" in host.kernel.links
    host.set({"red": {"remove": True}})
    assert "red" not in host.kernel.links
    with pytest.raises(BadNic):
        host.set({}, {"bond0": {"nics": ["eth2"]}})


def test_the_mtu_of_a_nic_is_that_of_its_largest_network_and_shrinks_again() -> None:
    host = managed_host()
    host.set({"red": {"nic": "eth1", "vlan": 10, "mtu": 9000}, "blue": {"nic": "eth1", "vlan": 20, "mtu": 2000}})
    host.set({"red": {"nic": "eth1", "vlan": 10}})
    assert [host.kernel.links[name].mtu for name in ("eth1", "eth1.10", "red", "blue")] == [2000, 1500, 1500, 2000]
    host.set({"blue": {"nic": "eth1", "vlan": 20, "mtu": 9000}})
    host.set({"blue": {"remove": True}})
    assert host.kernel.links["eth1"].mtu == 1500


def test_a_vlan_of_which_nothing_is_said_any_more_fits_onto_its_base() -> None:
    host = managed_host()
    host.set({"red": {"nic": "eth1", "vlan": 5, "mtu": 1500}, "blue": {"nic": "eth2", "vlan": 6, "mtu": 1280}})
    host.set({"red": {"nic": "eth2", "vlan": 5}})
    assert host.kernel.links["eth2.5"].mtu == host.kernel.links["red"].mtu == 1280


def test_a_nic_is_as_large_as_its_largest_network_and_that_is_no_drift() -> None:
    host = managed_host()
    plain = {"nic": "eth1", "bridged": False, "mtu": 1300}
    host.set({"red": {"nic": "eth1", "vlan": 5, "mtu": 1400}, "blue": plain})
    assert (host.kernel.links["eth1"].mtu, drift(host.kernel.state(), host.config)) == (1400, {})
    host.kernel.mtu_set("eth1", 1300)
    assert drift(host.kernel.state(), host.config)["blue"] == "network blue: its MTU is 1300 instead of 1400"


def test_a_device_that_is_too_small_for_ipv6_gets_it_again_as_it_was() -> None:
    host = managed_host()
    six = {"ipv6addr": "2001:db8::2/64", "ipv6gateway": "2001:db8::1", "defaultRoute": True}
    host.set({"ovirtmgmt": {**MANAGEMENT, **six}})
    host.set({"ovirtmgmt": {**MANAGEMENT, "mtu": 1000}})
    assert "ovirtmgmt" not in host.kernel.ipv6
    host.set({"ovirtmgmt": {**MANAGEMENT, **six, "mtu": 1400}})
    assert (host.kernel.ipv6["ovirtmgmt"], host.kernel.gateways["ovirtmgmt"]["6"]) == ("static", "2001:db8::1")
    host.set({"red": {"nic": "eth1", "vlan": 5, "mtu": 1200}, "blue": {"nic": "eth1", "vlan": 6, "ipv6autoconf": True}})
    host.set({"red": {"nic": "eth1", "vlan": 5, "mtu": 9000}})
    host.set({"ovirtmgmt": MANAGEMENT})
    assert host.kernel.ipv6["ovirtmgmt"] == "off"


def test_a_smaller_nic_takes_its_vlans_down_and_the_way_back_brings_them_up() -> None:
    host = managed_host()
    host.set({"red": {"nic": "eth1", "vlan": 10, "bridged": False, "mtu": 9000}})
    host.set({"red": {"nic": "eth1", "vlan": 10, "bridged": False, "mtu": 1500}})
    assert host.kernel.links["eth1.10"].mtu == 1500


def test_a_gateway_that_nobody_named_moves_only_with_an_address_that_reaches_it() -> None:
    for address, gateways in (("192.0.2.9", {"ovirtmgmt": {"4": "192.0.2.1"}}), ("198.51.100.2", {})):
        host = Host(nic(addresses=("192.0.2.2/24",)), gateways={"eth0": {"4": "192.0.2.1"}})
        host.set({"ovirtmgmt": {"nic": "eth0", "ipaddr": address, "netmask": "24", "defaultRoute": True}})
        assert {device: found for device, found in host.kernel.gateways.items() if found} == gateways


def test_default_routes_leave_with_their_network() -> None:
    host = managed_host()
    plain = {
        "bridged": False,
        "ipaddr": "198.51.100.2",
        "netmask": "24",
        "gateway": "198.51.100.1",
        "defaultRoute": True,
    }
    host.set({"ovirtmgmt": {**MANAGEMENT, "defaultRoute": False}})
    host.set({"red": {"nic": "eth1", **plain, "ipv6addr": "2001:db8::2/64", "ipv6gateway": "2001:db8::1"}})
    host.kernel.address_add("eth1", "198.51.100.77/24")
    host.set({"red": {"remove": True}})
    assert not host.kernel.gateways["eth1"]
    host.set({"red": {"nic": "eth1", **plain}})
    host.kernel.address_add("eth1", "198.51.100.77/24")
    host.set({"red": {"nic": "eth1", "ipaddr": "203.0.113.2", "netmask": "24", "bridged": False}})
    assert not host.kernel.gateways["eth1"]


def test_the_default_route_leaves_with_its_role() -> None:
    host = managed_host()
    other = {"nic": "eth1", "ipaddr": "10.0.0.1", "netmask": "24", "gateway": "10.0.0.254"}
    host.set({"red": other})
    assert host.kernel.gateways.get("red", {}) == {}
    assert host.kernel.sources["10.0.0.1/24"] == Source("red", "10.0.0.254")
    host.set({"red": {**other, "defaultRoute": True}, "ovirtmgmt": {**MANAGEMENT, "defaultRoute": False}})
    assert {d: g for d, g in host.kernel.gateways.items() if g} == {"red": {"4": "10.0.0.254"}}
    host.set({"red": other})
    assert {d: g for d, g in host.kernel.gateways.items() if g} == {}


def test_replies_leave_by_the_gateway_of_the_network_they_answer() -> None:
    host = managed_host()
    red = {"nic": "eth1", "vlan": 5, "bridged": False, "ipaddr": "10.0.0.1", "netmask": "24", "gateway": "10.0.0.254"}
    host.set({"red": red})
    host.set({"red": {**red, "gateway": "10.0.0.253"}})
    assert host.kernel.sources["10.0.0.1/24"] == Source("eth1.5", "10.0.0.253")
    host.set({"red": {**red, "ipaddr": "10.0.0.2"}})
    assert set(host.kernel.sources) == {"192.0.2.2/24", "10.0.0.2/24"}
    host.set({"red": {"remove": True}})
    assert set(host.kernel.sources) == {"192.0.2.2/24"}


def test_rules_of_a_servers_address_stay_with_its_client() -> None:
    host = managed_host()
    dynamic = {"nic": "eth1", "bootproto": "dhcp"}
    host.set({"red": dynamic})
    host.kernel.address_add("red", "198.51.100.9/24")
    host.kernel.sources["198.51.100.9/24"] = Source("red", "198.51.100.1")
    assert host.set({"red": {**dynamic, "mtu": 1400}})
    assert host.kernel.sources["198.51.100.9/24"] == Source("red", "198.51.100.1")
    host.set({"red": {"nic": "eth1"}})
    assert "198.51.100.9/24" not in host.kernel.sources


def test_ipv6_is_off_unless_a_network_wants_it() -> None:
    host = managed_host()
    assert host.kernel.ipv6["ovirtmgmt"] == "off"
    for wish, mode in (
        ({"ipv6addr": "2001:db8::2/64"}, "static"),
        ({"ipv6autoconf": True}, "auto-noroute"),
        ({"dhcpv6": True, "ipv6autoconf": True}, "auto-noroute"),
        ({"dhcpv6": True}, "ra-noroute"),
        ({}, "off"),
    ):
        host.set({"red": {"nic": "eth1", "bridged": False, **wish}})
        assert host.kernel.ipv6["eth1"] == mode
    host.set({"red": {"remove": True}})
    assert host.kernel.ipv6["eth1"] == "auto"


def test_nameservers_come_with_the_default_route() -> None:
    host = managed_host()
    host.set({"red": {"nic": "eth1", "nameservers": ["203.0.113.1"]}})
    assert host.kernel.nameservers == ("192.0.2.53",)
    host.set({"ovirtmgmt": {**MANAGEMENT, "nameservers": ["203.0.113.1", "2001:db8::53"]}})
    assert host.kernel.nameservers == ("203.0.113.1", "2001:db8::53")
    assert host.set({"ovirtmgmt": {**MANAGEMENT, "nameservers": ["203.0.113.1", "2001:db8::53"]}}) == []


def test_shaping_follows_the_network_and_survives_a_new_bond() -> None:
    host = managed_host()
    bond = {"nics": ["eth1", "eth2"], "options": "mode=1"}
    host.set(
        {"red": {"bonding": "bond0", "vlan": 5, "hostQos": QOS}, "blue": {"bonding": "bond0", "hostQos": QOS}},
        {"bond0": bond},
    )
    curves = "ls=0:0:50,ul=0:0:10000000"
    assert host.kernel.shaped == {"bond0": {5: curves, None: curves}}
    # By somebody's hand: mended when the network is asked for again.
    del host.kernel.shaped["bond0"][5]
    host.kernel.shaped["bond0"][None] = "ls=0:0:70"
    host.set({"blue": {"bonding": "bond0", "hostQos": QOS}})
    host.set({"red": {"bonding": "bond0", "vlan": 5, "hostQos": QOS}})
    assert host.kernel.shaped == {"bond0": {5: curves, None: curves}}
    host.set({}, {"bond0": {**bond, "options": "mode=4"}})
    assert host.kernel.shaped == {"bond0": {5: curves, None: curves}}
    host.set({"red": {"bonding": "bond0", "vlan": 6}})
    host.set({"blue": {"remove": True}})
    assert host.kernel.shaped == {}


def test_options_of_a_bridge_are_set_by_the_kernels_names() -> None:
    host = managed_host()
    host.set({"red": {"custom": {"bridge_opts": "forward_delay=1500 multicast_snooping=0", "other": "x"}}})
    assert host.kernel.links["red"].bridge_options == {"forward_delay": "1500", "mcast_snooping": "0"}
    host.set({"red": {"custom": {"bridge_opts": "forward_delay=400"}}})
    assert host.kernel.links["red"].bridge_options["forward_delay"] == "400"
    host.set({"red": {"remove": True}})


def test_an_age_that_passes_with_a_change_of_the_tree_is_no_drift_and_not_brought_back() -> None:
    host = managed_host()
    host.set({"red": {"nic": "eth1", "stp": True, "custom": {"bridge_opts": "ageing_time=100"}}})
    red = host.kernel.links["red"]
    host.kernel.links["red"] = replace(red, options={**red.options, "ageing_time": 0, "topology_change": 1})
    state = host.kernel.state()
    assert drift(state, host.config) == {}
    wanted = changed(host.config, {"red": {"nic": "eth1", "custom": {"bridge_opts": "ageing_time=200"}}}, {})
    (step,) = [step for step in plan(state, host.config, wanted, {"red"}) if step.do[0] == "bridge-set"]
    assert step.undo == ()


def test_a_device_name_that_would_be_too_long_is_refused() -> None:
    host = managed_host()
    host.kernel.links["enp101s0f1np1"] = nic("enp101s0f1np1")
    with pytest.raises(BadVlan, match="longer than"):
        host.set({"red": {"nic": "enp101s0f1np1", "vlan": 100}})


def test_a_bond_of_others_is_taken_over_as_it_is_or_made_anew() -> None:
    host = managed_host()
    host.kernel.links["bond7"] = Link("bond7", kind="bond", up=True, options={"mode": "active-backup", "miimon": 100})
    host.kernel.links["eth1"] = nic("eth1", master="bond7")
    host.kernel.ipv6["bond7"] = "auto"
    steps = host.set({}, {"bond7": {"nics": ["eth1"], "options": "mode=1 miimon=100"}})
    assert steps == []
    assert "bond-create" in [step.do[0] for step in host.set({}, {"bond7": {"nics": ["eth1"], "options": "mode=4"}})]


def test_addresses_from_routers_go_with_autoconfiguration_and_the_servers_one_is_asked_for_again() -> None:
    host = managed_host()
    host.set({"red": {"nic": "eth1", "dhcpv6": True, "ipv6autoconf": True}})
    host.kernel.address_add("red", "2001:db8::1234/64")
    assert host.set({"red": {"nic": "eth1", "dhcpv6": True, "ipv6autoconf": True}}) == []
    done = [step.do for step in host.set({"red": {"nic": "eth1", "dhcpv6": True}})]
    assert host.kernel.links["red"].addresses == ()
    assert [operation for operation, _ in done].index("dhcp-stop") < [operation for operation, _ in done].index(
        "dhcp-start"
    )
    assert host.kernel.ipv6["red"] == "ra-noroute"
