# SPDX-License-Identifier: Apache-2.0
"""VMs move between two whole houses, each with a libvirtd of its own; whatever dies, exactly one of the two has it."""

import ctypes
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import decode, guestmemory
from tests.support.bootsector import hellos, last_tick, write_boot_disk
from tests.support.certificates import make_authority
from tests.support.engine import Engine
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import lacks, needs_program, needs_root
from tests.support.virt_room import vm_xml
from vdsm_mp.api.errors import RemoteError

pytestmark = [
    pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter", "ip"),
]  # fmt: skip

MEMORY_MIB = 64
_SYS_USERFAULTFD = 323
#: What lies in the guest's memory takes so many times longer than any step of a test.
SLOW_MIB_S = 2


@dataclass(frozen=True)
class Side:
    """One host. address: of its libvirtd, for the other."""

    house: RunningHouse
    libvirtd: PrivateLibvirtd
    address: str

    def stats(self, vm_id: str) -> Any:
        entries = decode.check_all_vm_stats(self.house.call("Host.getAllVmStats"))
        return next((entry for entry in entries if entry["vmId"] == vm_id), None)

    def status(self, vm_id: str) -> str:
        return str((self.stats(vm_id) or {}).get("status", ""))

    def runs(self) -> list[str]:
        """Names of domains whose CPUs run, by libvirt."""
        return self.libvirtd.virsh("list", "--name", "--state-running").split()


@dataclass(frozen=True)
class Two:
    """Both, and the folder that they share."""

    a: Side
    b: Side
    shared: Path


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    with ExitStack() as stack:
        shared = Path(tempfile.mkdtemp(prefix="vdsm-mp-shared-", dir="/tmp"))
        stack.callback(shutil.rmtree, shared, ignore_errors=True)
        shared.chmod(0o755)
        shutil.chown(shared, "vdsm", "kvm")
        daemons = [
            stack.enter_context(PrivateLibvirtd.start(name=f"host-{n}", listen=True, qemu_is_root=True)) for n in "ab"
        ]
        addresses = daemons[0].link(daemons[1])
        authority = make_authority(shared / "ca")
        files = [authority.issue(name, "127.0.0.1") for name in "ab"]
        os.system(f"chmod -R a+rX {shared / 'ca'}")
        houses = []
        for mine, daemon, other in zip(files, daemons, reversed(addresses), strict=True):
            options = {
                "vars": {"ssl": True, "migration_monitor_interval": 1, "migration_retry_timeout": 1},
                "irs": {"repository": shared / "repo"},
                "vdsm_mp": {
                    "pki_dir": mine.key.parents[1],
                    "migration_libvirt_uri": f"qemu+tcp://{other}/system",
                },
            }
            house = RunningHouse(options, tls=False, table="", libvirt_uri=daemon.uri)
            stack.callback(house.stop)
            house.files = mine
            house.begin()
            houses.append(house)
        (shared / "repo").mkdir()
        shutil.chown(shared / "repo", "vdsm", "kvm")
        for house in houses:
            house.wait_ready()
        sides = [Side(h, d, address) for h, d, address in zip(houses, daemons, addresses, strict=True)]
        yield Two(sides[0], sides[1], shared)


class Guest:
    """A VM that both hosts may run; begins on one of them."""

    def __init__(self, two: Two, home: Side) -> None:
        self.vm_id = str(uuid.uuid4())
        self.name = f"vm-{self.vm_id[:8]}"
        folder = two.shared / self.vm_id
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
        self.serial = folder / "serial.log"
        disk = write_boot_disk(two.shared / "repo" / f"{self.vm_id}.img")
        shutil.chown(disk, "vdsm", "kvm")
        disk.chmod(0o660)
        # Read only: libvirt takes a writable file on a local file system for one that the other host does not see.
        xml = vm_xml(
            self.vm_id, serial=self.serial, memory_mib=MEMORY_MIB,
            devices=f'<disk type="file" device="disk"><driver name="qemu" type="raw" cache="none"/>'
            f'<source file="{disk}"/><target dev="vda" bus="virtio"/><readonly/></disk>',
        )  # fmt: skip
        home.house.call("VM.create", {"vmID": self.vm_id, "vmParams": {"vmId": self.vm_id, "xml": xml}})
        eventually(lambda: last_tick(self.serial) > 0, within_s=30)

    def fill(self, home: Side) -> None:
        """From now on it takes long to move."""
        guestmemory.fill(home.libvirtd.qemu_pid(self.name), MEMORY_MIB)

    def move(self, home: Side, to: Side, **more: Any) -> None:
        params = {
            "vmId": self.vm_id, "dst": f"127.0.0.1:{to.house.port}", "dstqemu": to.address, "method": "online",
            "tunneled": "false", "compressed": "false", "autoConverge": "true", "abortOnError": "true",
            "encrypted": False, "enableGuestEvents": False, **more,
        }  # fmt: skip
        assert home.house.call("VM.migrate", {"vmID": self.vm_id, "params": params}) is True

    def goes_on(self) -> None:
        before = last_tick(self.serial)
        eventually(lambda: last_tick(self.serial) > before, within_s=15)
        assert hellos(self.serial) == 1

    def lives_only_at(self, home: Side, other: Side) -> None:
        assert self.name in home.runs()
        assert self.name not in other.runs()
        self.goes_on()


@pytest.fixture
def guest(two: Two) -> Iterator[Guest]:
    made = Guest(two, two.a)
    yield made
    for side in (two.a, two.b):
        lines = [line for line in side.house.log_text().splitlines() if made.vm_id in line]
        print(f"--- {side.libvirtd.name}", *lines[-40:], sep="\n")  # shown when the test has failed
    for side in (two.a, two.b):
        try:
            side.house.call("VM.destroy", {"vmID": made.vm_id, "gracefulAttempts": 0})
        except RemoteError as error:
            assert error.code == 1


def under_way(guest: Guest, home: Side) -> None:
    """Until libvirt has begun to send it."""
    eventually(lambda: 0 < (home.stats(guest.vm_id).get("migrationProgress") or 0) < 100, within_s=15)
    assert home.status(guest.vm_id) == "Migration Source"


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
    seen = engines[0].statuses(guest.vm_id, within_s=0.5)
    assert seen[0] == "Migration Source"
    assert seen[-1] == "Down"
    assert "Up" in engines[1].statuses(guest.vm_id, within_s=0.5)

    # Back it goes asleep, and wakes where it was.
    two.b.house.call("VM.pause", {"vmID": guest.vm_id})
    guest.move(two.b, two.a)
    eventually(lambda: two.b.status(guest.vm_id) == "Down", within_s=20)
    eventually(lambda: two.a.status(guest.vm_id) == "Paused", within_s=10)
    assert two.a.stats(guest.vm_id)["pauseCode"] == "NOERR"
    two.a.house.call("VM.cont", {"vmID": guest.vm_id})
    guest.lives_only_at(two.a, two.b)


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
    assert "downtime" not in two.a.house.call("VM.getMigrationStatus", {"vmID": guest.vm_id})
    with pytest.raises(RemoteError) as over:
        two.a.house.call("VM.migrateCancel", {"vmID": guest.vm_id})
    assert over.value.code == 81


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
    guest.lives_only_at(two.a, two.b)


@pytest.mark.parametrize("dies", ["source", "destination"])
def test_a_migration_goes_on_when_our_worker_dies(two: Two, guest: Guest, dies: str) -> None:
    guest.fill(two.a)
    guest.move(two.a, two.b, maxBandwidth=SLOW_MIB_S)
    under_way(guest, two.a)
    house = (two.a if dies == "source" else two.b).house
    pid = house.pid_of("virt")
    os.kill(pid, signal.SIGKILL)
    house.wait_other_pid("virt", pid)
    assert two.a.status(guest.vm_id) == "Migration Source"
    two.a.house.call("VM.migrateChangeParams", {"vmID": guest.vm_id, "params": {"maxBandwidth": 1000}})
    eventually(lambda: two.a.status(guest.vm_id) == "Down", within_s=30)
    assert two.a.stats(guest.vm_id)["exitReason"] == 4
    eventually(lambda: two.b.status(guest.vm_id) in ("Up", "Powering up"), within_s=20)
    guest.lives_only_at(two.b, two.a)


def test_a_guest_goes_over_first_and_fetches_its_memory_afterwards(two: Two, guest: Guest) -> None:
    if not _userfaultfd():
        lacks("userfaultfd")
    guest.fill(two.a)
    schedule = {"init": [], "stalling": [{"limit": -1, "action": {"name": "postcopy", "params": []}}]}
    engine = Engine(two.a.house.client())
    guest.move(two.a, two.b, maxBandwidth=SLOW_MIB_S, convergenceSchedule=schedule, autoConverge="false")
    eventually(lambda: two.a.status(guest.vm_id) == "Down", within_s=30)
    assert two.a.stats(guest.vm_id)["exitReason"] == 4
    eventually(lambda: two.b.status(guest.vm_id) in ("Up", "Powering up"), within_s=20)
    guest.lives_only_at(two.b, two.a)
    assert "Paused" in engine.statuses(guest.vm_id, within_s=0.5)  # that is how engines know it


def _userfaultfd() -> bool:
    """Has the kernel what post-copy is made of?"""
    descriptor = ctypes.CDLL(None).syscall(_SYS_USERFAULTFD, 0)
    if descriptor >= 0:
        os.close(descriptor)
    return bool(descriptor >= 0)
