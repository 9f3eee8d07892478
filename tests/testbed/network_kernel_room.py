# SPDX-License-Identifier: Apache-2.0
"""Runs inside one testbed host: everything about networks that needs 802.1q, bonds or queues of a full kernel.

    python -m tests.testbed.network_kernel_room SCENE...

NICs nic1 to nic3 are wires into namespace `far`: nic1 and nic2 into a switch with VLANs 100 and 200, nic3 to a server
of addresses that speaks LLDP. A scene asserts what it sees; its name on stdout says that it is over.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tests.support.eventually import eventually
from tests.testbed.network_room import LIBEXEC, reaches
from vdsm_mp.api.errors_network import ConnectivityLost
from vdsm_mp.common.options import Vars
from vdsm_mp.network import caps
from vdsm_mp.network.commit import Networks
from vdsm_mp.network.details import nameservers, shapes
from vdsm_mp.network.drift import drift
from vdsm_mp.network.neighbours import Neighbours
from vdsm_mp.network.persist import Store
from vdsm_mp.network.state import Source
from vdsm_mp.network.upkeep import Upkeep
from vdsm_mp.network.watch import Watch
from vdsm_mp.priv import install
from vdsm_mp.priv.call import SudoRoot

_FAR = """
set -e
ip netns add far
for n in 1 2 3; do ip link add nic$n type veth peer name p$n netns far; ip link set nic$n up; done
far() { ip netns exec far "$@"; }
far ip link set lo up
far ip link add name sw type bridge
for p in p1 p2; do far ip link set $p mtu 9000 up; far ip link set $p master sw; done
far ip link set sw mtu 9000 up
for v in 100 200; do
    far ip link add link sw name sw.$v type vlan id $v; far ip link set sw.$v up; far ip addr add 10.$v.0.1/24 dev sw.$v
done
far ip addr add 10.99.0.1/24 dev p3; far ip addr add 2001:db8:99::1/64 dev p3 nodad; far ip link set p3 up
"""
_DNSMASQ = (
    *("ip", "netns", "exec", "far", "dnsmasq", "--no-daemon", "--interface=p3", "--bind-interfaces", "--port=0"),
    *("--dhcp-leasefile=/tmp/leases", "--dhcp-range=10.99.0.100,10.99.0.120,1h", "--dhcp-option=3,10.99.0.1"),
    *("--dhcp-option=6,10.99.0.53", "--dhcp-range=2001:db8:99::100,2001:db8:99::1ff,slaac,64,1h", "--enable-ra"),
    *("--dhcp-option=option6:dns-server,[2001:db8:99::53]", "--log-facility=/tmp/dnsmasq.log", "--user=root"),
)
BOND = {"nics": ["nic1", "nic2"], "options": "mode=1 miimon=100"}
RED = {"bonding": "bond0", "vlan": 100, "mtu": 1500, "ipaddr": "10.100.0.2", "netmask": "24", "gateway": "10.100.0.1"}
BLUE = {"bonding": "bond0", "vlan": 200, "mtu": 1400, "bridged": False, "ipaddr": "10.200.0.2", "netmask": "24"}
UNCONFIRMED = {"connectivityCheck": True, "connectivityTimeout": 0.5}


class Host:
    def __init__(self) -> None:
        install.install(LIBEXEC, user="root", repository="/tmp")
        self.root = SudoRoot("network", str(LIBEXEC))
        self.watch = Watch()
        self.watch.open()
        self.networks = Networks(self.root, self.watch, Store("/run/agent", "/var/lib/agent"))
        self.upkeep = Upkeep(self.networks)
        self.upkeep.start()

    def set(self, networks: Mapping[str, Any], bonds: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.networks.setup(networks, bonds or {}, options)
        found = drift(self.networks.state(), self.networks.config)
        assert not found, found

    def back_and_forth(self, networks: Mapping[str, Any], bonds: Mapping[str, Any] | None = None) -> None:
        """Nobody confirms, so that all is as before; then it stays."""
        before = self.seen()
        try:
            self.networks.setup(networks, bonds or {}, UNCONFIRMED)
        except ConnectivityLost:
            eventually(lambda: self.seen() == before, within_s=10)
        else:
            raise AssertionError("somebody confirmed")
        self.set(networks, bonds)

    def seen(self) -> list[Any]:
        state = self.networks.state()
        links = {
            name: [link.kind, link.master, sorted(link.addresses), link.mtu, link.up, link.bond_options]
            for name, link in state.links.items()
            if not name.startswith("tun")
        }
        classes = [line for nic in ("bond0", "nic3") for line in queues(nic) if nic in links]
        gateways = {device: found for device, found in state.gateways.items() if found}
        sources = {address: [source.device, source.gateway] for address, source in state.sources.items()}
        return [links, gateways, sources, dict(state.ipv6), list(state.nameservers), classes]

    def mtus(self, *names: str) -> list[int]:
        links = self.watch.now().links
        return [links[name].mtu for name in names]

    def facts(self) -> dict[str, Any]:
        state = self.watch.now()
        state = replace(state, shaped=shapes(state))
        return caps.facts(state, self.networks.config, Vars(fake_nics="nic*"), nameservers())

    def clear(self) -> None:
        config = self.networks.config
        self.set({n: {"remove": True} for n in config.networks}, {b: {"remove": True} for b in config.bonds})
        left = set(self.watch.now().links) - {"lo", "nic1", "nic2", "nic3", "eth0"}
        assert not [name for name in left if not name.startswith("tun")], left
        rules = json.loads(output("ip", "-j", "rule", "show"))
        assert 32000 not in [rule["priority"] for rule in rules]
        assert self.mtus("nic1", "nic2", "nic3") == [1500] * 3


def output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def queues(nic: str) -> list[str]:
    shown = subprocess.run(["tc", "class", "show", "dev", nic], capture_output=True, text=True, check=False).stdout
    # Leaves are numbered as they come.
    return sorted(re.sub(r" leaf \w+:", "", line) for line in shown.splitlines() if line.startswith("class hfsc"))


def chain(host: Host) -> None:
    """Sizes of bond, VLAN devices and bridges, up and down; NICs of the bond come and go under its networks."""
    host.back_and_forth({"red": RED, "blue": BLUE, "plain": {"bonding": "bond0"}}, {"bond0": BOND})
    eventually(lambda: reaches("10.100.0.1") and reaches("10.200.0.1"), within_s=30)
    devices = ("nic1", "nic2", "bond0", "bond0.100", "red", "bond0.200")
    assert host.mtus(*devices) == [1500, 1500, 1500, 1500, 1500, 1400]
    host.back_and_forth({"red": {**RED, "mtu": 9000}, "blue": {**BLUE, "mtu": 4000}})
    assert host.mtus(*devices) == [9000, 9000, 9000, 9000, 9000, 4000]
    host.back_and_forth({"red": {**RED, "mtu": 1300}, "blue": BLUE})
    assert host.mtus(*devices) == [1400, 1400, 1400, 1300, 1300, 1400]
    assert reaches("10.100.0.1")
    host.back_and_forth({}, {"bond0": {**BOND, "nics": ["nic1"]}})
    assert host.facts()["bondings"]["bond0"]["slaves"] == ["nic1"]
    host.back_and_forth({}, {"bond0": {**BOND, "nics": ["nic2"]}})
    host.back_and_forth({}, {"bond0": BOND})
    assert reaches("10.200.0.1")
    host.back_and_forth({"blue": {"remove": True}, "red": {**BLUE, "bridged": True, "vlan": 200}})
    assert reaches("10.200.0.1")


def modes(host: Host) -> None:
    """Every mode with its options, from one to the next under a network; some of them undone once."""
    host.set({"red": RED}, {"bond0": BOND})
    for options in (
        "mode=0 miimon=100",
        "mode=1 miimon=150 updelay=300 downdelay=150 primary=nic1 primary_reselect=2 fail_over_mac=1",
        "mode=2 miimon=100 xmit_hash_policy=layer2+3",
        "mode=3 arp_interval=500 arp_ip_target=10.100.0.1,10.100.0.9",
        "mode=4 miimon=100 lacp_rate=1 ad_select=2 xmit_hash_policy=1 min_links=0",
        "mode=5 miimon=100 tlb_dynamic_lb=0",
        "mode=balance-alb miimon=100",
        "mode=active-backup use_carrier=1 miimon=100 num_grat_arp=3",
    ):
        change = host.back_and_forth if "mode=4" in options or "primary" in options else host.set
        change({}, {"bond0": {**BOND, "options": options}})
        told = host.facts()["bondings"]["bond0"]
        assert told["slaves"] == ["nic1", "nic2"], options
    host.set({}, {"bond0": {**BOND, "hwaddr": "52:54:00:aa:bb:cc"}})
    assert host.facts()["bondings"]["bond0"]["hwaddr"] == "52:54:00:aa:bb:cc"


def options(host: Host) -> None:
    """A bond keeps its ports, its VLANs and what is on them while its options change; those of somebody else, too."""
    six = {"ipv6addr": "2001:db8:100::2/64", "ipv6gateway": "2001:db8:100::1"}
    plain = {"bonding": "bond0", "bridged": False, "ipaddr": "10.5.0.2", "netmask": "24", "gateway": "10.5.0.1", **six}
    first = {**BOND, "options": "mode=1 miimon=100 primary=nic1"}
    host.set({"red": RED, "plain": {**plain, "defaultRoute": True}}, {"bond0": first})
    made = _indexes("bond0", "bond0.100", "red")
    for options in (
        "mode=1 miimon=150 updelay=300 downdelay=150 primary=nic2 primary_reselect=2",
        "mode=1 miimon=150 updelay=150 primary=nic1 num_grat_arp=3 resend_igmp=2",
        "mode=1 miimon=100 primary=nic1 all_slaves_active=1",
    ):
        host.back_and_forth({}, {"bond0": {**BOND, "options": options}})
        assert _indexes("bond0", "bond0.100", "red") == made, options
        eventually(lambda: reaches("10.100.0.1"), within_s=30)
    host.set({}, {"bond0": {**BOND, "options": "mode=4 miimon=100"}})
    made = _indexes("bond0", "bond0.100", "red")
    for options in (
        "mode=4 miimon=100 lacp_rate=1 ad_select=bandwidth",
        "mode=4 miimon=100 xmit_hash_policy=layer3+4 min_links=1",
    ):
        host.back_and_forth({}, {"bond0": {**BOND, "options": options}})
        assert _indexes("bond0", "bond0.100", "red") == made, options
    subprocess.run(["ip", "link", "set", "bond0", "type", "bond", "miimon", "50"], check=True)
    assert drift(host.networks.state(), host.networks.config)
    host.set({}, {"bond0": {**BOND, "options": options}})


def _indexes(*names: str) -> list[int]:
    return [json.loads(output("ip", "-j", "link", "show", "dev", name))[0]["ifindex"] for name in names]


def others(host: Host) -> None:
    """A bond that somebody else made is used, taken over, and removed."""
    make = "ip link add name bond5 type bond mode 1 miimon 100; ip link set nic1 down; ip link set nic1 master bond5"
    subprocess.run(["bash", "-ec", f"{make}; ip link set bond5 up"], check=True)
    host.set({"red": {**RED, "bonding": "bond5"}})
    host.back_and_forth({}, {"bond5": {"nics": ["nic1", "nic2"], "options": "mode=1 miimon=100"}})
    host.set({"red": {"remove": True}}, {"bond5": {"remove": True}})
    subprocess.run(["bash", "-ec", f"{make}; ip link set bond5 up"], check=True)
    host.set({}, {"bond5": {"remove": True}})
    assert "bond5" not in host.watch.now().links
    # What a bond lets go carries a network in the same change.
    host.set({"red": RED}, {"bond0": BOND})
    host.back_and_forth({"blue": {**BLUE, "bonding": "", "nic": "nic2"}}, {"bond0": {**BOND, "nics": ["nic1"]}})
    host.back_and_forth({"red": {**RED, "bonding": "", "nic": "nic1"}}, {"bond0": {"remove": True}})
    assert reaches("10.100.0.1") and reaches("10.200.0.1")
    host.clear()
    _routes(host)


def _routes(host: Host) -> None:
    """Routes that others made are there again when a change is undone, whatever became of the NIC meanwhile."""
    for words in (
        *("addr add 10.5.0.2/24 dev nic1", "-6 addr add 2001:db8:5::2/64 dev nic1 nodad"),
        *("route add 203.0.113.1 dev nic1", "route add default via 203.0.113.1 dev nic1 metric 50 onlink"),
        "route add 198.51.100.0/24 via 10.5.0.1 dev nic1 src 10.5.0.2 proto static",
        *(
            "-6 route add 2001:db8:6::/64 via 2001:db8:5::1 dev nic1",
            "-6 route add 2001:db8:7::/64 via fe80::5 dev nic1",
        ),
    ):
        output("ip", *words.split())
    way = {"ipaddr": "10.5.0.2", "netmask": "24", "gateway": "10.5.0.1", "defaultRoute": True}
    for change in (({"red": {**way, "nic": "nic1"}}, {}), ({"red": {**way, "bonding": "bond0"}}, {"bond0": BOND})):
        before = _main_table()
        try:
            host.networks.setup(*change, UNCONFIRMED)
        except ConnectivityLost:
            assert _main_table() == before
        else:
            raise AssertionError("somebody confirmed")
    host.set({"red": {"nic": "nic1"}})


def _main_table() -> list[str]:
    lines = output("ip", "-4", "route").splitlines() + output("ip", "-6", "route").splitlines()
    # The kernel makes its own when a NIC has found its other end.
    return sorted(line.strip() for line in lines if "proto kernel" not in line)


def _sent(address: str, size: int, seconds: float) -> float:
    """Seconds that so many bytes took to a server at the far end."""
    code = (
        "import socket; s = socket.create_server(('', 5001)); print('up', flush=True); c, _ = s.accept(); n = 0\n"
        "while d := c.recv(65536): n += len(d)\n"
        "c.sendall(b'done')"
    )
    argv = ["ip", "netns", "exec", "far", sys.executable, "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline() == "up\n"
        began = time.monotonic()
        with socket.create_connection((address, 5001), timeout=seconds) as sock:
            sock.sendall(bytes(size))
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(4) == b"done"
        return time.monotonic() - began


def shaping(host: Host) -> None:
    """Curves of two VLANs and of what has no tag, measured, changed, undone, removed; a new bond has them again."""
    slow = {"out": {"ls": {"m2": 50}, "ul": {"m2": 1_000_000}}}
    fast = {"out": {"ls": {"m1": 20, "d": 10_000, "m2": 100}, "rt": {"m2": 50_000_000}}}
    host.back_and_forth({"red": {**RED, "hostQos": slow}, "blue": {**BLUE, "hostQos": fast}}, {"bond0": BOND})
    assert [line.split()[2] for line in queues("bond0")] == ["5001:", "5001:1388", "5001:64", "5001:c8"]
    eventually(lambda: reaches("10.100.0.1") and reaches("10.200.0.1"), within_s=30)
    limited, free = _sent("10.100.0.1", 500_000, 60), _sent("10.200.0.1", 500_000, 60)
    assert limited > 3.0, f"4 Mbit went in {limited} s through a limit of 1 Mbit a second"
    assert free < limited / 2, (limited, free)
    host.back_and_forth({"red": {**RED, "hostQos": {"out": {"ls": {"m2": 50}}}}})
    assert _sent("10.100.0.1", 500_000, 60) < limited / 2
    host.back_and_forth({"plain": {"bonding": "bond0", "hostQos": fast}})
    host.back_and_forth({}, {"bond0": {**BOND, "options": "mode=2 miimon=100"}})
    assert [line.split()[2] for line in queues("bond0")] == ["5001:", "5001:1388", "5001:138a", "5001:64", "5001:c8"]
    assert host.facts()["networks"]["blue"]["hostQos"] == fast
    # By somebody's hand: told, and mended when the network is asked for again.
    change = ["tc", "class", "change", "dev", "bond0", "parent", "5001:", "classid", "5001:c8", "hfsc"]
    subprocess.run([*change, "ls", "m2", "240bit", "rt", "m1", "2Mbit", "d", "20ms", "m2", "1Mbit"], check=True)
    assert drift(host.networks.state(), host.networks.config) == {
        "blue": "network blue: its traffic is shaped otherwise"
    }
    other = {"ls": {"m2": 30}, "rt": {"m1": 2_000_000, "d": 20_000, "m2": 1_000_000}}
    assert host.facts()["networks"]["blue"]["hostQos"] == {"out": other}
    host.back_and_forth({"blue": {**BLUE, "hostQos": fast}})
    assert host.facts()["networks"]["blue"]["hostQos"] == fast
    host.back_and_forth({"plain": {"remove": True}, "red": RED, "blue": {**BLUE}})
    assert queues("bond0") == []


@contextlib.contextmanager
def _server() -> Iterator[None]:
    with subprocess.Popen(_DNSMASQ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield
        finally:
            server.terminate()


def dynamic(host: Host) -> None:
    """Addresses of both families from servers and routers, with and without the default route, and given back."""
    resolv = Path("/etc/resolv.conf")
    before = resolv.read_text() if resolv.exists() else ""
    by_server = {"nic": "nic3", "bootproto": "dhcp", "blockingdhcp": True, "dhcpv6": True, "ipv6autoconf": True}
    with _server():
        host.set({"dyn": {**by_server, "defaultRoute": True}})
        eventually(lambda: len(host.facts()["networks"]["dyn"]["ipv6addrs"]) == 2, within_s=30)
        told = host.facts()["networks"]["dyn"]
        assert told["addr"].startswith("10.99.0.1") and told["gateway"] == "10.99.0.1"
        assert (told["dhcpv4"], told["dhcpv6"], told["ipv6autoconf"]) == (True, True, True)
        eventually(lambda: host.facts()["networks"]["dyn"]["ipv6gateway"].startswith("fe80"), within_s=30)
        assert "10.99.0.53" in eventually(nameservers, within_s=10)
        assert _answers(host) == [Source("dyn", "10.99.0.1")]
        host.set({"dyn": {**by_server, "defaultRoute": True, "nameservers": ["10.99.0.54"]}})
        assert nameservers() == ["10.99.0.54"]
        host.set({"dyn": {**by_server, "defaultRoute": False}})
        told = host.facts()["networks"]["dyn"]
        assert (told["addr"][:9], told["gateway"]) == ("10.99.0.1", "")
        assert _answers(host) == [Source("dyn", "10.99.0.1")]
        assert "via 10.99.0.1 dev dyn" in output("ip", "route", "get", "203.0.113.7", "from", told["addr"])
        assert "10.99.0.1" not in output("ip", "-4", "route", "show", "default")
        host.set({"dyn": {**by_server, "defaultRoute": False}})
        assert list(host.networks.state().sources.values()) == [Source("dyn", "10.99.0.1")]
        output("ip", "rule", "del", "priority", "32000")
        assert _answers(host) == [Source("dyn", "10.99.0.1")]
        eventually(lambda: host.facts()["networks"]["dyn"]["ipv6gateway"] == "::", within_s=30)
        host.set({"dyn": {"nic": "nic3", "dhcpv6": True, "blockingdhcp": True}})
        assert not host.networks.state().sources
        (only,) = host.facts()["networks"]["dyn"]["ipv6addrs"]
        assert only.startswith("2001:db8:99::1"), only
        host.root.close()
        assert output("pgrep", "dhclient").split(), "the client outlives the worker"
        host.upkeep.start()
        assert len(output("pgrep", "dhclient").split()) == 1
        host.set({"dyn": {"nic": "nic3", "ipaddr": "10.99.0.2", "netmask": "24"}})
        told = host.facts()["networks"]["dyn"]
        assert (told["ipv4addrs"], told["ipv6addrs"]) == (["10.99.0.2/24"], [])
        # A bond that is made anew is another device for the client on it.
        bond = {"nics": ["nic3"], "options": "mode=1 miimon=100"}
        client = {"bonding": "bond0", "bridged": False, "bootproto": "dhcp", "blockingdhcp": True}
        host.set({"dyn": client}, {"bond0": bond})
        host.set({}, {"bond0": {**bond, "options": "mode=2 miimon=100"}})
        assert host.facts()["networks"]["dyn"]["addr"].startswith("10.99.0.1")
        assert len(output("pgrep", "dhclient").split()) == 1
        host.set({"dyn": {"nic": "nic3"}}, {"bond0": {"remove": True}})
    resolv.write_text(before)
    host.set({"dyn": {"remove": True}})
    assert subprocess.run(["pgrep", "dhclient"], capture_output=True, check=False).stdout == b""
    silent = {"nic": "nic3", "bootproto": "dhcp", "blockingdhcp": True}
    seen = host.seen()
    try:
        host.networks.setup({"dyn": silent}, {}, {})
    except Exception as error:
        assert getattr(error, "code", 0) == 29, error
    else:
        raise AssertionError("no server answers")
    assert host.seen() == seen
    assert subprocess.run(["pgrep", "dhclient"], capture_output=True, check=False).stdout == b""


def _answers(host: Host) -> list[Source]:
    """By which ways what came to addresses of servers is answered, after a beat."""
    host.upkeep = Upkeep(host.networks)
    host.upkeep.look(host.watch.now())
    return list(host.networks.state().sources.values())


def lldp(host: Host) -> None:
    """What lldpad says at the other end of a wire that is under a bridge."""
    host.set({"wire": {"nic": "nic3"}})
    # Configured by its own tool over a socket in the namespace's name; without hardware it starts only with -t.
    with subprocess.Popen(["ip", "netns", "exec", "far", "lldpad", "-t"]) as agent:
        try:
            tool = ["ip", "netns", "exec", "far", "lldptool"]
            eventually(
                lambda: subprocess.run([*tool, "-ping"], capture_output=True, check=False).returncode == 0, within_s=30
            )
            output(*tool, "set-lldp", "-i", "p3", "adminStatus=rxtx")
            output(*tool, "-T", "-i", "p3", "-V", "sysName", "enableTx=yes")
            told = Neighbours(host.root, enabled=True).tell(host.watch.now(), ["nic3"])["nic3"]["tlvs"]
        finally:
            agent.terminate()
    found = {one["name"]: one["properties"] for one in told}
    mac = json.loads(output("ip", "-n", "far", "-j", "link", "show", "dev", "p3"))[0]["address"]
    assert found["Port ID"] == {"port ID subtype": "MAC", "port ID": mac}, found
    assert found["Time to Live"]["time to live"] == "120"
    assert "system name" in found["System Name"]


def deaths(host: Host) -> None:
    """kill -9 between the steps of a change that makes a bond anew under VLANs of another size."""
    host.set({"red": RED, "blue": BLUE}, {"bond0": BOND})
    old = host.seen()
    qos = {"out": {"ls": {"m2": 50}}}
    change = (
        {"red": {**RED, "mtu": 9000, "hostQos": qos}, "blue": {**BLUE, "vlan": 201}},
        {"bond0": {**BOND, "options": "mode=2 miimon=100"}},
    )
    back = ({"red": RED, "blue": BLUE}, {"bond0": BOND})
    host.set(*change)
    new = host.seen()
    host.set(*back)
    assert host.seen() == old
    outcomes = []
    for moment in range(2, 400, 11):
        if not _dies(moment, change):
            break
        host.upkeep.start()
        outcomes.append(host.seen())
        assert outcomes[-1] in (old, new), (moment, outcomes[-1], old)
        if outcomes[-1] == new:
            host.set(*back)
    assert len(outcomes) > 4 and outcomes[0] == old


def management(host: Host) -> None:
    """The way to the host: from a NIC to a bridge, a bond, a VLAN on it, and over boots that lack NICs."""
    for words in (
        "-n far addr add 10.5.0.1/24 dev sw",
        "addr add 10.5.0.2/24 dev nic1",
        "route add default via 10.5.0.1",
    ):
        output("ip", *words.split())
    way = {"ipaddr": "10.5.0.2", "netmask": "255.255.255.0", "gateway": "10.5.0.1", "defaultRoute": True}
    host.back_and_forth({"ovirtmgmt": {**way, "nic": "nic1"}})
    assert reaches("10.5.0.1")
    host.back_and_forth({"ovirtmgmt": {**way, "bonding": "bond0"}}, {"bond0": BOND})
    eventually(lambda: reaches("10.5.0.1"), within_s=30)
    assert _gateway() == ("10.5.0.1", "ovirtmgmt")
    host.back_and_forth({"ovirtmgmt": {**RED, "defaultRoute": True}})
    eventually(lambda: reaches("10.100.0.1"), within_s=30)
    assert _gateway() == ("10.100.0.1", "ovirtmgmt")
    host.set({"blue": BLUE, "store": {"nic": "nic3", "bridged": False}})
    host.networks.keep_safe()
    safe, seen = host.networks.config, host.seen()

    _reboot(host, "nic2")
    assert host.networks.config == safe
    assert host.facts()["bondings"]["bond0"]["slaves"] == ["nic1"]
    eventually(lambda: reaches("10.100.0.1") and reaches("10.200.0.1"), within_s=30)
    assert host.upkeep.problems() == ["bond0 waits for NIC nic2"]
    # Under another name nobody knows it; under its own it is a port again.
    output("ip", "link", "set", "lost", "name", "other")
    host.upkeep.look(host.watch.now())
    assert host.upkeep.problems() == ["bond0 waits for NIC nic2"]
    output("ip", "link", "set", "other", "name", "nic2")
    host.upkeep.look(host.watch.now())
    assert (host.upkeep.problems(), host.seen()) == ([], seen)

    # Without any of its NICs the way is not there, what does not stand on them is, and all of it when they are back.
    _reboot(host, "nic1", "nic2")
    assert set(host.facts()["networks"]) == {"store"}
    for name in ("nic1", "nic2"):
        output("ip", "link", "set", f"lost{name}", "name", name)
    host.upkeep.look(host.watch.now())
    assert (host.upkeep.problems(), host.seen()) == ([], seen)
    host.clear()
    assert _gateway() == ("", "")


def _gateway() -> tuple[str, str]:
    (found, *_) = [*json.loads(output("ip", "-j", "-4", "route", "show", "default") or "[]"), {}]
    return found.get("gateway", ""), found.get("dev", "")


def _reboot(host: Host, *lost: str) -> None:
    """As after one with other names for these NICs."""
    for name in ("ovirtmgmt", "bond0.100", "bond0.200", "bond0"):
        output("ip", "link", "delete", name)
    for name in ("nic1", "nic2", "nic3"):
        output("ip", "addr", "flush", "dev", name)
        output("ip", "link", "set", name, "down")
    for name in lost:
        output("ip", "link", "set", name, "name", "lost" if len(lost) == 1 else f"lost{name}")
    for rule in json.loads(output("ip", "-j", "rule", "show")):
        if rule["priority"] == 32000:
            output("ip", "rule", "del", "priority", "32000")
    shutil.rmtree("/run/agent/network")
    host.networks = Networks(host.root, host.watch, Store("/run/agent", "/var/lib/agent"))
    host.upkeep = Upkeep(host.networks)
    host.upkeep.start()


def _dies(moment: int, change: tuple[dict[str, Any], dict[str, Any]]) -> bool:
    place = Path("/tmp/place")
    place.mkdir(exist_ok=True)
    for name, target in (("libexec", LIBEXEC), ("run", "/run/agent"), ("state", "/var/lib/agent")):
        with contextlib.suppress(FileExistsError):
            (place / name).symlink_to(target)
    argv = [sys.executable, "-m", "tests.support.netns_worker", str(place), str(moment)]
    lines = json.dumps(["setup", [*change, {}]]) + "\n"
    done = subprocess.run(argv, input=lines, text=True, capture_output=True, check=False, timeout=120)
    return done.returncode == -signal.SIGKILL


SCENES: Mapping[str, Callable[[Host], None]] = {
    scene.__name__: scene for scene in (chain, modes, options, management, others, shaping, dynamic, lldp, deaths)
}


def main() -> None:
    subprocess.run(["bash", "-c", _FAR], check=True)
    Path("/etc/resolv.conf").touch()
    for name in sys.argv[1:]:
        host, began = Host(), time.monotonic()
        try:
            SCENES[name](host)
            host.clear()
        finally:
            host.root.close()
            host.watch.close()
        print(f"SEEN {name} {time.monotonic() - began:.1f}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
