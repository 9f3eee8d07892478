# SPDX-License-Identifier: Apache-2.0
"""Runs inside a testbed host: networks on bonds and VLANs of a full kernel, through root's real helper.

    python -m tests.testbed.network_room server|client

Prints one JSON line of what it saw; an exception is a failure.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from vdsm_mp.api.errors_network import ConnectivityLost
from vdsm_mp.common.options import Vars
from vdsm_mp.network import caps
from vdsm_mp.network.commit import Networks
from vdsm_mp.network.connectivity import Connectivity
from vdsm_mp.network.persist import Store
from vdsm_mp.network.upkeep import Upkeep
from vdsm_mp.network.watch import Watch
from vdsm_mp.priv import install
from vdsm_mp.priv.call import SudoRoot

LIBEXEC = Path("/usr/libexec/vdsm-mp")
BOND = {"nics": ["eth1", "eth2"], "options": "mode=1 miimon=100 primary=eth1"}
RED = {"bonding": "bond0", "vlan": 100, "bridged": True, "mtu": 1400}


class Host:
    def __init__(self, address: str) -> None:
        install.install(LIBEXEC, user="root", repository="/tmp")
        self.root = SudoRoot("network", str(LIBEXEC))
        self.watch = Watch()
        self.watch.open()
        self.told: list[object] = []
        self.connectivity = Connectivity(self)
        self.networks = Networks(self.root, self.watch, Store("/run/agent", "/var/lib/agent"))
        self.upkeep = Upkeep(self.networks)
        self.upkeep.start()
        self.red = {**RED, "ipaddr": address, "netmask": "255.255.255.0"}

    def publish(self, event: object) -> None:
        self.told.append(event)

    def facts(self) -> dict[str, Any]:
        return caps.facts(self.watch.now(), self.networks.config, Vars(), [])

    def set(self, networks: dict[str, Any], bonds: dict[str, Any] | None = None, **options: Any) -> None:
        self.networks.setup(networks, bonds or {}, options)

    def look(self) -> int:
        """One beat of the watch; how often engines were told."""
        self.connectivity.look(self.watch.now())
        return len(self.told)


def reaches(address: str) -> bool:
    return subprocess.run(["ping", "-c1", "-W2", address], capture_output=True, check=False).returncode == 0


def server() -> dict[str, Any]:
    host = Host("10.88.0.1")
    host.set({"red": host.red}, {"bond0": BOND})
    argv = ["dnsmasq", "--interface=red", "--bind-interfaces", "--port=0", "--dhcp-range=10.88.0.100,10.88.0.120,1h"]
    subprocess.run([*argv, "--dhcp-option=3,10.88.0.1", "--dhcp-leasefile=/tmp/leases"], check=True)
    return {}


def client() -> dict[str, Any]:
    host = Host("10.88.0.2")
    host.set({"red": host.red}, {"bond0": BOND})
    first = host.facts()
    eventually(lambda: reaches("10.88.0.1"), within_s=30)
    host.look()

    # Each pair of NICs is a wire of its own, so the way back must be taken before anything is reached again.
    subprocess.run(["ip", "link", "set", "eth1", "down"], check=True)
    eventually(lambda: host.look() == 1, within_s=30)
    subprocess.run(["ip", "link", "set", "eth1", "up"], check=True)
    eventually(lambda: host.look() == 2, within_s=30)

    unconfirmed = False
    try:
        host.set({}, {"bond0": {**BOND, "options": "mode=2 miimon=50"}}, connectivityCheck=True, connectivityTimeout=2)
    except ConnectivityLost:
        unconfirmed = True
    back = host.facts()
    eventually(lambda: reaches("10.88.0.1"), within_s=30)
    host.set({}, {"bond0": {**BOND, "options": "mode=1 miimon=50 primary=eth1"}})
    other_mode = host.facts()

    host.set({"red": {**RED, "bootproto": "dhcp", "blockingdhcp": True, "defaultRoute": False}})
    by_dhcp = eventually(lambda: host.facts()["networks"]["red"]["addr"] and host.facts(), within_s=60)
    reached = reaches("10.88.0.1")
    host.root.close()
    outlives = bool(subprocess.run(["pgrep", "dhclient"], capture_output=True, check=False).stdout)
    host.set({"red": {"remove": True}}, {"bond0": {"remove": True}})
    last = host.facts()
    found = {
        "slaves": first["bondings"]["bond0"]["slaves"],
        "vlan": first["vlans"]["bond0.100"]["vlanid"],
        "ports": first["bridges"]["red"]["ports"],
        "told": len(host.told),
        "unconfirmed": unconfirmed,
        "modes": [facts["bondings"]["bond0"]["opts"] for facts in (first, back, other_mode)],
        "address": by_dhcp["networks"]["red"]["addr"],
        "dynamic": by_dhcp["bridges"]["red"]["dhcpv4"],
        "gateway": by_dhcp["networks"]["red"]["gateway"],
        "reached": reached,
        "outlives": outlives,
        "left": [*last["bondings"], *last["vlans"], *last["bridges"]],
        "clients": subprocess.run(["pgrep", "dhclient"], capture_output=True, text=True, check=False).stdout.split(),
    }
    host.root.close()
    host.watch.close()
    return found


if __name__ == "__main__":
    print("SEEN " + json.dumps({"server": server, "client": client}[sys.argv[1]]()), flush=True)
