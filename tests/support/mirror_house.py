# SPDX-License-Identifier: Apache-2.0
"""A whole house where a private libvirtd has its guests' taps: a VM mirrors a network, and everybody dies in turn.

    nsenter --target PID --net python -m tests.support.mirror_house LIBVIRT-URI

Needs bridges `red` and `blue`. Prints one JSON object of what it saw.
"""

import json
import os
import signal
import subprocess
import sys
import uuid
from typing import Any

import libvirt

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.virt_room import vm_xml

MACS = ("56:6f:00:00:00:01", "56:6f:00:00:00:02")


def card(mac: str) -> dict[str, str]:
    """What `vm_xml` is told of one that hears `red`."""
    return {
        "devices": f'<interface type="bridge"><mac address="{mac}"/><model type="e1000"/>'
        '<source bridge="blue"/></interface>',
        "metadata": f'<ovirt-vm:device mac_address="{mac}"><ovirt-vm:network>blue</ovirt-vm:network>'
        "<ovirt-vm:portMirroring><ovirt-vm:network>red</ovirt-vm:network></ovirt-vm:portMirroring></ovirt-vm:device>",
    }


def copies() -> int:
    """To how many cards, in each direction, `red` is copied."""
    shown = [run("tc", "filter", "show", "dev", "red", way).count("Egress Mirror to device") for way in _WAYS]
    return shown[0] if shown[0] == shown[1] else -1


_WAYS = ("ingress", "egress")


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20).stdout


def create(house: RunningHouse, mac: str) -> str:
    vm_id = str(uuid.uuid4())
    house.call("VM.create", {"vmID": vm_id, "vmParams": {"xml": vm_xml(vm_id, **card(mac))}})
    return vm_id


def start(house: RunningHouse) -> str:
    vm_id = create(house, MACS[0])
    eventually(lambda: status(house, vm_id) in ("Powering up", "Up"), within_s=60)
    return vm_id


def status(house: RunningHouse, vm_id: str) -> str:
    entries = house.call("Host.getAllVmStats")
    return next((str(entry["status"]) for entry in entries if entry["vmId"] == vm_id), "")


def kill(house: RunningHouse, worker: str) -> None:
    house.kill_worker(worker)
    house.wait_ready()


def see(house: RunningHouse, uri: str) -> dict[str, Any]:
    vm_id = start(house)
    seen: dict[str, Any] = {"started": copies()}
    kill(house, "network")
    seen["without network"] = copies()

    # Nobody told the network worker what it missed: the other one does, when it is back.
    for way in _WAYS:
        run("tc", "filter", "del", "dev", "red", way)
    kill(house, "network")
    eventually(lambda: copies() > 0, within_s=20)
    seen["told again"] = copies()

    # A start waits for it, too, however often it dies meanwhile.
    other = create(house, MACS[1])
    for _ in range(3):
        house.kill_worker("network")
    eventually(lambda: status(house, other) not in ("WaitForLaunch", ""), within_s=60)
    seen["started meanwhile"] = (status(house, other), copies())
    house.call("VM.destroy", {"vmID": other, "gracefulAttempts": 0})
    house.wait_ready()
    eventually(lambda: copies() == 1, within_s=20)

    # A bridge that is made anew is noticed by the beat.
    for words in ("link delete red", "link add name red type bridge", "link set red up"):
        run("ip", *words.split())
    eventually(lambda: copies() > 0, within_s=30)
    seen["bridge made anew"] = copies()

    # It ends while nobody who knows of it lives.
    pid = house.pid_of("virt")
    os.kill(pid, signal.SIGSTOP)
    connection = libvirt.open(uri)
    connection.lookupByUUIDString(vm_id).destroy()
    connection.close()
    os.kill(pid, signal.SIGKILL)
    house.wait_other_pid("virt", pid)
    house.wait_ready()
    eventually(lambda: status(house, vm_id) == "Down", within_s=30)
    eventually(lambda: "clsact" not in run("tc", "qdisc", "show"), within_s=20)
    seen["swept"] = copies()
    house.call("VM.destroy", {"vmID": vm_id, "gracefulAttempts": 0})
    seen["problems"] = house.status()["workers"]["network"]["vitals"]["problems"]
    return seen


def main() -> None:
    with RunningHouse.start(libvirt_uri=sys.argv[1], tls=True) as house:
        house.wait_ready()
        print(json.dumps(see(house, sys.argv[1])), flush=True)


if __name__ == "__main__":
    main()
