# SPDX-License-Identifier: Apache-2.0
"""The disk of a running VM in the whole house, as an engine leads it: snapshots, merges, backups, another domain.

Real storage under user vdsm, real libvirt and QEMU, the public port; libvirt, metadata and disk must agree after each.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demonstration import sequences
from demonstration.sequences import RAW, Ask, Disk, Storage
from tests.support.bootsector import boot_sector, hellos, last_tick
from tests.support.engine import Engine
from tests.support.enginedisks import DiskLife
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(180),
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-img", "sudo", "unshare", "nsenter"),
]


class Place:
    """A house with two active domains in one pool, and a guest on a raw volume of the first."""

    def __init__(self, house: RunningHouse, libvirtd: PrivateLibvirtd) -> None:
        self.house = house
        (house.root / "repo").chmod(0o755)
        self.ask: Ask = Engine(house.client()).ask
        self.first, self.second = self._storage("first"), self._storage("second")
        self.second.pool_id = self.first.pool_id
        sequences.from_nothing(self.ask, self.first, "first")
        sequences.add_domain(self.ask, self.second, "second")
        sequences.wait_for_domain(self.ask, self.second.sd_id)
        disk = Disk(self.first, size_bytes=1 << 20, form=RAW)
        sequences.create_disk(self.ask, disk, "system")
        vm = sequences.Vm(f"life-{disk.image_id[:8]}", disk, memory_mib=16, boot="<boot dev='hd'/>")
        vm.serial_file = self.serial = libvirtd.root / f"console-{disk.image_id[:8]}.log"
        self.life = DiskLife(self.ask, vm, disk)
        with open(self.life.path(disk.volume_id), "r+b") as volume:
            volume.write(boot_sector())
        sequences.create_vm(self.ask, vm)
        sequences.wait_for_status(self.ask, vm.vm_id, "Powering up", "Up")
        eventually(lambda: last_tick(self.serial) > 0, within_s=30)

    def _storage(self, name: str) -> Storage:
        path = self.house.root / name
        path.mkdir()
        shutil.chown(path, "vdsm", "kvm")
        path.chmod(0o755)
        return Storage(str(path))

    def all_is_well(self) -> None:
        """Chains agree, the guest never rebooted and goes on, nothing is left running."""
        # What a dead worker was at is decided by the next one once libvirt is through with it: seconds.
        eventually(lambda: not self.jobs_that_go_on(), within_s=30)
        self.life.agrees()
        before = last_tick(self.serial)
        eventually(lambda: last_tick(self.serial) > before, within_s=20)
        assert hellos(self.serial) == 1
        assert self.ask("Host.getAllTasksStatuses") == {}

    def jobs_that_go_on(self) -> list[Any]:
        return [job for job in self.ask("Host.getJobs").values() if job["status"] in ("pending", "running")]

    def images(self, storage: Storage) -> list[str]:
        return [entry.name for entry in (Path(storage.path) / storage.sd_id / "images").iterdir()]


@pytest.fixture
def place() -> Iterator[Place]:
    with PrivateLibvirtd.start() as libvirtd, RunningHouse.start(tls=True, libvirt_uri=libvirtd.uri) as house:
        yield Place(house, libvirtd)


def memory_volumes(place: Place) -> tuple[Disk, Disk]:
    """What a snapshot with memory writes into: the content and the configuration."""
    made = []
    for size, kind in ((64 << 20, "MEMD"), (1 << 20, "MEMM")):
        disk = Disk(place.first, size_bytes=size, form=RAW)
        task = place.ask(
            "Volume.create", **disk.params(), size=str(size), volFormat=RAW, preallocate=sequences.SPARSE,
            diskType=kind, desc="", srcImgUUID=sequences.BLANK, srcVolUUID=sequences.BLANK, sequence=1, legal=True,
        )  # fmt: skip
        sequences.finish_task(place.ask, task)
        made.append(disk)
    return made[0], made[1]


def grown(place: Place, leaf: str, size: int) -> dict[str, Any]:
    """The information on a volume that the VM has open, after an engine has extended it: only QEMU can."""
    volume = place.life.disk.params() | {"volumeID": leaf}
    sequences.finish_task(place.ask, place.ask("Volume.extendSize", **volume, newSize=str(size)))
    spec = place.life.disk.ids() | {"volumeID": leaf}
    answer = place.ask("VM.diskSizeExtend", vmID=place.life.vm.vm_id, driveSpecs=spec, newSize=str(size))
    assert answer == str(size)
    place.life.disk.size_bytes = size
    info: dict[str, Any] = place.ask("Volume.getInfo", **volume)
    return info


def full_backup(place: Place, leaf: str) -> dict[str, Any]:
    """Begun, read over NBD and ended; the answer of VM.start_backup."""
    life, scratch = place.life, Disk(place.first, size_bytes=1 << 20)
    sequences.create_disk(place.ask, scratch, "scratch")
    path = place.ask("Image.prepare", **scratch.params(), allowIllegal=False)["path"]
    image = {"domainID": place.first.sd_id, "imageID": life.disk.image_id, "volumeID": leaf}
    backup_id = sequences.new_id()
    config = {
        "backup_id": backup_id,
        "to_checkpoint_id": sequences.new_id(),
        "creation_time": int(time.time()),
        "disks": [{**image, "checkpoint": True, "backup_mode": "full", "scratch_disk": {"path": path, "type": "file"}}],
    }
    answer: dict[str, Any] = place.ask("VM.start_backup", vmID=life.vm.vm_id, config=config)
    url = answer["disks"][life.disk.image_id]
    copy = place.house.root / "copy"
    subprocess.run(["qemu-img", "convert", "-O", "raw", url, str(copy)], check=True, timeout=60)
    assert copy.read_bytes()[:512] == boot_sector()[:512]
    place.ask("VM.stop_backup", vmID=life.vm.vm_id, backup_id=backup_id)
    place.ask("Image.teardown", **scratch.params())
    sequences.delete_disk(place.ask, scratch)
    return config


def test_snapshots_come_and_go_under_a_running_vm(place: Place) -> None:
    life = place.life
    layers = [life.disk.volume_id]
    for _ in range(3):
        leaf = life.new_volume(layers[-1])
        life.snapshot(layers[-1], leaf)
        layers.append(leaf)
    assert life.chain() == layers[::-1]
    place.all_is_well()
    base, first, second, leaf = layers
    life.merge(first, second)
    life.delete_volume(second)
    assert life.chain() == [leaf, first, base]
    place.all_is_well()
    assert grown(place, leaf, 2 << 20)["capacity"] == str(2 << 20)
    for top, below in ((leaf, first), (first, base)):
        life.merge(below, top)
        life.delete_volume(top)
        place.all_is_well()
    assert place.ask("Volume.getInfo", **life.disk.params())["capacity"] == str(2 << 20)

    memory, configuration = memory_volumes(place)
    ids = (place.first.sd_id, place.first.pool_id, memory.image_id, memory.volume_id, configuration.image_id)
    leaf = life.new_volume(base)
    life.snapshot(base, leaf, ",".join((*ids, configuration.volume_id)))
    assert (Path(place.first.path) / place.first.sd_id / "images" / memory.image_id / memory.volume_id).stat().st_size
    place.all_is_well()


def test_a_disk_is_backed_up_and_moves_to_another_domain_under_a_running_vm(place: Place) -> None:
    life, base = place.life, place.life.disk.volume_id
    leaf = life.new_volume(base)
    life.snapshot(base, leaf)
    checkpoint = full_backup(place, leaf)["to_checkpoint_id"]
    assert place.ask("VM.list_checkpoints", vmID=life.vm.vm_id) == [checkpoint]
    place.ask("VM.delete_checkpoints", vmID=life.vm.vm_id, checkpoint_ids=[checkpoint])
    place.all_is_well()

    life.move_to(place.second.sd_id)
    sequences.delete_disk(place.ask, life.disk)
    assert place.images(place.first) == []
    life.disk.storage = place.second
    assert life.chain() == [leaf, base]
    place.all_is_well()
    life.merge(base, leaf)
    life.delete_volume(leaf)
    place.all_is_well()
    place.ask("VM.destroy", vmID=life.vm.vm_id)
    sequences.delete_disk(place.ask, life.disk)
    assert place.images(place.second) == []
