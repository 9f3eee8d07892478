# SPDX-License-Identifier: Apache-2.0
"""A VM in the whole house, through its door: whatever of ours dies, the guest does not notice, and is found again."""

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import decode
from tests.support.bootsector import hellos, last_tick, write_boot_disk
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import vm_xml

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]


@pytest.fixture
def house(libvirtd: PrivateLibvirtd) -> Iterator[RunningHouse]:
    with RunningHouse.start(libvirt_uri=libvirtd.uri) as house:
        yield house


class Guest:
    """A VM on a disk file in the house's repository."""

    def __init__(self, house: RunningHouse, libvirtd: PrivateLibvirtd) -> None:
        self.house = house
        self.vm_id = str(uuid.uuid4())
        folder = libvirtd.root / f"g-{self.vm_id[:8]}"
        folder.mkdir()
        self.serial = folder / "serial.log"
        disk = write_boot_disk(house.root / "repo" / f"{self.vm_id}.img")
        shutil.chown(disk, "vdsm", "kvm")
        disk.chmod(0o660)
        (house.root / "repo").chmod(0o755)
        xml = vm_xml(
            self.vm_id,
            serial=self.serial,
            devices=f'<disk type="file" device="disk"><source file="{disk}"/><target dev="hda" bus="ide"/></disk>',
        )
        decode.check_vm_created(
            house.call("VM.create", {"vmID": self.vm_id, "vmParams": {"vmId": self.vm_id, "xml": xml}})
        )
        eventually(lambda: self.ticks > 0, within_s=30)

    @property
    def ticks(self) -> int:
        return last_tick(self.serial)

    def stats(self) -> Any:
        (entry,) = decode.check_all_vm_stats(self.house.call("Host.getAllVmStats"))
        assert entry["vmId"] == self.vm_id
        return entry

    def lives_on(self) -> None:
        before = self.ticks
        eventually(lambda: self.ticks > before, within_s=15)
        assert hellos(self.serial) == 1


def test_a_guest_outlives_every_worker_and_the_master(house: RunningHouse, libvirtd: PrivateLibvirtd) -> None:
    guest = Guest(house, libvirtd)
    eventually(lambda: guest.stats()["status"] == "Powering up")
    for worker in ("virt", "storage", "scheduler"):
        pid = house.pid_of(worker)
        os.kill(pid, signal.SIGKILL)
        house.wait_other_pid(worker, pid)
        assert guest.stats()["status"] in ("Up", "Powering up")
        guest.lives_on()

    assert house.process is not None
    house.process.kill()
    house.process.wait(10)
    guest.lives_on()
    house.begin()
    house.wait_ready()
    assert guest.stats()["status"] == "Up"

    assert house.terminate() == 0
    guest.lives_on()
    house.begin()
    house.wait_ready()
    assert guest.stats()["status"] == "Up"
    assert house.call("VM.destroy", {"vmID": guest.vm_id}) is True
    assert house.call("Host.getAllVmStats") == []
