# SPDX-License-Identifier: Apache-2.0
"""A VM in the whole house, through its door: whatever of ours dies, the guest does not notice, and is found again."""

import shutil
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
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.errors_network import BadNetworkParameters
from vdsm_mp.api.errors_virt import HostdevDetachFailed, NoSuchVm, VmOperationFailed

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
        house.kill_worker(worker)
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


def refused(house: RunningHouse, verb: str, **params: Any) -> int:
    with pytest.raises(RemoteError) as told:
        house.call(verb, params)
    return told.value.code


def test_what_is_asked_of_host_devices_that_are_not_there_is_refused_and_changes_nothing(
    house: RunningHouse, libvirtd: PrivateLibvirtd
) -> None:
    guest, nobody = Guest(house, libvirtd), str(uuid.uuid4())
    name = f"vm-{guest.vm_id[:8]}"
    before, listed = libvirtd.virsh("dumpxml", name), house.call("Host.hostdevListByCaps")
    decode.check_hostdevs(listed)
    absent = ("pci_00ff_ff_1f_7", "usb_250_250", "scsi_250_0_0_0", "../../etc/passwd")
    for device in absent:
        assert refused(house, "VM.hotplugHostdev", vmID=guest.vm_id, devices=[device]) == HostdevDetachFailed.code
        assert house.call("VM.hotunplugHostdev", {"vmID": guest.vm_id, "devices": [device]}) == []
        assert refused(house, "VM.hotplugHostdev", vmID=nobody, devices=[device]) == NoSuchVm.code
        assert refused(house, "VM.hotunplugHostdev", vmID=nobody, devices=[device]) == NoSuchVm.code
        assert refused(house, "Host.hostdevReattach", deviceName=device) == VmOperationFailed.code
        assert refused(house, "Host.hostdevChangeNumvfs", deviceName=device, numvfs=1) == BadNetworkParameters.code
    assert house.call("VM.hotplugHostdev", {"vmID": guest.vm_id, "devices": []}) == []
    assert house.call("VM.hotunplugHostdev", {"vmID": guest.vm_id, "devices": []}) == []
    if "computer" in listed:
        assert refused(house, "VM.hotplugHostdev", vmID=guest.vm_id, devices=["computer"]) == HostdevDetachFailed.code
    assert libvirtd.virsh("dumpxml", name) == before
    assert house.call("Host.hostdevListByCaps") == listed
    assert list((house.root / "vrun").glob("hostdev/*")) == []
    guest.lives_on()
