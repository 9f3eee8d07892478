# SPDX-License-Identifier: Apache-2.0
"""VMs move between two whole houses, each with a libvirtd of its own; whatever dies, exactly one of the two has it."""

import contextlib
import ctypes
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.faults.vm_steps import QUICK_MIGRATION, Case, migration_cases
from tests.support import spice
from tests.support.engine import Engine
from tests.support.eventually import eventually
from tests.support.hookscripts import write_hook
from tests.support.needs import lacks, needs_program, needs_root
from tests.support.stepping import Stepping
from tests.support.two_hosts import SLOW_MIB_S, Guest, Side, Two, becomes, log_of, under_way
from vdsm_mp.api.errors import RemoteError

pytestmark = [
    pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter", "ip"),
]  # fmt: skip

_SYS_USERFAULTFD = 323
_WHOLE = bool(os.environ.get("VDSM_MP_FAULTS_STRIDE"))


@pytest.fixture
def guest(two: Two) -> Iterator[Guest]:
    made = Guest(two, two.a)
    yield made
    for side in (two.a, two.b):
        # shown when the test has failed
        print(f"--- {side.libvirtd.name}", *log_of(side, made).splitlines()[-40:], sep="\n")
    made.end()


def test_a_guest_moves_there_and_back_and_notices_nothing(two: Two, guest: Guest) -> None:
    engines = [Engine(side.house.client()) for side in (two.a, two.b)]
    schedule = {
        "init": [{"name": "setDowntime", "params": ["100"]}],
        # A guest this small is there after a few passes; the patience is an engine's, not one pass.
        "stalling": [
            {"limit": 500, "action": {"name": "setDowntime", "params": ["500"]}},
            {"limit": -1, "action": {"name": "abort", "params": []}},
        ],
    }
    guest.move(two.a, two.b, convergenceSchedule=schedule, outgoingLimit=2, incomingLimit=2)
    eventually(lambda: two.a.status(guest.vm_id) == "Down", within_s=20)
    left = two.a.stats(guest.vm_id)
    assert (left["exitCode"], left["exitReason"]) == (0, 4)
    eventually(lambda: two.b.status(guest.vm_id) in ("Up", "Powering up"), within_s=10)
    guest.lives_only_at(two.b, two.a)
    progress = two.a.house.call("VM.getMigrationStatus", {"vmID": guest.vm_id})
    assert progress["progress"] == 100
    assert isinstance(progress["downtime"], int)
    assert two.a.house.call("VM.destroy", {"vmID": guest.vm_id}) is True
    assert engines[0].statuses(guest.vm_id, until="Down")[0] == "Migration Source"
    engines[1].statuses(guest.vm_id, until="Up")

    # Back it goes asleep, and wakes where it was.
    two.b.house.call("VM.pause", {"vmID": guest.vm_id})
    guest.move(two.b, two.a)
    eventually(lambda: two.b.status(guest.vm_id) == "Down", within_s=20)
    eventually(lambda: two.a.status(guest.vm_id) == "Paused", within_s=10)
    assert two.a.stats(guest.vm_id)["pauseCode"] == "NOERR"
    two.a.house.call("VM.cont", {"vmID": guest.vm_id})
    guest.lives_only_at(two.a, two.b)


def test_a_guest_moves_encrypted_compressed_tunnelled_and_over_several_connections(two: Two, guest: Guest) -> None:
    """And each was really used: QEMU is asked on the way. Old and rare ways are tried in full runs of the faults."""
    guest.fill(two.a)
    ways: list[dict[str, Any]] = [{"encrypted": True}, {"parallel": 2}]
    ways += [{"compressed": "true"}, {"tunneled": "true"}] if _WHOLE else []
    here, there = two.a, two.b
    for way in ways:
        guest.move(here, there, maxBandwidth=SLOW_MIB_S, dst=f"localhost:{there.house.port}", **way)
        under_way(guest, here)
        assert way_of(here, guest) == way, way
        here.house.call("VM.migrateChangeParams", {"vmID": guest.vm_id, "params": {"maxBandwidth": 1000}})
        becomes(here, guest, "Down")
        becomes(there, guest, "Up", "Powering up")
        guest.lives_only_at(there, here)
        here.house.call("VM.destroy", {"vmID": guest.vm_id})
        here, there = there, here


def way_of(side: Side, guest: Guest) -> dict[str, Any]:
    """How QEMU sends it, by its own words, as a client would have asked for it."""
    found = json.loads(
        side.libvirtd.virsh("qemu-monitor-command", guest.name, '{"execute": "query-migrate-parameters"}')
    )["return"]
    listed = json.loads(
        side.libvirtd.virsh("qemu-monitor-command", guest.name, '{"execute": "query-migrate-capabilities"}')
    )["return"]
    on = {one["capability"] for one in listed if one["state"]}
    if found.get("tls-creds"):
        return {"encrypted": True}
    if "multifd" in on:
        return {"parallel": found["multifd-channels"]}
    return {"compressed": "true"} if {"xbzrle", "compress"} & on else {"tunneled": "true"}


def test_a_payload_is_made_anew_where_its_guest_goes_and_goes_where_it_was(two: Two) -> None:
    cd = '<disk type="file" device="cdrom"><source file="PAYLOAD:"/><target dev="hdc" bus="ide"/><readonly/></disk>'
    data = (
        '<ovirt-vm:device devtype="disk" name="hdc"><ovirt-vm:payload><ovirt-vm:volId>config-2</ovirt-vm:volId>'
        '<ovirt-vm:file path="openstack/latest/user_data">I2Nsb3VkLWNvbmZpZw==</ovirt-vm:file></ovirt-vm:payload>'
        "</ovirt-vm:device>"
    )
    guest = Guest(two, two.a, devices=cd, metadata=data)
    try:
        (here,) = payloads(two.a)
        for home, to in ((two.a, two.b), (two.b, two.a)):
            guest.move(home, to)
            becomes(home, guest, "Down")
            becomes(to, guest, "Up", "Powering up")
            guest.lives_only_at(to, home)
            eventually(lambda home=home: payloads(home) == [])
            (there,) = payloads(to)
            assert (there.name, b"#cloud-config" in there.read_bytes()) == (here.name, True)
            opened = [path.readlink() for path in Path(f"/proc/{to.libvirtd.qemu_pid(guest.name)}/fd").iterdir()]
            assert two.shared / "vrun/payload" / there.name in opened
            home.house.call("VM.destroy", {"vmID": guest.vm_id})
    finally:
        guest.end()
    assert payloads(two.a) == payloads(two.b) == []


def test_a_viewer_goes_where_its_guest_goes_with_a_ticket_that_was_about_to_expire(two: Two) -> None:
    spice.needs_server()
    console = (
        '<graphics type="spice" port="-1" autoport="yes" passwd="*****" passwdValidTo="1970-01-01T00:00:01">'
        '<listen type="address" address="0.0.0.0"/></graphics><video><model type="vga"/></video>'
    )
    guest = Guest(two, two.a, devices=console)

    def viewer(side: Side) -> spice.Viewer:
        port = int(side.stats(guest.vm_id)["displayInfo"][0]["port"])
        return spice.Viewer(lambda channel: spice.connected(side.libvirtd.inner_pid, port), "secret")

    try:
        ticket = {"deviceType": "graphics", "graphicsType": "spice", "password": "secret", "ttl": 5, "params": {}}
        two.a.house.call("VM.updateDevice", {"vmID": guest.vm_id, "params": ticket})
        with viewer(two.a) as there:
            eventually(lambda: two.a.stats(guest.vm_id)["clientIp"] == "127.0.0.1", within_s=10)
            began = time.monotonic()
            guest.move(two.a, two.b, consoleAddress="198.51.100.7")
            address, port = there.sent_to()
            becomes(two.b, guest, "Up", "Powering up")
            assert address == "198.51.100.7"
            assert port == int(two.b.stats(guest.vm_id)["displayInfo"][0]["port"])
            # What it was good for at first, and what its clock in whole seconds may add.
            eventually(lambda: time.monotonic() > began + 8)
            with viewer(two.b):
                eventually(lambda: two.b.stats(guest.vm_id)["clientIp"] == "127.0.0.1", within_s=10)
        guest.lives_only_at(two.b, two.a)
    finally:
        guest.end()


def payloads(side: Side) -> list[Path]:
    return list((side.house.root / "vrun/payload").glob("*.img"))


def test_hooks_see_a_vm_leave_and_arrive_and_may_refuse(two: Two, guest: Guest) -> None:
    seen = two.shared / "seen"
    refused = write_hook(two.b.house.root / "hooks", "before_vm_migrate_destination", "echo full >&2; exit 2")
    guest.move(two.a, two.b)
    eventually(lambda: two.a.status(guest.vm_id) in ("Up", "Powering up"), within_s=20)
    assert two.b.status(guest.vm_id) in ("", "Down")
    refused.unlink()

    what = [(side, kind) for side in ("source", "destination") for kind in ("vm", "device")]
    points = [f"{when}_{kind}_migrate_{side}" for when in ("before", "after") for side, kind in what]
    written = [
        write_hook(side.house.root / "hooks", point, f'echo "{side.libvirtd.name} {point} $lane" >> {seen}')
        for point in points
        for side in (two.a, two.b)
    ]
    guest.move(two.a, two.b)
    becomes(two.b, guest, "Up", "Powering up")
    names = {"source": "host-a", "destination": "host-b"}
    lanes = {"vm": "", "device": "fast"}
    expected = [f"{names[p.split('_')[3]]} {p} {lanes[p.split('_')[1]]}" for p in points]
    eventually(lambda: len(seen.read_text().splitlines()) == len(points), within_s=10)
    assert sorted(seen.read_text().splitlines()) == sorted(expected)
    for path in written:
        path.unlink()


@pytest.mark.parametrize("back", [True, False], ids=["in time", "when it has left"])
def test_hooks_see_a_vm_leave_though_the_worker_that_sent_it_died(two: Two, guest: Guest, back: bool) -> None:
    seen = two.shared / f"left-{back}"
    hook = write_hook(
        two.a.house.root / "hooks", "after_vm_migrate_source", f'grep -c "<uuid>" "$_hook_domxml" >> {seen}'
    )
    guest.fill(two.a)
    guest.move(two.a, two.b, maxBandwidth=SLOW_MIB_S)
    under_way(guest, two.a)
    pid = two.a.house.pid_of("virt")
    if not back:
        os.kill(pid, signal.SIGSTOP)  # it hears nothing of the end, and is replaced when it is killed
    two.a.libvirtd.virsh("migrate-setspeed", guest.name, "1000")
    if not back:
        eventually(lambda: guest.name not in two.a.runs(), within_s=20)
    os.kill(pid, signal.SIGKILL)
    two.a.house.wait_other_pid("virt", pid)
    becomes(two.b, guest, "Up", "Powering up")
    eventually(lambda: two.a.status(guest.vm_id) == "Down", within_s=20)
    eventually(lambda: seen.exists() and seen.read_text() == "1\n", within_s=10)
    assert (two.a.stats(guest.vm_id)["exitCode"], two.a.stats(guest.vm_id)["exitReason"]) == (0, 4)
    hook.unlink()


def test_a_cancelled_migration_leaves_the_guest_where_it_was(two: Two, guest: Guest) -> None:
    guest.fill(two.a)
    guest.move(two.a, two.b, maxBandwidth=SLOW_MIB_S)
    under_way(guest, two.a)
    assert two.b.status(guest.vm_id) == "Migration Destination"
    with pytest.raises(RemoteError) as refused:
        guest.move(two.a, two.b)
    assert refused.value.code == 51
    two.a.house.call("VM.migrateChangeParams", {"vmID": guest.vm_id, "params": {"maxBandwidth": 1}})
    assert two.a.house.call("VM.migrateCancel", {"vmID": guest.vm_id}) is True
    eventually(lambda: two.a.status(guest.vm_id) in ("Up", "Powering up"), within_s=10)
    assert two.b.status(guest.vm_id) in ("", "Down")
    guest.lives_only_at(two.a, two.b)
    with pytest.raises(RemoteError, match="cancelled") as asked:
        two.a.house.call("VM.getMigrationStatus", {"vmID": guest.vm_id})
    assert asked.value.code == 47
    with pytest.raises(RemoteError) as over:
        two.a.house.call("VM.migrateCancel", {"vmID": guest.vm_id})
    assert over.value.code == 81


def test_an_engine_is_told_why_a_migration_failed(two: Two, guest: Guest) -> None:
    guest.move(two.a, two.b, dst="127.0.0.1:1")
    eventually(lambda: two.a.status(guest.vm_id) in ("Up", "Powering up"), within_s=10)
    with pytest.raises(RemoteError, match="refused") as asked:
        two.a.house.call("VM.getMigrationStatus", {"vmID": guest.vm_id})
    assert asked.value.code == 12
    # What libvirt says of the road to the other host is no loss of our own.
    guest.move(two.a, two.b, dstqemu="no-such-host.invalid")
    eventually(lambda: two.a.status(guest.vm_id) in ("Up", "Powering up"), within_s=20)
    with pytest.raises(RemoteError, match=r"Cannot migrate the virtual machine: .*no-such-host.invalid"):
        two.a.house.call("VM.getMigrationStatus", {"vmID": guest.vm_id})
    assert two.b.status(guest.vm_id) == ""
    # The next one begins anew.
    guest.move(two.a, two.b)
    becomes(two.b, guest, "Up", "Powering up")
    becomes(two.a, guest, "Down")
    assert two.a.house.call("VM.getMigrationStatus", {"vmID": guest.vm_id})["progress"] == 100


def test_a_busy_destination_is_asked_again_until_it_has_room(two: Two, guest: Guest) -> None:
    other = Guest(two, two.a)
    other.fill(two.a)
    other.move(two.a, two.b, maxBandwidth=SLOW_MIB_S)
    under_way(other, two.a)
    guest.move(two.a, two.b, incomingLimit=1)
    eventually(lambda: "asked again" in two.a.house.log_text(), within_s=10)
    assert two.a.status(guest.vm_id) == "Migration Source"
    assert two.b.status(guest.vm_id) == ""
    two.a.house.call("VM.destroy", {"vmID": other.vm_id, "gracefulAttempts": 0})
    eventually(lambda: two.b.status(guest.vm_id) in ("Up", "Powering up"), within_s=20)
    eventually(lambda: two.b.status(other.vm_id) in ("", "Down"), within_s=20)
    guest.lives_only_at(two.b, two.a)


@pytest.mark.parametrize("dies", ["source libvirtd", "destination libvirtd", "destination QEMU"])
def test_whatever_dies_around_it_the_guest_lives_on_at_the_source(two: Two, guest: Guest, dies: str) -> None:
    guest.fill(two.a)
    guest.move(two.a, two.b, maxBandwidth=SLOW_MIB_S)
    under_way(guest, two.a)
    if dies == "destination QEMU":
        os.kill(two.b.libvirtd.qemu_pid(guest.name), signal.SIGKILL)
    else:
        daemon = (two.a if dies.startswith("source") else two.b).libvirtd
        daemon.kill()
        daemon.launch()
    eventually(lambda: two.a.status(guest.vm_id) in ("Up", "Powering up"), within_s=30)
    eventually(lambda: two.b.status(guest.vm_id) in ("", "Down"), within_s=20)
    guest.lives_only_at(two.a, two.b)


def test_a_destination_that_cannot_be_reached_or_cannot_prepare_leaves_the_guest_alone(two: Two, guest: Guest) -> None:
    nowhere = Side(two.b.house, two.b.libvirtd, two.b.address)
    guest.move(two.a, nowhere, dst="127.0.0.1:1")
    eventually(lambda: two.a.status(guest.vm_id) in ("Up", "Powering up"), within_s=10)
    guest.move(two.a, two.b, dstqemu="10.78.0.99")  # the agent is there, the data's address is not
    eventually(lambda: two.a.status(guest.vm_id) in ("Up", "Powering up"), within_s=20)
    assert two.b.status(guest.vm_id) in ("", "Down")
    guest.move(two.a, two.b, encrypted=True)  # its QEMU's certificate is for another name than this address
    eventually(lambda: two.a.status(guest.vm_id) in ("Up", "Powering up"), within_s=20)
    guest.lives_only_at(two.a, two.b)


@pytest.mark.parametrize("dies", ["source", "destination"])
def test_a_migration_goes_on_when_our_worker_dies(two: Two, guest: Guest, dies: str) -> None:
    guest.fill(two.a)
    guest.move(two.a, two.b, maxBandwidth=SLOW_MIB_S)
    under_way(guest, two.a)
    house = (two.a if dies == "source" else two.b).house
    house.kill_worker("virt")
    assert two.a.status(guest.vm_id) == "Migration Source"
    two.a.house.call("VM.migrateChangeParams", {"vmID": guest.vm_id, "params": {"maxBandwidth": 1000}})
    eventually(lambda: two.a.status(guest.vm_id) == "Down", within_s=30)
    assert two.a.stats(guest.vm_id)["exitReason"] == 4
    eventually(lambda: two.b.status(guest.vm_id) in ("Up", "Powering up"), within_s=20)
    guest.lives_only_at(two.b, two.a)


def test_a_vm_that_vdsm_was_sending_away_is_told_as_leaving_and_has_left(two: Two, guest: Guest) -> None:
    """It leaves no note; that libvirt carries the VM is all there is to see."""
    guest.fill(two.a)
    way = ("migrate", "--live", "--p2p", "--persistent", "--bandwidth", str(SLOW_MIB_S), guest.name)
    with ThreadPoolExecutor(1) as pool:
        there = (f"qemu+tcp://{two.b.address}/system", f"tcp://{two.b.address}")
        leaving = pool.submit(two.a.libvirtd.virsh, *way, *there)
        eventually(lambda: "Outgoing migration" in two.a.libvirtd.virsh("domjobinfo", guest.name), within_s=15)
        assert two.a.status(guest.vm_id) != "Migration Source"
        two.a.house.kill_worker("virt")
        under_way(guest, two.a)
        two.a.house.call("VM.migrateChangeParams", {"vmID": guest.vm_id, "params": {"maxBandwidth": 1000}})
        eventually(lambda: two.a.status(guest.vm_id) == "Down", within_s=30)
        leaving.result(10)
    assert two.a.stats(guest.vm_id)["exitReason"] == 4
    eventually(lambda: two.b.status(guest.vm_id) in ("Up", "Powering up"), within_s=20)
    guest.lives_only_at(two.b, two.a)


@pytest.mark.parametrize("torn", ["", "destination", "source"] if _WHOLE else [""], ids=lambda torn: torn or "whole")
def test_a_guest_goes_over_first_and_fetches_its_memory_afterwards(two: Two, guest: Guest, torn: str) -> None:
    """torn: whose QEMU dies over it."""
    if not _userfaultfd():
        lacks("userfaultfd")
    guest.fill(two.a)
    schedule = {"init": [], "stalling": [{"limit": -1, "action": {"name": "postcopy", "params": []}}]}
    engine = Engine(two.a.house.client())
    if torn:
        slowly = {"execute": "migrate-set-parameters", "arguments": {"max-postcopy-bandwidth": 1 << 20}}
        two.a.libvirtd.virsh("qemu-monitor-command", guest.name, json.dumps(slowly))
    guest.move(two.a, two.b, maxBandwidth=SLOW_MIB_S, convergenceSchedule=schedule, autoConverge="false")
    if torn:
        eventually(lambda: "paused" in two.a.libvirtd.virsh("domstate", guest.name), within_s=40)
        side = two.a if torn == "source" else two.b
        os.kill(side.libvirtd.qemu_pid(guest.name), signal.SIGKILL)
        becomes(two.a, guest, "Down")
        if torn == "destination":
            assert two.a.stats(guest.vm_id)["exitReason"] == 12  # half of it is here, and half was there
        # libvirt says that it runs there, as soon as the rest of its memory is lost.
        eventually(lambda: two.b.status(guest.vm_id) in ("", "Down"), within_s=40)
        assert "Migration Destination -> Up" not in log_of(two.b, guest)
        for one in (two.a, two.b):
            eventually(lambda one=one: guest.name not in one.libvirtd.virsh("list", "--name"), within_s=20)  # type: ignore[misc]
        # libvirtd 9.0 may keep the job of a source that died, until it is started again.
        two.a.libvirtd.kill()
        two.a.libvirtd.launch()
        becomes(two.a, guest, "Down")
        return
    eventually(lambda: two.a.status(guest.vm_id) == "Down", within_s=30)
    assert two.a.stats(guest.vm_id)["exitReason"] == 4
    eventually(lambda: two.b.status(guest.vm_id) in ("Up", "Powering up"), within_s=20)
    guest.lives_only_at(two.b, two.a)
    engine.statuses(guest.vm_id, until="Paused")  # that is how engines know it


def _userfaultfd() -> bool:
    """Has the kernel what post-copy is made of?"""
    descriptor = ctypes.CDLL(None).syscall(_SYS_USERFAULTFD, 0)
    if descriptor >= 0:
        os.close(descriptor)
    return bool(descriptor >= 0)


@pytest.mark.parametrize("case", list(migration_cases()) if _WHOLE else QUICK_MIGRATION, ids=str)
@pytest.mark.timeout(180)
def test_a_death_at_a_step_leaves_exactly_one_vm(two: Two, guest: Guest, case: Case) -> None:
    slow = {"maxBandwidth": SLOW_MIB_S} if case.moment == "in" else {}
    if slow:
        guest.fill(two.a)
    stepping = Stepping(two.a.house.root / "vrun")
    stepping.arm(case.moment, case.step, case.number)
    guest.move(two.a, two.b, **slow)
    stepping.wait()
    if slow:
        under_way(guest, two.a)
    side, victim = case.victim.split()
    kill(two.a if side == "source" else two.b, victim, guest, stepping, known=case.moment == "before")
    if slow and two.a.status(guest.vm_id) == "Migration Source":
        with contextlib.suppress(RemoteError):  # it may end by itself meanwhile
            two.a.house.call("VM.migrateChangeParams", {"vmID": guest.vm_id, "params": {"maxBandwidth": 1000}})

    moving = ("Migration Source", "Migration Destination", "WaitForLaunch")
    eventually(
        lambda: not [s for s in (two.a, two.b) if s.status(guest.vm_id) in moving], within_s=60, every_s=0.3
    )  # fmt: skip
    has_it = [one for one in (two.a, two.b) if guest.name in one.runs()]
    if victim == "QEMU" and (side == "source" or case.moment == "after"):
        assert has_it == []
        end = (two.a if side == "source" else two.b).stats(guest.vm_id)
        assert (end["status"], end["exitCode"]) == ("Down", 1), end
        return
    (here,) = has_it
    (other,) = (one for one in (two.a, two.b) if one is not here)
    eventually(lambda: here.status(guest.vm_id) in ("Up", "Powering up"), within_s=20)
    eventually(lambda: other.status(guest.vm_id) in ("", "Down"), within_s=20)
    assert "outgoing_migration" not in here.libvirtd.virsh("dumpxml", guest.name)
    guest.lives_only_at(here, other)


def kill(side: Side, victim: str, guest: Guest, stepping: Stepping, *, known: bool) -> None:
    """known: its agent knows that QEMU is dead before the migration goes on."""
    if victim == "libvirtd":
        side.libvirtd.kill()
        stepping.go()
        side.libvirtd.launch()
    elif victim == "QEMU":
        os.kill(side.libvirtd.qemu_pid(guest.name), signal.SIGKILL)
        eventually(lambda: not known or side.status(guest.vm_id) == "Down", within_s=15)
        stepping.go()
    else:
        pid = side.house.pid_of(victim)
        os.kill(pid, signal.SIGKILL)
        stepping.go()
        side.house.wait_other_pid(victim, pid, within_s=60)
