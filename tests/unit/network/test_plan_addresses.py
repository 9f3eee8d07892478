# SPDX-License-Identifier: Apache-2.0
"""Plans of addresses, routes, sizes and IPv6, played on a model of the kernel, forwards and backwards."""

from tests.support.kernelmodel import MANAGEMENT, Host, managed_host, nic
from vdsm_mp.network.drift import drift
from vdsm_mp.network.state import Source


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
