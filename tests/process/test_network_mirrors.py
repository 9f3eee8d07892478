# SPDX-License-Identifier: Apache-2.0
"""Traffic of a bridge copied to taps, in a network namespace with the kernel's own queues and filters."""

import contextlib
import json
import sys
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.support.netns import Namespace

pytestmark = [needs_root(), needs_program("ip", "tc", "sudo", "setpriv")]

#: Opens taps as QEMU does, sends frames into the bridge by its port veth_b and from the host, tells which tap saw them.
_LISTEN = """
import fcntl, json, os, select, socket, struct, sys, time
taps, expected = {}, sys.argv[1].split(",") if sys.argv[1] else ()
for name in sys.argv[2:]:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22s", name.encode(), 0x1002, b""))
    taps[fd] = name
def sender(nic):
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((nic, 0))
    return sock
# The taps are in another bridge.
head = bytes.fromhex("525400000009" "525400000008" "88b5")
through, host = sender("veth_a"), sender("red")
seen = {name: set() for name in taps.values()}
began = time.monotonic()
# A tap that has just been opened takes a moment until it lets anything through: what is to come has ten seconds, what
# is not to come has one.
while time.monotonic() < began + (1 if all(seen[name] >= {"host", "through"} for name in expected) else 10):
    through.send(head + b"through".ljust(60, b"."))
    host.send(head + b"host".ljust(60, b"."))
    for fd in select.select(list(taps), [], [], 0.1)[0]:
        frame = os.read(fd, 2048)
        if frame[12:14] == b"\\x88\\xb5":
            seen[taps[fd]].add(frame[14:].split(b".")[0].decode())
print(json.dumps({name: sorted(frames) for name, frames in seen.items()}))
"""


@pytest.fixture
def host() -> Iterator[Namespace]:
    with contextlib.closing(Namespace()) as made:
        made.start()
        made.do("setup", {"red": {"nic": "veth_b"}, "blue": {}}, {}, {})
        yield made


def add_tap(host: Namespace, name: str) -> None:
    host.ip("tuntap", "add", "name", name, "mode", "tap")
    host.ip("link", "set", name, "master", "blue")
    host.ip("link", "set", name, "up")


def seen(host: Namespace, *taps: str, expected: tuple[str, ...] | None = None) -> dict[str, list[str]]:
    """expected: the taps that are to see all, if not each of them; the others are watched for as long."""
    listening = taps if expected is None else expected
    found: dict[str, list[str]] = json.loads(host.run(sys.executable, "-c", _LISTEN, ",".join(listening), *taps))
    return found


def test_cards_see_what_passes_a_network_and_what_the_host_sends(host: Namespace) -> None:
    for tap in ("tap1", "tap2"):
        add_tap(host, tap)
    both = ["host", "through"]
    assert seen(host, "tap1", "tap2", expected=()) == {"tap1": [], "tap2": []}
    assert host.do("mirror", {"red": ["tap1", "tap2"]}) == {}
    assert seen(host, "tap1", "tap2") == {"tap1": both, "tap2": both}
    assert host.do("mirror", {"red": ["tap2"]}) == {}
    assert seen(host, "tap1", "tap2", expected=("tap2",)) == {"tap1": [], "tap2": both}
    # Filters of others look on, too, and stay when ours go.
    host.run("tc", "filter", "add", "dev", "red", "ingress", "pref", "6000", "u32", "match", "u8", "0", "0")
    assert host.do("mirror", {}) == {}
    assert seen(host, "tap1", "tap2", expected=()) == {"tap1": [], "tap2": []}
    assert "pref 6000" in host.run("tc", "filter", "show", "dev", "red", "ingress")
    assert "PROMISC" not in host.ip("link", "show", "red")


def test_nothing_is_left_on_a_bridge_that_is_not_mirrored_any_more(host: Namespace) -> None:
    add_tap(host, "tap1")
    before = host.run("tc", "qdisc", "show", "dev", "red")
    host.do("mirror", {"red": ["tap1"]})
    assert "clsact" in host.run("tc", "qdisc", "show", "dev", "red")
    host.ip("link", "delete", "tap1")
    host.kill()
    host.start()
    host.do("mirror", {})
    assert host.run("tc", "qdisc", "show", "dev", "red") == before
    assert "PROMISC" not in host.ip("link", "show", "red")


def test_death_at_any_step_of_root_is_mended_by_the_next_telling(host: Namespace) -> None:
    add_tap(host, "tap1")
    queue, kept = ("tc", "qdisc", "add", "dev", "red", "clsact"), ("dev", "red", "ingress", "pref", "5001")
    copy = ("u32", "match", "u8", "0", "0", "action", "mirred", "egress", "mirror", "dev", "tap1", "continue")
    for steps in ((queue,), (queue, ("tc", "filter", "add", *kept, *copy))):
        for step in steps:
            host.run(*step)
        assert host.do("mirror", {"red": ["tap1"]}) == {}
        assert seen(host, "tap1") == {"tap1": ["host", "through"]}
        host.run("tc", "filter", "del", "dev", "red", "ingress", "pref", "5001")
        host.do("mirror", {})
        assert "clsact" not in host.run("tc", "qdisc", "show", "dev", "red")


def test_a_network_that_is_made_anew_is_mirrored_again(host: Namespace) -> None:
    add_tap(host, "tap1")
    host.do("mirror", {"red": ["tap1"]})
    host.do("setup", {"red": {"remove": True}}, {}, {})
    assert host.do("look") == ["network red is not mirrored: it does not exist on this host"]
    host.do("setup", {"red": {"nic": "veth_b"}}, {}, {})
    assert host.do("look") == []
    assert seen(host, "tap1") == {"tap1": ["host", "through"]}


def test_who_holds_the_bridges_queue_is_told(host: Namespace) -> None:
    add_tap(host, "tap1")
    host.run("tc", "qdisc", "add", "dev", "red", "ingress")
    assert "another program has queue ingress on red" in host.do("mirror", {"red": ["tap1"]})["red"]
    eventually(lambda: "tentative" not in host.ip("-6", "address"))  # of which the kernel would tell
    (problem,) = host.do("look")
    assert "another program has queue ingress on red" in problem
    host.run("tc", "qdisc", "del", "dev", "red", "ingress")
    # The kernel tells nobody of that, and who asked does not ask again.
    eventually(lambda: host.do("look") == [], within_s=20)
    assert seen(host, "tap1") == {"tap1": ["host", "through"]}


def test_what_cannot_be_mirrored_is_told_and_costs_the_others_nothing(host: Namespace) -> None:
    add_tap(host, "tap1")
    told = host.do("mirror", {"nowhere": ["tap1"], "blue": ["veth_b"], "veth_a": ["tap1"], "red": ["tap1", "tap9"]})
    assert told["nowhere"] == "it does not exist on this host"
    assert "veth_b is no card of a guest" in told["blue"]
    assert "veth_a is no bridge" in told["veth_a"]
    assert told["red"] == "there is no card tap9"
    assert seen(host, "tap1") == {"tap1": ["host", "through"]}
    assert len(host.do("look")) == 4
