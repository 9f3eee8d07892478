# SPDX-License-Identifier: Apache-2.0
"""A VM boots from a managed volume, through the door of a whole house; its device is QEMU's by the agent alone."""

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bootsector import last_tick, write_boot_disk
from tests.support.brick import give_brick
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.loopdevice import loop
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import vm_xml
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.errors_virt import CannotCreateVm

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter", "losetup"),
]

SD, VOLUME = "5d000000-0000-4000-8000-00000000007b", "7b000000-aaaa-4bbb-8ccc-000000000001"


@pytest.fixture
def house(libvirtd: PrivateLibvirtd) -> Iterator[RunningHouse]:
    with RunningHouse.start(libvirt_uri=libvirtd.uri) as house:
        give_brick(house)
        yield house


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    with loop(write_boot_disk(tmp_path / "volume.img")) as found:
        yield found


def test_a_vm_runs_on_a_managed_volume(house: RunningHouse, libvirtd: PrivateLibvirtd, device: str) -> None:
    info = {"driver_volume_type": "local", "data": {"device_path": device}}
    attached = house.call("ManagedVolume.attach_volume", {"vol_id": VOLUME, "sd_id": SD, "connection_info": info})
    vm_id = str(uuid.uuid4())
    folder = libvirtd.root / f"g-{vm_id[:8]}"
    folder.mkdir()

    def create(path: str) -> None:
        disk = f'<disk type="block" device="disk"><source dev="{path}"/><target dev="hda" bus="ide"/></disk>'
        xml = vm_xml(vm_id, serial=folder / "serial.log", devices=disk)
        house.call("VM.create", {"vmID": vm_id, "vmParams": {"vmId": vm_id, "xml": xml}})

    with pytest.raises(RemoteError) as told:
        create(device)
    assert told.value.code == CannotCreateVm.code
    create(attached["managed_path"])
    eventually(lambda: last_tick(folder / "serial.log") > 0, within_s=60)
    (entry,) = house.call("Host.getAllVmStats")
    assert entry["vmId"] == vm_id
    assert house.call("ManagedVolume.volumes_info", {"vol_ids": [VOLUME]})[0]["exists"] is True
    assert house.call("VM.destroy", {"vmID": vm_id}) is True
    assert house.call("ManagedVolume.detach_volume", {"vol_id": VOLUME, "sd_id": SD}) is True
    assert house.call("ManagedVolume.volumes_info") == []


def test_a_worker_that_dies_while_it_attaches_leaves_a_record_that_is_detached(
    house: RunningHouse, device: str
) -> None:
    info = {"driver_volume_type": "local", "data": {"device_path": device, "hang": True}}
    told: list[int] = []

    def attach() -> None:
        try:
            house.call("ManagedVolume.attach_volume", {"vol_id": VOLUME, "sd_id": SD, "connection_info": info})
        except RemoteError as error:
            told.append(error.code)

    asking = threading.Thread(target=attach)
    asking.start()
    notes = house.root / "notes"
    eventually(notes.exists, within_s=30)
    assert programs(house)
    house.kill_worker("storage")
    asking.join(30)
    assert len(told) == 1
    eventually(lambda: not programs(house), within_s=15)
    assert house.call("ManagedVolume.volumes_info") == [{"vol_id": VOLUME, "connection_info": info}]
    assert house.call("ManagedVolume.detach_volume", {"vol_id": VOLUME, "sd_id": SD}) is True
    assert house.call("ManagedVolume.volumes_info") == []
    assert "disconnect" in notes.read_text().splitlines()[-1]


def programs(house: RunningHouse) -> list[str]:
    """Command lines of os-brick's programs of this house."""
    wanted = str(house.root / "libexec/root/vdsm_mp/priv/brick.py").encode()
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if wanted in words:
            found.append(b" ".join(words).decode())
    return found
