# SPDX-License-Identifier: Apache-2.0
"""Host.setupNetworks on real links in a network namespace of the test's own, with root's real helper."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from vdsm_mp.priv import install

pytestmark = [needs_root(), needs_program("ip", "sudo", "setpriv")]

#: Lives in the namespace and does what the test writes, a JSON line each: [method, arguments] -> answer.
_INSIDE = """
import json, sys, threading
from pathlib import Path
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Vars
from vdsm_mp.network import caps, stats
from vdsm_mp.network.commit import Networks
from vdsm_mp.network.persist import Store
from vdsm_mp.network.state import read
from vdsm_mp.network.watch import Watch
from vdsm_mp.priv.call import SudoRoot

place = Path(sys.argv[1])
root = SudoRoot("network", str(place / "libexec"))
watch = Watch()
watch.open()
networks = Networks(root, watch, Store(str(place / "run"), str(place / "state")))
networks.start()

def setup(nets, bonds, options):
    networks.setup(nets, bonds, options)

def confirm_after(seconds):
    threading.Timer(seconds, networks.confirm).start()

def facts():
    return caps.facts(watch.now(), networks.config, Vars(), [])

def counters():
    return stats.counters(watch.now(), Vars(), stats.read_table())

def safe():
    networks.keep_safe()

print(json.dumps("started"), flush=True)
for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
        answer = {"result": globals()[name](*arguments)}
    except Error as error:
        answer = {"error": type(error).__name__, "code": error.code, "message": str(error)}
    print(json.dumps(answer), flush=True)
root.close()
watch.close()
"""

MANAGEMENT = {
    "nic": "veth_a",
    "ipaddr": "192.0.2.2",
    "netmask": "255.255.255.0",
    "gateway": "192.0.2.1",
    "defaultRoute": True,
    "mtu": 1400,
}
CHECK = {"connectivityCheck": True, "connectivityTimeout": 0.4}


class Refused(Exception):
    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["message"])
        self.name = answer["error"]
        self.code = answer["code"]


class Namespace:
    """A namespace with a pair of NICs (veth_a with an address and the default route, veth_b) and a worker in it."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="vdsm-mp-net-", dir="/tmp"))
        self.place.chmod(0o755)
        install.install(self.place / "libexec", user="root", repository=str(self.place))
        self.name = self.place.name
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.ip("link", "add", "veth_a", "type", "veth", "peer", "name", "veth_b")
        self.ip("addr", "add", "192.0.2.2/24", "dev", "veth_a")
        for nic in ("lo", "veth_a", "veth_b"):
            self.ip("link", "set", nic, "up")
        self.ip("route", "add", "default", "via", "192.0.2.1")
        self._worker: subprocess.Popen[str] | None = None

    def ip(self, *words: str) -> str:
        return subprocess.run(
            ["ip", "-n", self.name, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    def start(self) -> None:
        argv = ["ip", "netns", "exec", self.name, sys.executable, "-c", _INSIDE, str(self.place)]
        self._worker = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "started"

    def tell(self, name: str, *arguments: Any) -> None:
        assert self._worker is not None and self._worker.stdin is not None
        self._worker.stdin.write(json.dumps([name, arguments]) + "\n")
        self._worker.stdin.flush()

    def do(self, name: str, *arguments: Any) -> Any:
        self.tell(name, *arguments)
        answer = self._answer()
        if "error" in answer:
            raise Refused(answer)
        return answer["result"]

    def _answer(self) -> Any:
        assert self._worker is not None and self._worker.stdout is not None
        return json.loads(self._worker.stdout.readline())

    def kill(self) -> None:
        """-9, and nothing is told."""
        assert self._worker is not None
        os.kill(self._worker.pid, signal.SIGKILL)
        self._worker.communicate()
        self._worker = None

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.communicate(timeout=20)
            self._worker = None

    def links(self) -> dict[str, Any]:
        """{link: (master, addresses)}; local addresses left out."""
        found = {}
        for link in json.loads(self.ip("-j", "addr", "show")):
            addresses = [a["local"] for a in link.get("addr_info", ()) if a.get("scope") == "global"]
            found[link["ifname"]] = (link.get("master", ""), addresses)
        return found

    def gateway(self) -> tuple[str, str]:
        routes = json.loads(self.ip("-j", "route", "show", "default") or "[]")
        return (routes[0]["gateway"], routes[0]["dev"]) if routes else ("", "")

    def reboot(self) -> None:
        """What a reboot does to the network and to the run directory."""
        self.stop()
        for name, _ in self.links().items():
            if name not in ("lo", "veth_a", "veth_b"):
                self.ip("link", "delete", name)
        shutil.rmtree(self.place / "run")

    def close(self) -> None:
        self.stop()
        subprocess.run(["ip", "netns", "delete", self.name], check=True)
        shutil.rmtree(self.place)


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


def test_a_change_that_is_confirmed_stays(host: Namespace) -> None:
    host.do("confirm_after", 0.1)
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


def test_a_bad_wish_changes_nothing(host: Namespace) -> None:
    before = host.links()
    with pytest.raises(Refused) as refused:
        host.do("setup", {"red": {"nic": "nope"}}, {}, {})
    assert refused.value.code == 23
    with pytest.raises(Refused) as refused:
        host.do("setup", {"red": {"nic": "veth_b"}}, {}, {"connectivityCheck": True, "connectivityTimeout": -1})
    assert refused.value.code == 21
    assert host.links() == before
