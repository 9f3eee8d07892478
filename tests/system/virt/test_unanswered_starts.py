# SPDX-License-Identifier: Apache-2.0
"""A start whose answer is lost because libvirtd freezes or dies: no VM is told as Down while its QEMU runs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from tests.support.bootsector import hellos
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom
from tests.system.virt.conftest import Guest, NewGuest
from vdsm_mp.virt import machine
from vdsm_mp.virt.connection import Connection
from vdsm_mp.virt.machine import Exit, ExitReason
from vdsm_mp.virt.registry import Vms
from vdsm_mp.virt.starting import Starter

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]

Harm = Callable[[], None]


@pytest.fixture
def thawed(room: VirtRoom, libvirtd: PrivateLibvirtd) -> Iterator[None]:
    """Before the room closes, which waits for the starts that a libvirtd that stands still keeps."""
    yield
    libvirtd.thaw()


def nothing() -> None:
    return


def harm_the_start(monkeypatch: pytest.MonkeyPatch, *, before: Harm = nothing, after: Harm = nothing) -> None:
    """What is done to libvirtd when the question is about to be sent, or has just been answered."""
    real = libvirt.virDomain.createWithFlags

    def create(dom: libvirt.virDomain, flags: int = 0) -> int:
        monkeypatch.undo()
        before()
        answer = real(dom, flags)
        after()
        return int(answer)

    monkeypatch.setattr(libvirt.virDomain, "createWithFlags", create)


def unanswered(room: VirtRoom, new_guest: NewGuest) -> Guest:
    """One whose starter has no answer to hope for any more."""
    guest = new_guest(room, wait=False)
    eventually(lambda: room.state(Starter).wait_ended(guest.vm_id, 1), within_s=20)
    assert room.status(guest.vm_id) == "WaitForLaunch"
    return guest


def runs(libvirtd: PrivateLibvirtd, guest: Guest) -> bool:
    return guest.name in libvirtd.virsh("list", "--name").split()


@pytest.mark.usefixtures("thawed")
def test_a_libvirtd_that_freezes_with_the_answer_costs_no_vm(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm_the_start(monkeypatch, after=libvirtd.freeze)
    guest = unanswered(room, new_guest)
    libvirtd.thaw()
    eventually(lambda: room.status(guest.vm_id) == "Powering up", within_s=20)
    eventually(lambda: guest.ticks > 0, within_s=30)
    assert "Down" not in room.events.statuses(guest.vm_id)
    assert guest.disk["imageID"] not in room.storage.released
    assert hellos(guest.serial) == 1
    room.call("VM.pause", vmID=guest.vm_id)


@pytest.mark.usefixtures("thawed")
def test_a_libvirtd_that_freezes_before_the_question_may_answer_it_later_and_both_agree(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm_the_start(monkeypatch, before=libvirtd.freeze)
    guest = unanswered(room, new_guest)
    libvirtd.thaw()
    eventually(lambda: room.status(guest.vm_id) != "WaitForLaunch", within_s=30)
    if room.status(guest.vm_id) == "Down":
        assert room.stats(guest.vm_id)["exitReason"] == ExitReason.START_FAILED
        eventually(lambda: not runs(libvirtd, guest), within_s=10)
    else:
        eventually(lambda: guest.ticks > 0, within_s=30)
        assert "Down" not in room.events.statuses(guest.vm_id)


def test_a_libvirtd_that_dies_with_the_answer_costs_no_vm(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm_the_start(monkeypatch, after=libvirtd.kill)
    guest = unanswered(room, new_guest)
    libvirtd.launch()
    eventually(lambda: room.status(guest.vm_id) == "Powering up", within_s=20)
    guest.keeps_ticking()
    assert "Down" not in room.events.statuses(guest.vm_id)


def test_one_that_is_destroyed_while_nobody_answers_does_not_run_afterwards(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm_the_start(monkeypatch, after=libvirtd.kill)
    guest = unanswered(room, new_guest)
    room.state(Vms).move(guest.vm_id, machine.on_destroy_request)
    libvirtd.launch()
    eventually(lambda: room.status(guest.vm_id) == "Down", within_s=20)
    assert room.stats(guest.vm_id)["exitReason"] == ExitReason.DESTROYED_ON_STARTUP
    eventually(lambda: not runs(libvirtd, guest), within_s=10)


def test_a_domain_that_is_gone_when_libvirt_is_back_did_not_start(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_it() -> None:
        (name,) = (record.name for record in room.state(Vms).all())
        libvirtd.virsh("destroy", name)
        libvirtd.virsh("undefine", name)
        libvirtd.kill()

    harm_the_start(monkeypatch, after=lose_it)
    guest = unanswered(room, new_guest)
    libvirtd.launch()
    eventually(lambda: room.status(guest.vm_id) == "Down", within_s=20)
    assert room.stats(guest.vm_id)["exitReason"] == ExitReason.START_FAILED


def test_what_was_told_as_down_is_ended_when_libvirt_is_back(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    told, lives = new_guest(room), new_guest(room)
    libvirtd.kill()
    eventually(lambda: not room.state(Connection).alive, within_s=5)
    end = Exit.because(ExitReason.START_FAILED)
    room.state(Vms).move(told.vm_id, lambda life: machine.go_down(life, end))
    libvirtd.launch()
    eventually(lambda: room.state(Connection).alive, within_s=15)
    eventually(lambda: not runs(libvirtd, told), within_s=15)
    assert room.status(told.vm_id) == "Down"
    assert room.stats(told.vm_id)["exitReason"] == ExitReason.START_FAILED
    assert runs(libvirtd, lives)
    lives.keeps_ticking()


def test_what_was_told_as_down_is_ended_by_the_next_life_when_it_started_between_the_two(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, folder: Path
) -> None:
    told, lives = new_guest(room), new_guest(room)
    room.call("VM.shutdown", vmID=told.vm_id, delay=0, timeout=1, force=True)
    eventually(lambda: room.status(told.vm_id) == "Down", within_s=15)
    eventually(lambda: "exitCode" in libvirtd.virsh("dumpxml", "--inactive", told.name))
    room.close()
    libvirtd.virsh("start", told.name)
    with VirtRoom(libvirtd.uri, folder) as next_life:
        next_life.storage.images.update(room.storage.images)
        assert next_life.status(told.vm_id) == "Down"
        assert next_life.stats(told.vm_id)["exitReason"] == ExitReason.ADMIN_SHUTDOWN
        eventually(lambda: not runs(libvirtd, told), within_s=10)
        assert next_life.status(lives.vm_id) == "Up"
        for guest in (told, lives):
            next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
