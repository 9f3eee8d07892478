# SPDX-License-Identifier: Apache-2.0
"""What befalls VMs and their agent: workers that die, a libvirtd that dies or freezes, a QEMU that hangs."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import libvirt
import pytest

from tests.support.bootsector import hellos, write_boot_disk
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom, vm_xml
from tests.system.virt.conftest import Guest, NewGuest, chain_of, image, overlay
from vdsm_mp.api.errors import StillStarting
from vdsm_mp.api.errors_virt import LibvirtUnavailable, MigrationNotInProgress, VmNotResponding
from vdsm_mp.api.vm_migration import MigrationParams
from vdsm_mp.virt import ending
from vdsm_mp.virt.calling import LATE_S
from vdsm_mp.virt.connection import Connection
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.migration_params import NOTE, Note
from vdsm_mp.virt.opening import connected
from vdsm_mp.virt.sampling import Sampler

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]


@pytest.fixture
def thawed(room: VirtRoom, libvirtd: PrivateLibvirtd) -> Iterator[None]:
    """Before the room closes, which ends its VMs through it."""
    yield
    libvirtd.thaw()


def pauses(room: VirtRoom, guest: Guest) -> bool:
    """libvirtd may crash when it comes back from being frozen, and is about to start again then."""
    try:
        room.call("VM.pause", vmID=guest.vm_id)
    except LibvirtUnavailable:
        return False
    return True


def test_guests_do_not_notice_that_the_worker_dies_and_the_next_one_knows_them(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, folder: Path
) -> None:
    running, paused, down = new_guest(room), new_guest(room), new_guest(room)
    room.call("VM.pause", vmID=paused.vm_id)
    room.call("VM.shutdown", vmID=down.vm_id, delay=0, timeout=1, force=True)
    eventually(lambda: room.status(down.vm_id) == "Down", within_s=15)
    eventually(lambda: down.disk["imageID"] in room.storage.released)
    before = room.stats(running.vm_id)

    with VirtRoom(libvirtd.uri, folder) as next_life:
        next_life.storage.images.update(room.storage.images)
        statuses = {entry["vmId"]: entry["status"] for entry in next_life.call("Host.getVMList")}
        assert statuses == {running.vm_id: "Up", paused.vm_id: "Paused", down.vm_id: "Down"}
        assert next_life.stats(down.vm_id)["exitReason"] == 6
        after = next_life.stats(running.vm_id)
        assert after["hash"] == before["hash"]
        assert int(after["elapsedTime"]) >= int(before["elapsedTime"])
        assert next_life.events.all == []
        running.keeps_ticking()
        assert hellos(running.serial) == 1
        # Storage is told again which images are in use; those of the Down VM are not.
        wanted = {running.disk["imageID"], paused.disk["imageID"]}
        eventually(lambda: {ask.image_id for ask in next_life.storage.prepared} == wanted, within_s=10)


def as_if_its_start_were_under_way(libvirtd: PrivateLibvirtd, guest: Guest) -> None:
    """Defined for its start, and nothing more known of it: as between the call for the start and its effect."""
    definition = libvirtd.root / f"{guest.name}.xml"
    definition.write_text(libvirtd.virsh("dumpxml", "--inactive", guest.name))
    libvirtd.virsh("destroy", guest.name)
    libvirtd.virsh("undefine", guest.name)
    libvirtd.virsh("define", str(definition))


@pytest.mark.parametrize("comes", [True, False], ids=["it comes", "it does not come"])
def test_a_start_that_was_under_way_when_we_died_is_waited_for(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, folder: Path, comes: bool
) -> None:
    guest = new_guest(room)
    room.close()
    as_if_its_start_were_under_way(libvirtd, guest)
    with VirtRoom(libvirtd.uri, folder) as next_life:
        next_life.storage.images.update(room.storage.images)
        assert next_life.status(guest.vm_id) == "WaitForLaunch"
        if comes:
            libvirtd.virsh("start", guest.name)
            eventually(lambda: next_life.status(guest.vm_id) == "Powering up", within_s=5)
            eventually(lambda: guest.disk["imageID"] in {ask.image_id for ask in next_life.storage.prepared})
        else:
            eventually(lambda: next_life.status(guest.vm_id) == "Down", within_s=15)
            assert guest.disk["imageID"] in eventually(lambda: next_life.storage.released)
            # Too late: the engine was told that it does not run, and may have started it elsewhere.
            libvirtd.virsh("start", guest.name)
            eventually(lambda: guest.name not in libvirtd.virsh("list", "--name"), within_s=10)
        next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
        assert guest.name not in libvirtd.virsh("list", "--all", "--name")


def test_a_vm_that_ended_while_we_were_dead_tells_why_and_its_disks_are_given_back(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, folder: Path
) -> None:
    guest = new_guest(room)
    room.close()
    os.kill(libvirtd.qemu_pid(guest.name), signal.SIGKILL)
    eventually(lambda: guest.name not in libvirtd.virsh("list", "--name"))
    with VirtRoom(libvirtd.uri, folder) as next_life:
        stats = next_life.stats(guest.vm_id)
        assert (stats["status"], stats["exitCode"], stats["exitReason"]) == ("Down", 1, 2)
        eventually(lambda: next_life.storage.released == [guest.disk["imageID"]])
        next_life.call("VM.destroy", vmID=guest.vm_id)


def test_an_end_that_is_tidied_up_late_takes_nothing_from_the_next_life(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The background is full when many VMs end because their storage hangs."""
    guest = new_guest(room)
    late: list[Callable[[], None]] = []
    start = room.background.start

    def held(name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        if name.startswith("release "):
            late.append(job)
        else:
            start(name, job, key=key)

    monkeypatch.setattr(room.background, "start", held)
    room.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
    files = '<disk type="file" device="cdrom"><target dev="hdc" bus="ide"/><source file="PAYLOAD:"/><readonly/></disk>'
    payload = (
        '<ovirt-vm:device devtype="disk" name="hdc"><ovirt-vm:payload><ovirt-vm:volId>config-2</ovirt-vm:volId>'
        '<ovirt-vm:file path="user-data">aGVsbG8=</ovirt-vm:file></ovirt-vm:payload></ovirt-vm:device>'
    )
    # The room of a test is root: what it makes there has our common group, which QEMU has, too.
    (folder / "payload").mkdir()
    shutil.chown(folder / "payload", "vdsm", "kvm")
    (folder / "payload").chmod(0o2770)
    disk = overlay(
        room, folder, guest.disk
    )  # made while it was off: another volume, and what is given back is the image
    text = vm_xml(guest.vm_id, serial=guest.serial, disk=disk, devices=files, metadata=payload)
    room.create(text, guest.vm_id)
    eventually(lambda: room.status(guest.vm_id) in ("Up", "Powering up"), within_s=30)
    (release,) = late
    release()
    assert room.storage.released == []
    assert list((folder / "payload").glob(f"{guest.vm_id}.*"))
    room.close()
    with VirtRoom(libvirtd.uri, folder) as next_life:
        assert next_life.status(guest.vm_id) == "Up"
        guest.keeps_ticking()
        next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)


def test_what_libvirt_tells_late_of_an_end_is_not_taken_for_the_end_of_the_next_life(
    room: VirtRoom, new_guest: NewGuest
) -> None:
    guest = new_guest(room)
    held, goes_on = threading.Event(), threading.Event()

    def hold(timer: int, opaque: object) -> None:
        libvirt.virEventRemoveTimeout(timer)
        held.set()
        goes_on.wait(10)

    libvirt.virEventAddTimeout(0, hold, None)  # who delivers events is busy with another one
    assert held.wait(10)
    threading.Timer(0.8, goes_on.set).start()
    room.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
    room.create(vm_xml(guest.vm_id, serial=guest.serial, disk=guest.disk), guest.vm_id)
    eventually(lambda: room.status(guest.vm_id) in ("Up", "Powering up"), within_s=30)
    assert goes_on.wait(10)
    room.call("VM.pause", vmID=guest.vm_id)  # told behind the other
    eventually(lambda: room.status(guest.vm_id) == "Paused")
    room.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)


def test_a_start_that_storage_held_up_starts_nothing_for_a_later_life(
    room: VirtRoom, new_guest: NewGuest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reached = room.storage.gate, threading.Event()

    def wait(timeout: float | None = None) -> bool:
        reached.set()
        return threading.Event.wait(gate, timeout)

    monkeypatch.setattr(gate, "wait", wait)
    monkeypatch.setattr(ending, "_START_NOTICES_S", 0.2)
    gate.clear()
    guest = new_guest(room, wait=False)
    assert reached.wait(10)
    room.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
    other = image(room, folder)
    path = write_boot_disk(room.storage.images[other["imageID"]], releases=False)
    shutil.chown(path, "vdsm", "kvm")
    room.create(vm_xml(guest.vm_id, serial=guest.serial, disk=other), guest.vm_id)
    gate.set()
    eventually(lambda: room.status(guest.vm_id) in ("Up", "Powering up", "Down"), within_s=30)
    eventually(lambda: room.storage.released == [guest.disk["imageID"]], within_s=30)
    assert room.status(guest.vm_id) != "Down", room.stats(guest.vm_id)
    assert chain_of(room, guest.vm_id) == [other["volumeID"]]
    guest.keeps_ticking()


def test_a_shutdown_goes_on_when_the_worker_dies_over_it(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, folder: Path
) -> None:
    guest = new_guest(room)
    room.call("VM.shutdown", vmID=guest.vm_id, delay=0, timeout=2, force=True)
    room.close()
    with VirtRoom(libvirtd.uri, folder) as next_life:
        next_life.storage.images.update(room.storage.images)
        assert next_life.status(guest.vm_id) == "Powering down"
        eventually(lambda: next_life.status(guest.vm_id) == "Down", within_s=15)
        assert next_life.stats(guest.vm_id)["exitReason"] == 6
        next_life.call("VM.destroy", vmID=guest.vm_id)


def test_a_libvirtd_that_dies_and_comes_back_costs_no_guest_and_no_news(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    stays, ends = new_guest(room), new_guest(room)
    libvirtd.kill()
    eventually(lambda: not room.state(Connection).alive, within_s=5)
    with pytest.raises(LibvirtUnavailable):
        room.call("VM.pause", vmID=stays.vm_id)
    assert room.status(stays.vm_id) == "Powering up"  # from memory
    os.kill(libvirtd.qemu_pid(ends.name), signal.SIGKILL)
    stays.keeps_ticking()
    libvirtd.launch()
    eventually(lambda: room.state(Connection).alive, within_s=10)
    eventually(lambda: room.events.statuses(ends.vm_id)[-1] == "Down", within_s=5)
    assert room.events.of(ends.vm_id)[-1]["exitCode"] == 1
    assert room.events.statuses(stays.vm_id) == ["Powering up"]
    # The new connection tells events again.
    libvirtd.virsh("suspend", stays.name)
    eventually(lambda: room.events.statuses(stays.vm_id)[-1] == "Paused", within_s=5)


@pytest.mark.usefixtures("thawed")
def test_a_frozen_libvirtd_is_noticed_and_found_again(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    guest = new_guest(room)
    libvirtd.freeze()
    eventually(lambda: not room.state(Connection).alive, within_s=12)
    with pytest.raises(LibvirtUnavailable):
        room.call("VM.pause", vmID=guest.vm_id)
    libvirtd.thaw()
    eventually(lambda: pauses(room, guest), within_s=30)


def test_a_worker_without_libvirt_knows_nothing_rather_than_no_vms(tmp_path: Path) -> None:
    with VirtRoom(f"qemu+unix:///system?socket={tmp_path}/absent", tmp_path) as room:
        with pytest.raises(StillStarting):
            room.call("Host.getAllVmStats")
        with pytest.raises(StillStarting):
            room.call("Host.getVMList")


def test_a_stuck_guest_delays_nobody_and_can_be_destroyed(
    libvirtd: PrivateLibvirtd, folder: Path, new_guest: NewGuest
) -> None:
    with VirtRoom(libvirtd.uri, folder, command_timeout_s=3) as room:
        stuck, well = new_guest(room), new_guest(room)
        eventually(lambda: room.stats(well.vm_id)["disks"], within_s=5)
        pid = libvirtd.qemu_pid(stuck.name)
        os.kill(pid, signal.SIGSTOP)
        try:

            def fresh_without_the_stuck_one() -> bool:
                before = room.stats(well.vm_id)["cpuUsage"]
                room.sample()
                eventually(lambda: room.stats(well.vm_id)["cpuUsage"] != before, within_s=2)
                return bool(room.stats(stuck.vm_id)["monitorResponse"] == "-1")

            eventually(fresh_without_the_stuck_one, within_s=15, every_s=0.3)
            assert room.stats(well.vm_id)["monitorResponse"] == "0"
            assert room.room.vitals is not None
            assert room.room.vitals()["samples_hanging"] <= 4
            began = time.monotonic()
            room.call("VM.destroy", vmID=stuck.vm_id, gracefulAttempts=0)
            assert time.monotonic() - began < 25  # libvirt waits 10 s before it kills
        finally:
            os.kill(pid, signal.SIGCONT) if Path(f"/proc/{pid}").exists() else None
        assert [entry["vmId"] for entry in room.call("Host.getVMList")] == [well.vm_id]
        room.call("VM.destroy", vmID=well.vm_id, gracefulAttempts=0)


def test_more_guests_hang_than_libvirtd_serves_at_a_time_and_only_they_are_told(
    libvirtd: PrivateLibvirtd, folder: Path, new_guest: NewGuest
) -> None:
    with VirtRoom(libvirtd.uri, folder, command_timeout_s=3) as room, ExitStack() as frozen:
        stuck, well = [new_guest(room) for _ in range(6)], new_guest(room)
        eventually(lambda: room.stats(well.vm_id)["disks"], within_s=5)
        for guest in stuck:
            pid = libvirtd.qemu_pid(guest.name)
            os.kill(pid, signal.SIGSTOP)
            frozen.callback(os.kill, pid, signal.SIGCONT)
        told: set[str] = set()

        def all_are_told() -> bool:
            room.sample()  # again and again, as the scheduler does: who is well has answered just now
            told.update(v["vmId"] for v in room.call("Host.getAllVmStats") if v["monitorResponse"] == "-1")
            return len(told) >= len(stuck)

        eventually(all_are_told, within_s=20, every_s=0.1)
        before = room.stats(well.vm_id)["cpuUsage"]

        def fresh() -> bool:
            room.sample()
            return bool(room.stats(well.vm_id)["cpuUsage"] != before)

        eventually(fresh, within_s=15, every_s=0.3)
        room.call("VM.pause", vmID=well.vm_id)
        room.call("VM.cont", vmID=well.vm_id)
        assert told == {guest.vm_id for guest in stuck}

        def all_are_known() -> bool:
            room.sample()  # one that was told for want of samples may not have been asked yet
            return all(room.state(Sampler).hangs(guest.vm_id) for guest in stuck)

        eventually(all_are_known, within_s=20, every_s=0.3)
        # Whoever asks them something is told at once, so that libvirtd has time for the others.
        for guest in stuck:
            with pytest.raises(VmNotResponding):
                room.call("VM.pause", vmID=guest.vm_id)
        assert room.state(Connection).alive
        frozen.close()

        def all_answer() -> bool:
            room.sample()
            return all(v["monitorResponse"] == "0" for v in room.call("Host.getAllVmStats"))

        eventually(all_answer, within_s=15, every_s=0.3)
        for guest in (*stuck, well):
            room.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)


def test_calls_that_hang_before_anybody_knows_hold_up_no_calls_of_other_vms(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    stuck, well = [new_guest(room) for _ in range(6)], new_guest(room)
    room.call("VM.pause", vmID=well.vm_id)
    room.call("VM.cont", vmID=well.vm_id)
    room.sample()
    before = len(connected())
    with ExitStack() as stack:
        calls = stack.enter_context(ThreadPoolExecutor(len(stuck)))
        for guest in stuck:
            pid = libvirtd.qemu_pid(guest.name)
            os.kill(pid, signal.SIGSTOP)
            stack.callback(os.kill, pid, signal.SIGCONT)
        asked = [calls.submit(room.call, "VM.pause", vmID=guest.vm_id) for guest in stuck]
        time.sleep(2 * LATE_S)
        took = []
        for _ in range(20):
            began = time.monotonic()
            room.call("VM.pause", vmID=well.vm_id)
            room.call("VM.cont", vmID=well.vm_id)
            took.append(time.monotonic() - began)
        assert not any(call.done() for call in asked)
        # One that waited for the next look at the connection would have taken two seconds.
        assert max(took) < 1.5, took
        assert room.state(Connection).alive
    assert room.state(Connection).reconnects == 1
    # Those that the hanging calls kept are closed with them; one for events, calls and statistics each are left.
    eventually(lambda: len(connected()) <= before, within_s=15)


@pytest.mark.usefixtures("thawed")
def test_calls_that_wait_for_a_frozen_libvirtd_fail_when_it_is_found_out(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    guest = new_guest(room)
    with ThreadPoolExecutor(1) as calls:
        libvirtd.freeze()
        asked = calls.submit(room.call, "VM.pause", vmID=guest.vm_id)
        with pytest.raises(LibvirtUnavailable):
            asked.result(timeout=15)
        libvirtd.thaw()
    eventually(lambda: pauses(room, guest), within_s=30)


def test_a_migration_that_had_not_begun_when_we_died_is_over_and_the_vm_stays(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd, folder: Path
) -> None:
    guest = new_guest(room)
    note = Note("127.0.0.1:1", MigrationParams(dst="127.0.0.1:1"))
    room.state(Keeper).remember(guest.vm_id, **{NOTE: note.dump()})
    with VirtRoom(libvirtd.uri, folder) as next_life:
        next_life.storage.images.update(room.storage.images)
        eventually(lambda: next_life.status(guest.vm_id) == "Up", within_s=10)
        guest.keeps_ticking()
        assert NOTE not in libvirtd.virsh("dumpxml", guest.name)
        with pytest.raises(MigrationNotInProgress):
            next_life.call("VM.migrateCancel", vmID=guest.vm_id)
