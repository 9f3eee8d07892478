# SPDX-License-Identifier: Apache-2.0
"""Plans of bonds, played on a model of the kernel, forwards and backwards."""

import pytest

from tests.support.kernelmodel import managed_host, nic
from vdsm_mp.api.errors_network import UsedBond
from vdsm_mp.network.options import in_place
from vdsm_mp.network.state import Link


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


def test_a_bond_is_not_removed_under_a_network() -> None:
    host = managed_host()
    host.set({"red": {"bonding": "bond0"}}, {"bond0": {"nics": ["eth1"]}})
    with pytest.raises(UsedBond):
        host.set({}, {"bond0": {"remove": True}})


def test_a_bond_of_others_is_taken_over_as_it_is_or_made_anew() -> None:
    host = managed_host()
    host.kernel.links["bond7"] = Link("bond7", kind="bond", up=True, options={"mode": "active-backup", "miimon": 100})
    host.kernel.links["eth1"] = nic("eth1", master="bond7")
    host.kernel.ipv6["bond7"] = "auto"
    steps = host.set({}, {"bond7": {"nics": ["eth1"], "options": "mode=1 miimon=100"}})
    assert steps == []
    assert "bond-create" in [step.do[0] for step in host.set({}, {"bond7": {"nics": ["eth1"], "options": "mode=4"}})]
