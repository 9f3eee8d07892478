# SPDX-License-Identifier: Apache-2.0
"""Host.setupNetworks on real links in a network namespace of the test's own, with root's real helper."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.support.netns import CHECK, MANAGEMENT, Namespace, Refused

pytestmark = [needs_root(), needs_program("ip", "sudo", "setpriv")]


@pytest.fixture
def host() -> Iterator[Namespace]:
    with contextlib.closing(Namespace()) as made:
        made.start()
        yield made


def test_the_management_network_moves_onto_a_bridge_and_is_reported(host: Namespace) -> None:
    host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {})
    assert host.links()["veth_a"] == ("ovirtmgmt", [])
    assert host.links()["ovirtmgmt"] == ("", ["192.0.2.2"])
    assert host.gateway() == ("192.0.2.1", "ovirtmgmt")
    facts = host.do("facts")
    network = facts["networks"]["ovirtmgmt"]
    assert (network["addr"], network["gateway"], network["mtu"]) == ("192.0.2.2", "192.0.2.1", "1400")
    assert facts["bridges"]["ovirtmgmt"]["ports"] == ["veth_a"]
    assert host.do("counters")["veth_a"]["state"] == "up"


def test_a_change_that_nobody_confirms_is_undone(host: Namespace) -> None:
    before = host.links()
    with pytest.raises(Refused, match="No confirmation") as refused:
        host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, CHECK)
    assert refused.value.code == 10
    assert host.links() == before
    assert host.gateway() == ("192.0.2.1", "veth_a")
    assert host.do("facts")["networks"] == {}


def test_a_change_that_a_stop_undoes_tells_how_long_it_was_waited_for(host: Namespace) -> None:
    before = host.links()
    host.do("drain")
    with pytest.raises(Refused, match=r"No confirmation within 0\.\d s, when the agent was told to stop,") as refused:
        host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {**CHECK, "connectivityTimeout": 30})
    assert refused.value.code == 10
    assert host.links() == before


def test_a_change_that_is_confirmed_stays(host: Namespace) -> None:
    host.do("confirm_from_now_on")
    host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {**CHECK, "connectivityTimeout": 20})
    assert "ovirtmgmt" in host.links()


def test_a_removal_that_nobody_confirms_brings_the_network_back(host: Namespace) -> None:
    host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {})
    before = host.links()
    with pytest.raises(Refused):
        host.do("setup", {"ovirtmgmt": {"remove": True}}, {}, CHECK)
    assert host.links() == before
    assert host.gateway() == ("192.0.2.1", "ovirtmgmt")
    host.do("setup", {"ovirtmgmt": {"remove": True}}, {}, {})
    assert set(host.links()) == {"lo", "veth_a", "veth_b"}


def test_a_step_that_fails_undoes_those_before_it(host: Namespace) -> None:
    before = host.links()
    # The address is fine by itself; the kernel refuses a route through a gateway that it cannot reach.
    bad = {**MANAGEMENT, "gateway": "198.51.100.1"}
    with pytest.raises(Refused) as refused:
        host.do("setup", {"ovirtmgmt": bad}, {}, {})
    assert refused.value.code == 29
    assert host.links() == before
    assert host.gateway() == ("192.0.2.1", "veth_a")


def test_a_worker_killed_half_way_undoes_the_change_when_it_starts_again(host: Namespace) -> None:
    before = host.links()
    host.tell("setup", {"ovirtmgmt": MANAGEMENT}, {}, {**CHECK, "connectivityTimeout": 60})
    eventually(lambda: host.gateway()[1] == "ovirtmgmt")
    host.kill()
    assert host.links() != before
    host.start()
    assert host.links() == before
    assert host.gateway() == ("192.0.2.1", "veth_a")


def test_a_restart_of_the_worker_changes_nothing(host: Namespace) -> None:
    host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {})
    before = host.links()
    host.kill()
    host.start()
    assert host.links() == before
    assert set(host.do("facts")["networks"]) == {"ovirtmgmt"}


def test_safe_networks_outlive_a_reboot_and_others_do_not(host: Namespace) -> None:
    host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {})
    host.do("safe")
    host.do("setup", {"other": {"nic": "veth_b"}}, {}, {})
    host.reboot()
    host.start()
    assert host.links()["ovirtmgmt"] == ("", ["192.0.2.2"])
    assert set(host.do("facts")["networks"]) == {"ovirtmgmt"}


def test_a_change_behind_our_back_is_seen_at_once(host: Namespace) -> None:
    assert host.do("facts")["nics"]["veth_b"]["mtu"] == "1500"
    host.ip("link", "set", "veth_b", "mtu", "1300")
    host.ip("addr", "add", "203.0.113.5/24", "dev", "veth_b")
    nic = host.do("facts")["nics"]["veth_b"]
    assert (nic["mtu"], nic["addr"]) == ("1300", "203.0.113.5")


def test_what_the_kernel_told_too_fast_is_read_again(host: Namespace) -> None:
    host.do("facts")
    pairs = range(250)
    storm = [f"link add name v{number} type veth peer name w{number}\n" for number in pairs]
    storm += [f"link delete v{number}\n" for number in pairs] + ["link set veth_b mtu 1300\n"]
    batch = host.place / "storm"
    batch.write_text("".join(storm))
    host.ip("-batch", str(batch))
    facts = host.do("facts")
    assert facts["nics"]["veth_b"]["mtu"] == "1300"
    assert set(host.do("counters")) == {"veth_a", "veth_b"}
    host.ip("link", "set", "veth_b", "mtu", "1400")
    assert host.do("facts")["nics"]["veth_b"]["mtu"] == "1400", "told again after the queue ran over"


def test_a_bad_wish_changes_nothing(host: Namespace) -> None:
    before = host.links()
    with pytest.raises(Refused) as refused:
        host.do("setup", {"red": {"nic": "nope"}}, {}, {})
    assert refused.value.code == 23
    with pytest.raises(Refused) as refused:
        host.do("setup", {"red": {"nic": "veth_b"}}, {}, {"connectivityCheck": True, "connectivityTimeout": -1})
    assert refused.value.code == 21
    assert host.links() == before


def test_a_network_with_a_guest_on_it_is_not_removed(host: Namespace) -> None:
    host.do("setup", {"red": {"nic": "veth_b"}}, {}, {})
    host.ip("tuntap", "add", "dev", "vnet0", "mode", "tap")
    host.ip("link", "set", "vnet0", "master", "red")
    with pytest.raises(Refused, match="vnet0 is plugged into it") as refused:
        host.do("setup", {"red": {"remove": True}}, {}, {})
    assert refused.value.code == 24
    assert host.links()["veth_b"][0] == "red"
    host.ip("link", "delete", "vnet0")
    host.do("setup", {"red": {"remove": True}}, {}, {})


WHOLE = {
    **MANAGEMENT,
    "ipv6addr": "2001:db8::2/64",
    "ipv6gateway": "2001:db8::1",
    "nameservers": ["203.0.113.53", "2001:db8::53"],
    "STP": "yes",
    "custom": {"bridge_opts": "multicast_snooping=0"},
}


def test_everything_about_a_network_is_applied_reported_and_undone(host: Namespace) -> None:
    before = host.do("seen")
    with pytest.raises(Refused):
        host.do("setup", {"ovirtmgmt": WHOLE}, {}, CHECK)
    assert host.do("seen") == before
    assert host.resolv.read_text() == "# kept\nsearch example.org\nnameserver 192.0.2.53\n"
    host.do("setup", {"ovirtmgmt": WHOLE}, {}, {})
    links, gateways, sources, ipv6, nameservers, _ = host.do("seen")
    assert links["ovirtmgmt"] == ["", ["192.0.2.2/24", "2001:db8::2/64"], 1400, True, 1]
    assert gateways == {"ovirtmgmt": {"4": "192.0.2.1", "6": "2001:db8::1"}}
    assert sources == {"192.0.2.2/24": ["ovirtmgmt", "192.0.2.1"]}
    assert (ipv6["ovirtmgmt"], nameservers) == ("static", ["203.0.113.53", "2001:db8::53"])
    assert host.resolv.read_text().startswith("# kept\nsearch example.org\nnameserver 203.0.113.53\n")
    assert '"mcast_snooping":0' in host.ip("-j", "-d", "link", "show", "ovirtmgmt")
    assert host.do("look") == []
    host.do("setup", {"ovirtmgmt": {"nic": "veth_a"}}, {}, {})
    links, gateways, sources, ipv6, _, _ = host.do("seen")
    assert (links["ovirtmgmt"][1], gateways, sources, ipv6["ovirtmgmt"]) == ([], {}, {}, "off")
    host.do("setup", {"ovirtmgmt": {"remove": True}}, {}, {})
    assert set(host.links()) == {"lo", "veth_a", "veth_b"}
    assert "32000" not in host.ip("rule", "show")


def test_a_default_route_of_ipv6_goes_with_its_network(host: Namespace) -> None:
    six = {"ipv6addr": "2001:db8::2/64", "ipv6gateway": "2001:db8::1", "defaultRoute": True}
    host.do("setup", {"red": {"nic": "veth_b", "bridged": False, **six}}, {}, {})
    assert "2001:db8::1 dev veth_b" in host.ip("-6", "route", "show", "default")
    host.do("setup", {"red": {"remove": True}}, {}, {})
    assert "2001:db8::1" not in host.ip("-6", "route", "show", "default")


def test_a_network_may_be_smaller_than_ipv6_allows(host: Namespace) -> None:
    host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {})
    six = {"ipv6addr": "2001:db8::2/64", "ipv6gateway": "2001:db8::1"}
    for wanted in ({**MANAGEMENT, "mtu": 68}, {**MANAGEMENT, **six}, {**MANAGEMENT, "mtu": 1279}, MANAGEMENT):
        before = host.do("seen")
        with pytest.raises(Refused, match="No confirmation"):
            host.do("setup", {"ovirtmgmt": wanted}, {}, CHECK)
        assert host.do("seen") == before
        host.do("setup", {"ovirtmgmt": wanted}, {}, {})
        assert host.do("look") == []


def test_replies_go_out_through_the_network_that_was_asked(host: Namespace) -> None:
    red = {"nic": "veth_b", "bridged": False, "ipaddr": "198.51.100.2", "netmask": "24", "gateway": "198.51.100.1"}
    host.do("setup", {"ovirtmgmt": MANAGEMENT, "red": red}, {}, {})
    assert "dev veth_b" in host.ip("route", "get", "203.0.113.7", "from", "198.51.100.2")
    assert "dev ovirtmgmt" in host.ip("route", "get", "203.0.113.7", "from", "192.0.2.2")
    assert "dev ovirtmgmt" in host.ip("route", "get", "203.0.113.7")
    host.do("setup", {"red": {**red, "defaultRoute": True}, "ovirtmgmt": {**MANAGEMENT, "defaultRoute": False}}, {}, {})
    assert "dev veth_b" in host.ip("route", "get", "203.0.113.7")
    assert "dev ovirtmgmt" in host.ip("route", "get", "203.0.113.7", "from", "192.0.2.2")


def test_what_others_changed_is_told_and_left_alone_until_it_is_asked_for(host: Namespace) -> None:
    host.do("setup", {"ovirtmgmt": WHOLE}, {}, {})
    for words, says in (
        (("link", "set", "ovirtmgmt", "mtu", "1300"), "MTU is 1300 instead of 1400"),
        (("link", "set", "veth_a", "nomaster"), "veth_a is not plugged into its bridge"),
        (("addr", "add", "192.0.2.99/24", "dev", "ovirtmgmt"), "has address 192.0.2.99/24, too"),
        (("addr", "del", "192.0.2.2/24", "dev", "ovirtmgmt"), "has lost its address 192.0.2.2/24"),
        (("route", "del", "default"), "has lost its default route"),
        (("rule", "del", "priority", "32000"), "replies"),
        (("link", "set", "ovirtmgmt", "type", "bridge", "stp_state", "0"), "spanning tree is off"),
        (("link", "set", "ovirtmgmt", "type", "bridge", "mcast_snooping", "1"), "other options"),
        (("link", "set", "ovirtmgmt", "down"), "switched off"),
        (("link", "delete", "ovirtmgmt"), "ovirtmgmt is gone"),
    ):
        host.ip(*words)
        assert any(says in problem for problem in host.do("look")), says
        host.do("setup", {"red": {"nic": "veth_b"}}, {}, {})
        assert any(says in problem for problem in host.do("look")), says
        host.do("setup", {"ovirtmgmt": WHOLE}, {}, {})
        assert host.do("look") == []


def test_one_dead_nic_after_a_reboot_does_not_cost_the_other_networks(host: Namespace) -> None:
    host.do("setup", {"ovirtmgmt": MANAGEMENT, "red": {"nic": "veth_b"}}, {}, {"commitOnSuccess": True})
    host.reboot()
    host.ip("link", "set", "veth_b", "name", "other")
    host.start()
    assert host.links()["ovirtmgmt"] == ("", ["192.0.2.2"])
    assert host.do("look") == ["red waits for NIC veth_b"]
    host.do("setup", {"blue": {}}, {}, {})
    host.ip("link", "set", "other", "name", "veth_b")
    assert host.do("look") == []
    assert host.links()["veth_b"][0] == "red"


def test_one_network_that_cannot_be_restored_does_not_cost_the_others(host: Namespace) -> None:
    host.do("setup", {"ovirtmgmt": MANAGEMENT, "red": {"nic": "veth_b"}}, {}, {"commitOnSuccess": True})
    host.reboot()
    host.ip("link", "add", "name", "red", "type", "veth", "peer", "name", "peer")
    host.start()
    assert host.links()["ovirtmgmt"] == ("", ["192.0.2.2"])
    assert any("red could not be brought up" in problem for problem in host.do("look"))
    host.ip("link", "delete", "red")
    assert host.do("look") == []
    assert host.links()["veth_b"][0] == "red"


def test_a_network_comes_back_without_what_the_kernel_refuses(host: Namespace) -> None:
    host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {"commitOnSuccess": True})
    host.reboot()
    # As if another kernel had taken it: this one forwards no frames of its own spanning tree.
    safe = host.place / "state/network/safe.json"
    kept = json.loads(safe.read_text())
    kept["networks"]["ovirtmgmt"]["bridge_options"] = {"group_fwd_mask": "7"}
    safe.write_text(json.dumps(kept))
    host.start()
    assert host.links()["ovirtmgmt"] == ("", ["192.0.2.2"])
    assert host.gateway() == ("192.0.2.1", "ovirtmgmt")
    assert any("could not be brought up" in problem for problem in host.do("look"))
    assert host.links()["ovirtmgmt"] == ("", ["192.0.2.2"])


def test_a_nic_that_went_away_takes_its_place_again_when_it_comes_back(host: Namespace) -> None:
    host.do("setup", {"red": {"nic": "veth_b", "mtu": 1300}}, {}, {})
    host.ip("link", "delete", "veth_a")
    assert any("veth_b" in problem for problem in host.do("look"))
    host.ip("link", "add", "veth_a", "type", "veth", "peer", "name", "veth_b")
    assert host.do("look") == []
    assert host.links()["veth_b"][0] == "red"


#: A switch that speaks every fifth of a second, until its input ends.
_SWITCH = """
import select, socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind((sys.argv[1], 0))
frame = "0180c200000e52540000000188cc" "0207045254000000010406053165302f37" "06020078" "0000"
frame = bytes.fromhex(frame).ljust(60, b"\\0")
while not select.select([sys.stdin], [], [], 0.2)[0]:
    sock.send(frame)
"""


def test_switches_are_heard_on_the_ports_of_bridges_and_what_we_send_is_not(host: Namespace) -> None:
    host.do("setup", {"red": {"nic": "veth_b"}}, {}, {})
    with host.beside(_SWITCH, "veth_a"):
        told = host.do("lldp", ["veth_a", "veth_b"], 3)
    assert told["veth_a"] == {"enabled": True, "tlvs": []}
    assert [one["name"] for one in told["veth_b"]["tlvs"]] == ["Chassis ID", "Port ID", "Time to Live"]
    assert told["veth_b"]["tlvs"][1]["properties"]["port ID"] == "1e0/7"


@pytest.mark.timeout(240)
def test_two_hundred_networks_come_in_one_change_and_go_in_another(host: Namespace) -> None:
    many = {f"net{number}": {"mtu": 1400} for number in range(200)}
    host.do("setup", many, {}, {"commitOnSuccess": True})
    assert set(many) <= set(host.links())
    host.do("setup", {name: {"remove": True} for name in many}, {}, {})
    assert set(host.links()) == {"lo", "veth_a", "veth_b"}


OLD = {"ovirtmgmt": {**MANAGEMENT, "nameservers": ["192.0.2.53"]}}
NEW = {
    "ovirtmgmt": {**WHOLE, "nic": "veth_b", "ipaddr": "192.0.2.9"},
    "red": {"nic": "veth_a", "bridged": False, "ipv6autoconf": True, "mtu": 1300},
}


#: Of the moments between two writes or steps, which are tried. 1 = all of them, in minutes.
EVERY = 4


@pytest.mark.timeout(240)
def test_death_at_any_moment_of_a_change_leaves_the_old_networks_or_the_new_ones(host: Namespace) -> None:
    host.do("setup", OLD, {}, {})
    old = host.do("seen")
    host.do("setup", NEW, {}, {})
    new = host.do("seen")
    host.do("setup", {**OLD, "red": {"remove": True}}, {}, {})
    assert host.do("seen") == old
    outcomes = []
    for moment in range(1, 200, EVERY):
        host.stop()
        host.start(die_at=moment)
        if host.do_or_die("setup", NEW, {}, {}):
            break
        host.reap()
        if moment % 3 == 1:
            # Who undoes it may die, too.
            host.start(die_at=1 + moment % 7)
            host.kill()
        host.start()
        outcomes.append(host.do("seen"))
        assert outcomes[-1] in (old, new), f"moment {moment}: {outcomes[-1]} is neither {old} nor {new}"
        if outcomes[-1] == new:
            host.do("setup", {**OLD, "red": {"remove": True}}, {}, {})
    assert outcomes[0] == old
    assert len(outcomes) > 25 / EVERY


def test_what_confirms_while_the_change_is_made_does_not_count(host: Namespace) -> None:
    host.do("confirm_until_it_waits")
    with pytest.raises(Refused, match="No confirmation"):
        host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, CHECK)
