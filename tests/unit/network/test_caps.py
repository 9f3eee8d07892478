# SPDX-License-Identifier: Apache-2.0
"""The network as engines read it, and what `ip` says as records."""

import json
from typing import Any

import pytest

from vdsm_mp.common.options import Vars
from vdsm_mp.network import caps, stats
from vdsm_mp.network.connectivity import Connectivity
from vdsm_mp.network.state import Link, State, parse
from vdsm_mp.network.wanted import Config, changed

NIC = Link("eth0", mac="52:54:00:00:00:01", up=True, carrier=True, master="ovirtmgmt", speed=10000)
BRIDGE = Link("ovirtmgmt", kind="bridge", up=True, carrier=True, addresses=("192.0.2.2/24", "2001:db8::2/64"))
BOND = Link("bond0", kind="bond", up=True, options={"mode": "802.3ad", "miimon": 100, "active_slave": None})
SLAVE = Link("eth1", master="bond0", permanent_mac="52:54:00:00:00:09", port_options={"ad_aggregator_id": 1})
VLAN = Link("bond0.7", kind="vlan", base="bond0", tag=7)
LOST_VLAN = Link("gone.8", kind="vlan", base="gone", tag=8)
TAP = Link("vnet0", kind="tun", master="ovirtmgmt")
STATE = State(
    {link.name: link for link in (NIC, BRIDGE, BOND, SLAVE, VLAN, LOST_VLAN, TAP, Link("lo", kind="loopback"))},
    {"ovirtmgmt": {"4": "192.0.2.1"}},
)
CONFIG = changed(
    Config(),
    {
        "ovirtmgmt": {"nic": "eth0", "ipaddr": "192.0.2.2", "netmask": "24", "defaultRoute": True},
        "seven": {"bonding": "bond0", "vlan": 7, "bridged": False},
        "absent": {"nic": "eth9"},
    },
    {},
)


@pytest.fixture
def facts() -> dict[str, Any]:
    found = caps.facts(STATE, CONFIG, Vars(), ["192.0.2.53"])
    json.dumps(found)
    return found


def test_a_bridged_network_is_told_with_its_bridge_and_its_switch(facts: dict[str, Any]) -> None:
    network, bridge = facts["networks"]["ovirtmgmt"], facts["bridges"]["ovirtmgmt"]
    assert network["iface"] == "ovirtmgmt"
    assert network["bridged"] is True
    assert network["switch"] == "legacy"
    assert network["addr"] == bridge["addr"] == "192.0.2.2"
    assert network["netmask"] == "255.255.255.0"
    assert network["gateway"] == "192.0.2.1"
    assert network["ipv6addrs"] == ["2001:db8::2/64"]
    assert bridge["ports"] == ["eth0", "vnet0"]


def test_a_network_on_a_vlan_names_the_device(facts: dict[str, Any]) -> None:
    network = facts["networks"]["seven"]
    assert (network["iface"], network["bridged"], network["vlanid"]) == ("bond0.7", False, 7)


def test_a_network_whose_device_is_gone_is_not_reported(facts: dict[str, Any]) -> None:
    assert set(facts["networks"]) == {"ovirtmgmt", "seven"}


def test_the_base_of_every_vlan_is_listed(facts: dict[str, Any]) -> None:
    listed = {*facts["nics"], *facts["bondings"], *facts["vlans"]}
    assert [vlan["iface"] in listed for vlan in facts["vlans"].values()] == [True]


def test_integers_are_integers_and_the_rest_are_strings(facts: dict[str, Any]) -> None:
    assert facts["nics"]["eth0"]["speed"] == 10000
    assert type(facts["vlans"]["bond0.7"]["vlanid"]) is int
    assert facts["nics"]["eth1"]["ad_aggregator_id"] == "1"
    for kind in ("nics", "bondings", "vlans", "bridges", "networks"):
        for found in facts[kind].values():
            assert isinstance(found["mtu"], str)
            assert all(
                isinstance(found[name], bool) for name in ("dhcpv4", "dhcpv6", "ipv6autoconf", "ipv4defaultroute")
            )


def test_a_bond_tells_its_ports_and_its_mode_as_a_number(facts: dict[str, Any]) -> None:
    bond = facts["bondings"]["bond0"]
    assert bond["slaves"] == ["eth1"]
    assert bond["opts"] == {"mode": "4", "miimon": "100"}
    assert facts["nics"]["eth1"]["permhwaddr"] == "52:54:00:00:00:09"
    assert "permhwaddr" not in facts["nics"]["eth0"]


@pytest.mark.parametrize(
    ("mode", "active", "speed"),
    [("802.3ad", "", 35000), ("balance-rr", "", 35000), ("active-backup", "eth2", 25000), ("broadcast", "", 0)],
)
def test_the_speed_of_a_bond_is_what_it_can_carry_and_a_vlan_has_that_of_its_base(
    mode: str, active: str, speed: int
) -> None:
    ports = [
        Link(name, up=True, carrier=True, master="bond0", speed=s) for name, s in (("eth1", 10000), ("eth2", 25000))
    ]
    bond = Link("bond0", kind="bond", up=True, carrier=True, options={"mode": mode, "active_slave": active})
    links = (*ports, Link("eth3", master="bond0", up=True), bond, VLAN, BRIDGE)
    state = State({link.name: link for link in links}, {})
    assert caps.facts(state, Config(), Vars(), [])["bondings"]["bond0"]["speed"] == speed
    told = stats.counters(state, Vars(), {link.name: [0] * 16 for link in links})
    # Unknown is said to be 1000.
    assert [told[name]["speed"] for name in ("bond0", "bond0.7")] == [str(speed or 1000)] * 2
    assert [told[name]["speed"] for name in ("eth2", "eth3", "ovirtmgmt")] == ["25000", "1000", "1000"]


def test_a_bond_that_somebody_changed_is_told_as_it_is() -> None:
    wanted = {"bond0": {"nics": ["eth1"], "options": "mode=4 miimon=100 xmit_hash_policy=2"}}
    config = changed(Config(), {}, wanted)
    shown = {"mode": "802.3ad", "miimon": 100, "xmit_hash_policy": "layer2+3", "ad_lacp_rate": "slow"}
    for changes, opts in (
        ({}, {"mode": "4", "miimon": "100", "xmit_hash_policy": "2"}),
        ({"miimon": 50}, {"mode": "4", "miimon": "50", "xmit_hash_policy": "layer2+3", "lacp_rate": "slow"}),
        ({"mode": "balance-rr", "ad_lacp_rate": None}, {"mode": "0", "miimon": "100"}),
    ):
        bond = Link("bond0", kind="bond", up=True, options={**shown, **changes})
        state = State({"bond0": bond}, {})
        assert caps.facts(state, config, Vars(), [])["bondings"]["bond0"]["opts"] == opts


def test_guests_devices_and_hidden_nics_are_nobodys_business() -> None:
    links = {link.name: link for link in (TAP, Link("usb0"), Link("wlan0"), Link("veth_a", kind="veth"))}
    links |= {"vethx": Link("vethx", kind="veth"), "lo": Link("lo", kind="loopback")}
    found = caps.facts(State(links, {}), Config(), Vars(fake_nics="veth_*"), [])
    assert set(found["nics"]) == {"veth_a"}


def test_what_a_network_is_on_is_told_whatever_it_is() -> None:
    """Without a bridge and an address nothing else shows that it is in use."""
    wanted = {"red": {"nic": "veth_b", "bridged": False}, "blue": {"nic": "usb0", "vlan": 7, "bridged": False}}
    config = changed(Config(), wanted, {})
    vlan = Link("usb0.7", kind="vlan", base="usb0", tag=7)
    links = (Link("veth_b", kind="veth", up=True), Link("usb0", up=True), vlan)
    found = caps.facts(State({link.name: link for link in links}, {}), config, Vars(), [])
    assert (set(found["nics"]), set(found["vlans"])) == ({"veth_b", "usb0"}, {"usb0.7"})
    assert {name: network["iface"] for name, network in found["networks"].items()} == {
        "red": "veth_b",
        "blue": "usb0.7",
    }


def test_counters_are_strings_with_the_time_of_their_reading() -> None:
    table = {name: list(range(16)) for name in STATE.links}
    found = stats.counters(STATE, Vars(), table)
    assert set(found) == {"eth0", "eth1", "ovirtmgmt", "bond0", "bond0.7", "gone.8"}
    nic = found["eth0"]
    assert (nic["state"], nic["speed"], nic["rx"], nic["tx"]) == ("up", "10000", "0", "8")
    # As the header of /proc/net/dev names its columns: errs and drop after bytes and packets, first of what came in.
    numbers = {name: nic[name] for name in ("rxErrors", "rxDropped", "txErrors", "txDropped")}
    assert numbers == {"rxErrors": "2", "rxDropped": "3", "txErrors": "10", "txDropped": "11"}
    assert found["eth1"]["state"] == "down"
    assert type(nic["sampleTime"]) is float


def test_what_ip_says_becomes_records() -> None:
    devices = [
        {"ifname": "lo", "flags": ["LOOPBACK", "UP", "LOWER_UP"], "mtu": 65536},
        {
            "ifname": "eth0",
            "flags": ["BROADCAST", "UP", "LOWER_UP"],
            "mtu": 1500,
            "address": "02:fc:00:00:00:01",
            "permaddr": "02:fc:00:00:00:02",
            "addr_info": [
                {"family": "inet", "local": "192.0.2.2", "prefixlen": 24, "scope": "global", "dynamic": True},
                {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"},
            ],
        },
        {
            "ifname": "eth0.5",
            "link": "eth0",
            "flags": ["BROADCAST"],
            "linkinfo": {"info_kind": "vlan", "info_data": {"protocol": "802.1Q", "id": 5}},
        },
        {"ifname": "sit0", "flags": [], "linkinfo": {"info_kind": "sit"}},
    ]
    routes = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"},
        {"dst": "default", "gateway": "fe80::9", "dev": "eth0"},
        {"dst": "192.0.2.0/24", "dev": "eth0"},
    ]
    state = parse(devices, routes)
    assert set(state.links) == {"lo", "eth0", "eth0.5"}
    nic = state.links["eth0"]
    assert (nic.addresses, nic.dynamic, nic.carrier, nic.permanent_mac) == (
        ("192.0.2.2/24",),
        frozenset("4"),
        True,
        "02:fc:00:00:00:02",
    )
    assert (state.links["eth0.5"].base, state.links["eth0.5"].tag) == ("eth0", 5)
    assert state.gateways == {"eth0": {"4": "192.0.2.1", "6": "fe80::9"}}
    assert not state.links["lo"].is_nic


def test_a_bond_that_fails_over_is_told_once() -> None:
    told: list[object] = []

    class Publisher:
        def publish(self, event: object) -> None:
            told.append(event)

    def state(active: str, *addresses: str) -> State:
        bond = Link("bond0", kind="bond", options={"active_slave": active})
        nic = Link("eth5", dynamic=frozenset("4"), addresses=addresses)
        return State({"bond0": bond, "eth5": nic}, {})

    connectivity = Connectivity(Publisher())
    for look in (state("eth0"), state("eth0"), state("eth1"), state("eth1"), state("eth1", "192.0.2.7/24")):
        connectivity.look(look)
    assert len(told) == 2


def test_how_an_address_is_got_is_told_of_the_network_and_of_its_device() -> None:
    config = changed(Config(), {"ovirtmgmt": {"nic": "eth0", "bootproto": "dhcp", "dhcpv6": True}}, {})
    found = caps.facts(STATE, config, Vars(), [])
    for told in (found["networks"]["ovirtmgmt"], found["bridges"]["ovirtmgmt"]):
        assert (told["dhcpv4"], told["dhcpv6"], told["ipv6autoconf"]) == (True, True, False)
    assert found["nics"]["eth0"]["dhcpv6"] is False
