# SPDX-License-Identifier: Apache-2.0
"""A VM whose card hears a network moves between two whole hosts: it hears that of the one where it runs."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.mirror_house import MACS, card
from tests.support.needs import needs_program, needs_root
from tests.support.two_hosts import SLOW_MIB_S, Guest, Side, Two, becomes, two_hosts, under_way

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(120),
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter", "tc", "sudo"),
]


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    with two_hosts("red", "blue") as both:
        yield both


def copies(side: Side) -> int:
    """To how many cards, in each direction, `red` is copied there."""
    inside = ["nsenter", "--target", str(side.libvirtd.inner_pid), "--net", "tc", "filter", "show", "dev", "red"]
    shown = [
        subprocess.run([*inside, way], check=True, capture_output=True, text=True, timeout=20).stdout
        for way in ("ingress", "egress")
    ]
    counts = [text.count("Egress Mirror to device") for text in shown]
    assert counts[0] == counts[1], shown
    return counts[0]


def arrives(guest: Guest, home: Side, to: Side) -> None:
    becomes(to, guest, "Up", "Powering up")
    becomes(home, guest, "Down", within_s=20)
    eventually(lambda: (copies(home), copies(to)) == (0, 1), within_s=20)
    guest.lives_only_at(to, home)
    home.house.call("VM.destroy", {"vmID": guest.vm_id})


def test_a_card_hears_the_network_of_the_host_that_its_vm_has_come_to(two: Two) -> None:
    guest = Guest(two, two.a, **card(MACS[0]))
    try:
        eventually(lambda: copies(two.a) == 1, within_s=10)
        guest.move(two.a, two.b)
        arrives(guest, two.a, two.b)

        # Back it goes, and whoever tells the network worker dies on both sides while it is under way.
        guest.fill(two.b)
        guest.move(two.b, two.a, maxBandwidth=SLOW_MIB_S)
        under_way(guest, two.b)
        assert (copies(two.b), copies(two.a)) == (1, 0)
        for side, worker in ((two.a, "network"), (two.a, "virt"), (two.b, "virt")):
            side.house.kill_worker(worker)
        eventually(lambda: two.b.status(guest.vm_id) == "Migration Source", within_s=20)
        two.b.house.call("VM.migrateChangeParams", {"vmID": guest.vm_id, "params": {"maxBandwidth": 1000}})
        arrives(guest, two.b, two.a)
    finally:
        guest.end()
    eventually(lambda: copies(two.a) == copies(two.b) == 0, within_s=20)
