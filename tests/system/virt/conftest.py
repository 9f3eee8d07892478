# SPDX-License-Identifier: Apache-2.0
"""For the tests of one file: a libvirtd, with a room on it for each test, or two hosts between which VMs move."""

import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.bootsector import last_tick, write_boot_disk
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.two_hosts import Two, two_hosts
from tests.support.virt_room import VirtRoom, vm_xml
from vdsm_mp.api.errors_virt import LibvirtUnavailable
from vdsm_mp.common import xml
from vdsm_mp.virt.chain import running_chain


@pytest.fixture(scope="module")
def libvirtd() -> Iterator[PrivateLibvirtd]:
    with PrivateLibvirtd.start() as running:
        yield running


@pytest.fixture
def folder(libvirtd: PrivateLibvirtd) -> Path:
    """A place that QEMU's user may enter."""
    made = libvirtd.root / f"t-{uuid.uuid4().hex[:8]}"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture
def room(libvirtd: PrivateLibvirtd, folder: Path) -> Iterator[VirtRoom]:
    with VirtRoom(libvirtd.uri, folder) as room:
        yield room
        if not room.closed:
            eventually(lambda: all_ended(room), within_s=30)
    assert room.background.failures == []


def all_ended(room: VirtRoom) -> bool:
    """libvirtd may have crashed when it came back from what the test did to it, and be about to start again."""
    try:
        for entry in room.call("Host.getVMList"):
            room.call("VM.destroy", vmID=entry["vmId"], gracefulAttempts=0)
    except LibvirtUnavailable:
        return False
    return True


@pytest.fixture(scope="module")
def two() -> Iterator[Two]:
    with two_hosts() as both:
        yield both


@dataclass(frozen=True)
class Guest:
    """One VM of a test."""

    vm_id: str
    name: str
    serial: Path
    disk: dict[str, str]

    @property
    def ticks(self) -> int:
        return last_tick(self.serial)

    def keeps_ticking(self) -> None:
        before = self.ticks
        eventually(lambda: self.ticks > before, within_s=15)


NewGuest = Callable[..., Guest]


@pytest.fixture
def new_guest(folder: Path) -> Callable[..., Guest]:
    """new_guest(room): create a VM on a disk of its own and wait until it runs; more keywords go to `vm_xml`."""

    def make(room: VirtRoom, *, wait: bool = True, releases: bool = False, **more: Any) -> Guest:
        vm_id = str(uuid.uuid4())
        disk = {key: str(uuid.uuid4()) for key in ("poolID", "domainID", "imageID", "volumeID")}
        image = folder / disk["imageID"]
        image.mkdir()
        path = write_boot_disk(image / disk["volumeID"], releases=releases)
        shutil.chown(path, "vdsm", "kvm")
        path.chmod(0o660)
        room.storage.images[disk["imageID"]] = path
        guest = Guest(vm_id, f"vm-{vm_id[:8]}", folder / f"{vm_id}.log", disk)
        assert room.create(vm_xml(vm_id, serial=guest.serial, disk=disk, **more), vm_id)["status"] == "WaitForLaunch"
        if wait:
            eventually(lambda: room.status(vm_id) not in ("WaitForLaunch",), within_s=30)
            eventually(lambda: guest.ticks > 0, within_s=30)
        return guest

    return make


def image(room: VirtRoom, folder: Path, content: bytes = b"cd") -> dict[str, str]:
    """A volume on storage; its four ids."""
    ids = {key: str(uuid.uuid4()) for key in ("poolID", "domainID", "imageID", "volumeID")}
    (folder / ids["imageID"]).mkdir()
    path = folder / ids["imageID"] / ids["volumeID"]
    path.write_bytes(content.ljust(1 << 16, b"\0"))
    shutil.chown(path, "vdsm", "kvm")
    path.chmod(0o660)
    room.storage.images[ids["imageID"]] = path
    return ids


def overlay(room: VirtRoom, folder: Path, disk: dict[str, str], base: str = "") -> dict[str, str]:
    """A new qcow2 volume on top of a disk's leaf (or of `base`), as the SPM makes it; the ids of the new leaf."""
    image = folder / disk["imageID"]
    new, below = str(uuid.uuid4()), base or disk["volumeID"]
    kind = "qcow2" if (image / below).read_bytes()[:4] == b"QFI\xfb" else "raw"
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", kind, new]
    subprocess.run(words, cwd=image, check=True, timeout=30)
    shutil.chown(image / new, "vdsm", "kvm")
    (image / new).chmod(0o660)
    room.storage.volumes[new] = image / new
    return {**disk, "volumeID": new}


def chain_of(room: VirtRoom, vm_id: str, name: str = "hda") -> list[str]:
    """The volumes QEMU has open, leaf first, by the XML that the engine gets."""
    domain = xml.parse(room.call("Host.dumpxmls", vmList=[vm_id])[vm_id])
    disk = next(d for d in domain.iterfind("devices/disk") if xml.attributes(d.find("target")).get("dev") == name)
    return [link.volume_id for link in running_chain(disk)]
