# SPDX-License-Identifier: Apache-2.0
"""What others do on the host, between the changes of an engine and beside them."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.support.netns import CHECK, MANAGEMENT, Namespace, Refused

pytestmark = [needs_root(), needs_program("ip", "sudo", "setpriv")]


@pytest.fixture
def host() -> Iterator[Namespace]:
    with contextlib.closing(Namespace()) as namespace:
        namespace.start()
        yield namespace


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\x01\x1b[m", b'a"b\\c', "Größe".encode()])
def test_a_device_may_be_called_anything(host: Namespace, name: bytes) -> None:
    host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {})
    subprocess.run([b"ip", b"-n", host.name.encode(), b"link", b"add", b"name", name, b"type", b"bridge"], check=True)
    host.ip("link", "add", "veth_c", "type", "veth", "peer", "name", "veth_d")
    subprocess.run([b"ip", b"-n", host.name.encode(), b"link", b"set", b"veth_c", b"alias", b"\xc3("], check=True)
    assert list(host.do("facts")["networks"]) == ["ovirtmgmt"]
    assert len(host.do("facts")["bridges"]) == 2
    assert "veth_a" in host.do("counters")
    host.do("setup", {"red": {"nic": "veth_d"}}, {}, {})


def test_routes_of_others_are_there_again_when_a_change_is_undone(host: Namespace) -> None:
    host.ip("route", "del", "default")
    host.ip("route", "add", "default", "via", "192.0.2.1", "dev", "veth_a", "proto", "dhcp", "metric", "100")
    host.ip("route", "add", "198.51.100.0/24", "via", "192.0.2.254", "dev", "veth_a", "proto", "static")
    before = host.ip("route", "show")
    with pytest.raises(Refused, match="No confirmation"):
        host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, CHECK)
    assert sorted(host.ip("route", "show").splitlines()) == sorted(before.splitlines())


def test_a_change_that_cannot_be_kept_over_a_reboot_is_undone_when_that_was_asked_for(host: Namespace) -> None:
    host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {"commitOnSuccess": True})
    before = host.do("seen")
    safe = host.place / "state/network/safe.json"
    safe.unlink()
    (safe / "in the way").mkdir(parents=True)
    with pytest.raises(Refused) as refused:
        host.do("setup", {"red": {"nic": "veth_b"}}, {}, {"commitOnSuccess": "true"})
    assert refused.value.code == 29
    assert host.do("seen") == before


def _root_sides(host: Namespace) -> list[int]:
    """Those that root has started for this namespace's worker."""
    found = subprocess.run(["pgrep", "-f", f"{host.place}/libexec/"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split()]


def _kill(pids: list[int]) -> list[int]:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return pids


def test_a_change_is_undone_when_roots_side_dies_and_is_slow_to_come_back(host: Namespace) -> None:
    host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {})
    before = host.do("seen")
    # Nobody confirms; root's side dies as soon as the new network is there, and again whenever it is back.
    host.tell("setup", {"red": {"nic": "veth_b", "ipaddr": "198.51.100.2", "netmask": "24"}}, {}, CHECK)
    eventually(lambda: "red" in host.links() and host.links()["red"][1], within_s=20)
    first = _kill(_root_sides(host))
    eventually(lambda: _kill([pid for pid in _root_sides(host) if pid not in first]), within_s=20)
    assert "ConnectivityLost" in host.answer()["error"]
    assert host.do("seen") == before


def test_a_change_that_cannot_be_undone_waits_for_roots_side_and_is_undone_then(host: Namespace) -> None:
    host.do("setup", {"ovirtmgmt": MANAGEMENT}, {}, {})
    before = host.do("seen")
    host.do("impatient")
    helper = host.place / "libexec/helper-network"
    host.tell("setup", {"red": {"nic": "veth_b", "ipaddr": "198.51.100.2", "netmask": "24"}}, {}, CHECK)
    eventually(lambda: "red" in host.links() and host.links()["red"][1], within_s=20)
    helper.rename(helper.with_suffix(".away"))
    _kill(_root_sides(host))
    assert "ConnectivityLost" in host.answer()["error"]
    assert "red" in host.links()
    assert "a change of networks is not undone: root's side is gone" in host.do("look")
    helper.with_suffix(".away").rename(helper)
    eventually(lambda: host.do("look") == [], within_s=20)
    assert host.do("seen") == before
