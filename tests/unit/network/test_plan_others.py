# SPDX-License-Identifier: Apache-2.0
"""Plans where others have made devices and routes, played on a model of the kernel, forwards and backwards."""

from typing import Any

import pytest

from tests.support.kernelmodel import Host, managed_host, nic
from vdsm_mp.api.errors_network import BadVlan, UsedNic
from vdsm_mp.network.drift import drift
from vdsm_mp.network.state import Link, Route, parse

V6 = "2001:db8::2/64"
STORAGE = {"nic": "eth1", "ipaddr": "10.0.0.2", "netmask": "24", "gateway": "10.0.0.1", "defaultRoute": True}


def _installed() -> Host:
    """As an installer leaves it: the way out has a metric, another network is reached by a static route."""
    host = Host(nic(addresses=("192.0.2.2/24",)), nic("eth1", addresses=("10.0.0.2/24", V6)), nic("eth2"))
    host.kernel.route_restore("eth0", "default", "192.0.2.1", protocol="dhcp", metric=100, source="192.0.2.2")
    host.kernel.route_restore("eth0", "198.51.100.0/24", "192.0.2.254", protocol="static")
    host.kernel.route_restore("eth1", "203.0.113.1", protocol="static")
    host.kernel.route_restore("eth1", "2001:db8:5::/64", "fe80::9", metric=1024, six=True)
    host.kernel.route_restore("eth1", "2001:db8:6::/64", "2001:db8::9", metric=77, six=True)
    return host


@pytest.mark.parametrize(
    ("networks", "bonds"),
    [
        ({"red": STORAGE}, {}),
        ({"red": {**STORAGE, "ipaddr": "10.0.0.3"}}, {}),
        ({"red": {**STORAGE, "bridged": False}}, {}),
        ({"red": {"bonding": "bond0"}}, {"bond0": {"nics": ["eth0", "eth1"], "options": "mode=4"}}),
        ({"red": {"nic": "eth1", "mtu": 1200}}, {}),
    ],
)
def test_routes_that_others_made_come_back_when_a_change_is_undone(
    networks: dict[str, Any], bonds: dict[str, Any]
) -> None:
    # `set` plays every beginning of the plan forwards and backwards, and compares.
    _installed().set(networks, bonds)


def test_a_default_route_with_a_metric_does_not_give_way_to_ours() -> None:
    host = _installed()
    host.set({"red": STORAGE})
    assert host.kernel.gateways == {"eth0": {"4": "192.0.2.1"}, "red": {"4": "10.0.0.1"}}
    assert Route("default", "192.0.2.1", "192.0.2.2", "dhcp", 100) in host.kernel.routes["eth0"]


def test_routes_of_the_kernel_of_routers_and_of_daemons_are_not_kept() -> None:
    route = {"dst": "198.51.100.0/24", "gateway": "192.0.2.1", "dev": "eth0", "flags": []}
    told = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0", "flags": []},
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0", "metric": 9, "protocol": "dhcp", "flags": []},
        {"dst": "default", "gateway": "fe80::1", "dev": "eth0", "metric": 1024, "protocol": "ra", "flags": []},
        {"dst": "default", "gateway": "fe80::1", "dev": "eth1", "metric": 1024, "flags": []},
        {"dst": "192.0.2.0/24", "dev": "eth0", "protocol": "kernel", "scope": "link", "prefsrc": "192.0.2.2"},
        {**route, "protocol": "bird"},
        {"dst": "198.51.100.0/24", "nexthops": [{"gateway": "192.0.2.1", "dev": "eth0"}], "flags": []},
        {"type": "unreachable", "dst": "203.0.113.0/24", "dev": "lo", "flags": []},
        {"dst": "203.0.113.0/24", "via": {"family": "inet6", "host": "fe80::1"}, "dev": "eth0", "flags": []},
        route,
        {"dst": "default", "gateway": "172.31.1.1", "dev": "eth2", "flags": ["onlink"]},
    ]
    state = parse([], told)
    assert state.routes == {
        "eth0": (
            Route("default", "192.0.2.1", protocol="dhcp", metric=9),
            Route("198.51.100.0/24", "192.0.2.1"),
        ),
        "eth2": (Route("default", "172.31.1.1", onlink=True),),
    }
    assert state.gateways["eth1"] == {"6": "fe80::1"}


@pytest.mark.parametrize(
    "link",
    [
        Link("eth1.10", kind="vlan", base="eth1", tag=11),
        Link("eth1.10", kind="vlan", base="eth2", tag=10),
        Link("eth1.10", kind="dummy"),
        Link("storage", kind="vlan", base="eth1", tag=10),
    ],
)
def test_a_vlan_that_others_have_under_another_name_or_tag_is_refused(link: Link) -> None:
    host = managed_host()
    host.kernel.links[link.name] = link
    with pytest.raises(BadVlan):
        host.set({"red": {"nic": "eth1", "vlan": 10}})
    assert host.kernel.links[link.name] == link


def test_a_network_without_a_bridge_takes_its_nic_out_of_the_bridge_of_others() -> None:
    host = managed_host()
    host.kernel.links["br9"] = Link("br9", kind="bridge", up=True)
    host.kernel.links["eth1"] = nic("eth1", master="br9")
    host.set({"red": {"nic": "eth1", "bridged": False, "ipaddr": "10.0.0.2", "netmask": "24"}})
    assert host.kernel.links["eth1"].master == ""
    host.kernel.port_attach("eth1", "br9")
    assert drift(host.kernel.state(), host.config)["red"] == "network red: eth1 is plugged into bridge br9"


def test_an_address_of_others_is_there_again_when_a_client_beside_it_is_undone() -> None:
    # Stopped, dhclient flushes its device; `set` plays that, too.
    host = _installed()
    steps = host.set({"red": {"nic": "eth0", "bridged": False, "bootproto": "dhcp", "defaultRoute": True}})
    assert steps[-1].do[0] == "dhcp-start"
    assert ("address-add", {"name": "eth0", "address": "192.0.2.2/24"}) in steps[-1].undo


@pytest.mark.parametrize("vlan", [None, 7])
def test_a_client_on_a_bond_that_is_made_anew_is_started_anew(vlan: int | None) -> None:
    host = managed_host()
    bond = {"nics": ["eth1", "eth2"], "options": "mode=1 miimon=100"}
    host.set({"red": {"bonding": "bond0", "vlan": vlan, "bridged": False, "bootproto": "dhcp"}}, {"bond0": bond})
    done = [step.do[0] for step in host.set({}, {"bond0": {**bond, "options": "mode=4 miimon=100"}})]
    assert done.index("dhcp-stop") < done.index("link-remove") < done.index("bond-create") < done.index("dhcp-start")
    assert host.kernel.dhcp == {"bond0" if vlan is None else "bond0.7"}


def test_a_nic_that_a_bond_lets_go_carries_a_network_in_the_same_change() -> None:
    host = managed_host()
    both = {"nics": ["eth1", "eth2"], "options": "mode=1"}
    host.set({"red": {"bonding": "bond0", "vlan": 5}}, {"bond0": both})
    host.set({"blue": {"nic": "eth2", "vlan": 6}}, {"bond0": {**both, "nics": ["eth1"]}})
    assert host.kernel.links["eth2.6"].up and host.kernel.links["eth2"].up
    host.set({"red": {"nic": "eth1", "vlan": 5}}, {"bond0": {"remove": True}})
    assert host.kernel.links["eth1.5"].up and "bond0" not in host.kernel.links


def test_a_nic_of_a_bond_that_keeps_it_is_refused() -> None:
    host = managed_host()
    host.set({}, {"bond0": {"nics": ["eth1"], "options": "mode=1"}})
    host.kernel.link_down("eth2")
    host.kernel.port_attach("eth2", "bond0")
    with pytest.raises(UsedNic):
        host.set({"blue": {"nic": "eth2"}})
    host.set({"blue": {"nic": "eth2"}}, {"bond0": {"nics": ["eth1"], "options": "mode=1"}})
    assert host.kernel.links["eth2"].master == "blue"
