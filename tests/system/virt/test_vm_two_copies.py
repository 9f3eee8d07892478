# SPDX-License-Identifier: Apache-2.0
"""A VM whose libvirtds lose each other in the moment that it changes hosts: it never goes on in two places.

The destination's libvirtd stands still when the last of the memory has come, so the order to run waits in its socket.
"""

import os
import time
from collections.abc import Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.support.two_hosts import SLOW_MIB_S, Guest, Side, Two, two_hosts, under_way
from vdsm_mp.api.errors import RemoteError

pytestmark = [
    pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter", "ip"),
    pytest.mark.timeout(120),
]  # fmt: skip

_WHOLE = bool(os.environ.get("VDSM_MP_FAULTS_STRIDE"))
#: After so long without a sign of the destination the source's libvirtd goes on by itself.
_GIVES_UP_S = 30


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    with two_hosts() as both:
        yield both


@pytest.fixture
def guest(two: Two) -> Iterator[Guest]:
    made = Guest(two, two.a)
    yield made
    for side in (two.a, two.b):
        print(side.libvirtd.name, _lines(side, made), sep="\n")
        try:
            side.libvirtd.thaw()
        except ProcessLookupError:
            side.libvirtd.launch()  # the test has failed
        try:
            side.house.call("VM.destroy", {"vmID": made.vm_id, "gracefulAttempts": 0})
        except RemoteError as error:
            assert error.code == 1


def state(side: Side, guest: Guest) -> str:
    return side.libvirtd.virsh("domstate", guest.name, "--reason").strip()


def between_two_hosts(two: Two, guest: Guest) -> None:
    """Until all of it has gone, and nobody has told it to run."""
    guest.fill(two.a)
    guest.move(two.a, two.b, maxBandwidth=SLOW_MIB_S)
    under_way(guest, two.a)
    two.b.libvirtd.freeze()
    two.a.libvirtd.virsh("migrate-setspeed", guest.name, "1000")
    eventually(lambda: state(two.a, guest) == "paused (migrating)", within_s=20)
    time.sleep(0.5)  # it asks for the last step at once


def becomes(side: Side, guest: Guest, *statuses: str, within_s: float = 30) -> None:
    eventually(lambda: side.status(guest.vm_id) in statuses, within_s=within_s)


def test_a_vm_that_arrived_unheard_of_ends_where_it_was(two: Two, guest: Guest) -> None:
    between_two_hosts(two, guest)
    two.a.libvirtd.kill()
    two.b.libvirtd.thaw()
    becomes(two.b, guest, "Up", "Powering up")
    two.a.libvirtd.launch()
    becomes(two.a, guest, "Down")
    left = two.a.stats(guest.vm_id)
    assert (left["exitCode"], left["exitReason"]) == (0, 4)
    with pytest.raises(RemoteError):
        two.a.house.call("VM.cont", {"vmID": guest.vm_id})
    eventually(lambda: state(two.a, guest).startswith("shut off"), within_s=10)
    guest.lives_only_at(two.b, two.a)


@pytest.mark.skipif(not _WHOLE, reason="part of full runs of the faults")
def test_a_vm_that_never_arrived_goes_on_as_soon_as_that_is_known(two: Two, guest: Guest) -> None:
    between_two_hosts(two, guest)
    two.a.libvirtd.kill()
    two.b.libvirtd.kill()
    two.a.libvirtd.launch()
    eventually(lambda: "stands still" in _lines(two.a, guest) or "on its way" in _lines(two.a, guest), within_s=20)
    assert two.a.status(guest.vm_id) == "Migration Source"
    two.b.libvirtd.launch()
    becomes(two.a, guest, "Up", "Powering up")
    becomes(two.b, guest, "", "Down")
    guest.lives_only_at(two.a, two.b)


@pytest.mark.skipif(not _WHOLE, reason="part of full runs of the faults")
def test_a_vm_that_comes_after_its_source_went_on_is_ended(two: Two, guest: Guest) -> None:
    between_two_hosts(two, guest)
    becomes(two.a, guest, "Up", "Powering up", within_s=_GIVES_UP_S + 30)
    two.b.libvirtd.thaw()
    becomes(two.b, guest, "", "Down")
    guest.lives_only_at(two.a, two.b)


def _lines(side: Side, guest: Guest) -> str:
    return "\n".join(line for line in side.house.log_text().splitlines() if guest.vm_id in line)
