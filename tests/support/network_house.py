# SPDX-License-Identifier: Apache-2.0
"""A whole house in the network namespace of a test: an engine sets networks up through the door.

    ip netns exec NAME python -m tests.support.network_house

Prints one JSON object of what it saw.
"""

import json
import subprocess
import threading
import time
from typing import Any

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.netns import MANAGEMENT
from vdsm_mp.wire.client import RemoteError

#: As an engine writes it.
NETWORK = {
    **{key: value for key, value in MANAGEMENT.items() if key != "mtu"},
    **{"bridged": True, "switch": "legacy", "mtu": 1500, "STP": "no", "bootproto": "none", "dhcpv6": False},
    **{"ipv6autoconf": False, "nameservers": ["203.0.113.53"], "custom": {}},
}


def main() -> None:
    with RunningHouse.start(libvirt_uri="test:///default", tls=True) as house:
        house.wait_ready()
        print(json.dumps(see(house)), flush=True)


def see(house: RunningHouse) -> dict[str, Any]:
    over = threading.Event()

    def engine() -> None:
        while not over.wait(0.3):
            house.call("Host.confirmConnectivity")

    polling = threading.Thread(target=engine)
    polling.start()
    try:
        done = set_up(house, {"ovirtmgmt": NETWORK}, connectivityCheck="true", connectivityTimeout=30)
    finally:
        over.set()
        polling.join()
    safe = house.call("Host.setSafeNetworkConfig")
    unconfirmed = set_up(house, {"ovirtmgmt": {"remove": True}}, connectivityCheck="true", connectivityTimeout=1)
    refused = set_up(house, {"red": {"nic": "veth_b", "switch": "ovs"}})
    subprocess.run(["ip", "link", "set", "ovirtmgmt", "mtu", "1300"], check=True)
    told = eventually(lambda: problems(house), within_s=30)
    told_mtu = house.call("Host.getCapabilities")["bridges"]["ovirtmgmt"]["mtu"]
    set_up(house, {"ovirtmgmt": NETWORK})
    eventually(lambda: not problems(house), within_s=30)
    began = time.monotonic()
    lldp = house.call("Host.getLldp", {"filter": {"devices": ["lo"]}})
    return {
        "done": done,
        "safe": safe,
        "unconfirmed": unconfirmed,
        "refused": refused,
        "network": house.call("Host.getCapabilities")["networks"]["ovirtmgmt"],
        "nameservers": house.call("Host.getNetworkCapabilities")["nameservers"],
        "told": told,
        "told_mtu": told_mtu,
        "state": house.call("Host.getStats")["network"]["veth_a"]["state"],
        "lldp": [lldp, time.monotonic() - began < 10],
    }


def set_up(house: RunningHouse, networks: dict[str, Any], **options: Any) -> Any:
    try:
        return house.call("Host.setupNetworks", {"networks": networks, "bondings": {}, "options": options})
    except RemoteError as error:
        return error.code


def problems(house: RunningHouse) -> list[str]:
    found: list[str] = house.status()["workers"]["network"]["vitals"].get("problems", [])
    return found


if __name__ == "__main__":
    main()
