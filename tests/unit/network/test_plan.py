# SPDX-License-Identifier: Apache-2.0
"""From a state and a wish to steps; every plan is played on a model of the kernel, forwards and backwards."""

from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.kernelmodel import MANAGEMENT, managed_host, nic
from vdsm_mp.api.errors_network import BadAddress, BadBond, BadBridge, BadNetworkParameters, BadNic, BadVlan, UsedNic
from vdsm_mp.network.drift import drift
from vdsm_mp.network.plan import plan
from vdsm_mp.network.state import Link
from vdsm_mp.network.wanted import changed


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


def test_a_bridge_becomes_plain_and_back() -> None:
    host = managed_host()
    plain = {"nic": "eth1", "bridged": False, "ipaddr": "10.0.0.1", "netmask": "255.255.255.0"}
    host.set({"red": {**plain, "bridged": True}})
    host.set({"red": plain})
    assert "red" not in host.kernel.links
    assert host.kernel.links["eth1"].addresses == ("10.0.0.1/24",)
    host.set({"red": {**plain, "bridged": True}})
    assert host.kernel.links["red"].addresses == ("10.0.0.1/24",)


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
