# SPDX-License-Identifier: Apache-2.0
"""A VM whose libvirtds lose each other in the moment that it changes hosts: it never goes on in two places.

The destination's libvirtd stands still when the last of the memory has come, so the order to run waits in its socket.
"""

import os
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.support.two_hosts import SLOW_MIB_S, Guest, Side, Two, becomes, log_of, under_way
from vdsm_mp.api.errors import RemoteError

pytestmark = [
    pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter", "ip"),
    pytest.mark.timeout(120),
]  # fmt: skip

Play = Callable[[Two, Guest], None]

#: After so long without a sign of the destination the source's libvirtd goes on by itself.
_GIVES_UP_S = 30


@pytest.fixture
def guest(two: Two) -> Iterator[Guest]:
    made = Guest(two, two.a)
    yield made
    for side in (two.a, two.b):
        print(side.libvirtd.name, log_of(side, made), sep="\n")
        try:
            side.libvirtd.thaw()
        except ProcessLookupError:
            side.libvirtd.launch()  # the test has failed
    made.end()


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


def arrived_unheard_of(two: Two, guest: Guest) -> None:
    """It ends where it was."""
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


def never_arrived(two: Two, guest: Guest) -> None:
    """It goes on as soon as that is known."""
    between_two_hosts(two, guest)
    two.a.libvirtd.kill()
    two.b.libvirtd.kill()
    two.a.libvirtd.launch()
    eventually(lambda: "stands still" in log_of(two.a, guest) or "on its way" in log_of(two.a, guest), within_s=20)
    assert two.a.status(guest.vm_id) == "Migration Source"
    two.b.libvirtd.launch()
    becomes(two.a, guest, "Up", "Powering up")
    becomes(two.b, guest, "", "Down")
    guest.lives_only_at(two.a, two.b)


def comes_after_its_source_went_on(two: Two, guest: Guest) -> None:
    """It is ended."""
    between_two_hosts(two, guest)
    becomes(two.a, guest, "Up", "Powering up", within_s=_GIVES_UP_S + 30)
    two.b.libvirtd.thaw()
    becomes(two.b, guest, "", "Down")
    eventually(lambda: guest.name not in two.b.runs())  # it is told a moment before it is ended
    guest.lives_only_at(two.a, two.b)


#: All of them in full runs of the faults.
_ALL: tuple[Play, ...] = (arrived_unheard_of, never_arrived, comes_after_its_source_went_on)


@pytest.mark.parametrize("play", _ALL if os.environ.get("VDSM_MP_FAULTS_STRIDE") else _ALL[:1])
def test_a_vm_goes_on_in_one_place_when_its_hosts_lose_each_other(two: Two, guest: Guest, play: Play) -> None:
    play(two, guest)
