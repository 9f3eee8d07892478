# SPDX-License-Identifier: Apache-2.0
"""Snapshots of a running VM: QEMU, our metadata and what storage is told agree, also after a death in the middle."""

import json
import os
import pickle
import re
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import decode, guestmemory
from tests.support.bootsector import hellos
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom, vm_xml
from tests.system.virt.conftest import Guest, NewGuest, chain_of, image, overlay
from tests.system.virt.test_vm_hibernation import memory_volumes
from tests.system.virt.test_vm_plugs import SCSI, disk_xml
from vdsm_mp.api.errors_virt import DiskNotFound, InvalidVmParameter, NoGuestAgent, SnapshotFailed, VmWrongState
from vdsm_mp.api.internal import GetVirtJobs
from vdsm_mp.common import kernel
from vdsm_mp.virt.keeping import Keeper

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-img", "unshare", "nsenter"),
]


def wish(leaf: dict[str, str], base: dict[str, str]) -> dict[str, Any]:
    return {
        "domainID": leaf["domainID"], "imageID": leaf["imageID"],
        "baseVolumeID": base["volumeID"], "volumeID": leaf["volumeID"],
    }  # fmt: skip


def jobs(room: VirtRoom) -> Any:
    return decode.check_jobs(room.ask(GetVirtJobs()))


def job_status(room: VirtRoom, job_id: str) -> Any:
    return jobs(room)[job_id]["status"]


def test_a_snapshot_is_a_job_that_moves_the_vm_to_its_new_leaf(
    room: VirtRoom, new_guest: NewGuest, folder: Path
) -> None:
    guest = new_guest(room)
    leaf, job_id = overlay(room, folder, guest.disk), str(uuid.uuid4())
    before = room.stats(guest.vm_id)["hash"]
    answer = room.call(
        "VM.snapshot", vmID=guest.vm_id, snapDrives=[wish(leaf, guest.disk)], snapMemory="", jobUUID=job_id
    )
    decode.check_true(answer)
    eventually(lambda: job_status(room, job_id) == "done", within_s=15)
    assert chain_of(room, guest.vm_id) == [leaf["volumeID"], guest.disk["volumeID"]]
    dumped = room.call("Host.dumpxmls")[guest.vm_id]
    assert f"<ovirt-vm:volumeID>{leaf['volumeID']}" in dumped
    assert "snapshot_job" not in dumped
    assert room.stats(guest.vm_id)["hash"] != before
    guest.keeps_ticking()
    # A repeated wish, after a lost answer, is done already.
    room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish(leaf, guest.disk)])


def test_a_snapshot_without_a_job_comes_after_the_one_that_is_under_way(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd
) -> None:
    """Each notes what it is about to do, and there is room for one note."""
    guest, other = new_guest(room, devices=SCSI), image(room, folder)
    room.call("VM.hotplugDisk", vmID=guest.vm_id, params={"xml": disk_xml(other)})
    first, second, job_id = overlay(room, folder, guest.disk), overlay(room, folder, other), str(uuid.uuid4())
    room.storage.gate.clear()
    room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish(first, guest.disk)], jobUUID=job_id)
    eventually(lambda: job_status(room, job_id) == "running")
    with ThreadPoolExecutor(1) as client:
        asked = client.submit(room.call, "VM.snapshot", vmID=guest.vm_id, snapDrives=[wish(second, other)])
        eventually(lambda: sorted(info["status"] for info in jobs(room).values()) == ["pending", "running"])
        room.storage.gate.set()
        asked.result(30)
    assert job_status(room, job_id) == "done"
    assert list(jobs(room)) == [job_id]  # nobody knows the other one
    assert chain_of(room, guest.vm_id) == [first["volumeID"], guest.disk["volumeID"]]
    assert chain_of(room, guest.vm_id, "sda") == [second["volumeID"], other["volumeID"]]
    assert "snapshot_job" not in libvirtd.virsh("dumpxml", guest.name)
    room.storage.fails = DiskNotFound(first["imageID"])
    with pytest.raises(DiskNotFound):
        room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish(overlay(room, folder, first), first)])
    guest.keeps_ticking()


def test_a_snapshot_that_fails_leaves_the_vm_where_it_was(room: VirtRoom, new_guest: NewGuest, folder: Path) -> None:
    guest = new_guest(room)
    leaf, job_id = overlay(room, folder, guest.disk), str(uuid.uuid4())
    room.storage.volumes[leaf["volumeID"]].chmod(0)
    (folder / leaf["imageID"] / leaf["volumeID"]).write_bytes(b"not an image".ljust(1 << 16))
    room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish(leaf, guest.disk)], jobUUID=job_id)
    eventually(lambda: job_status(room, job_id) == "failed", within_s=15)
    assert room.ask(GetVirtJobs())[job_id]["error"]["code"] == 48
    assert chain_of(room, guest.vm_id) == [guest.disk["volumeID"]]
    assert room.storage.prepared[-1].volume_id == guest.disk["volumeID"]
    guest.keeps_ticking()
    with pytest.raises(SnapshotFailed, match="uses volume"):
        room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish(leaf, leaf) | {"volumeID": str(uuid.uuid4())}])


@pytest.mark.parametrize("made", [True, False], ids=["made", "not made"])
def test_a_death_in_the_middle_of_a_snapshot_is_told_from_what_qemu_uses(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, made: bool
) -> None:
    guest: Guest = new_guest(room)
    leaf, job_id = overlay(room, folder, guest.disk), str(uuid.uuid4())
    memory, parameters, _ = memory_volumes(room, folder)
    memory_params = dict(zip(("dst", "dstparams"), (memory, parameters), strict=True))
    note = json.dumps({"jobUUID": job_id, "newDrives": {"hda": leaf}, "memoryParams": memory_params})
    room.state(Keeper).remember(guest.vm_id, snapshot_job=note)
    if made:
        path = room.storage.volumes[leaf["volumeID"]]
        libvirtd.virsh(
            "snapshot-create-as", guest.name, "--disk-only", "--no-metadata", "--reuse-external",
            "--diskspec", f"hda,snapshot=external,file={path}",
        )  # fmt: skip
    with VirtRoom(libvirtd.uri, folder) as next_life:
        next_life.storage.volumes = room.storage.volumes
        next_life.storage.images = room.storage.images
        eventually(lambda: job_status(next_life, job_id) == ("done" if made else "failed"), within_s=10)
        dumped = next_life.call("Host.dumpxmls")[guest.vm_id]
        assert (f"<ovirt-vm:volumeID>{leaf['volumeID']}" in dumped) is made
        assert "snapshot_job" not in dumped
        assert memory["imageID"] in next_life.storage.released


def test_a_guest_without_agent_cannot_be_frozen(room: VirtRoom, new_guest: NewGuest) -> None:
    guest = new_guest(room)
    with pytest.raises(NoGuestAgent):
        room.call("VM.freeze", vmID=guest.vm_id)
    with pytest.raises(NoGuestAgent):
        room.call("VM.thaw", vmID=guest.vm_id)


def test_a_snapshot_with_memory_brings_the_guest_back_to_its_moment(
    room: VirtRoom, new_guest: NewGuest, folder: Path
) -> None:
    guest = new_guest(room)
    leaf, job_id = overlay(room, folder, guest.disk), str(uuid.uuid4())
    memory, parameters, handle = memory_volumes(room, folder)
    room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish(leaf, guest.disk)], snapMemory=handle, jobUUID=job_id)
    eventually(lambda: job_status(room, job_id) in ("done", "failed"), within_s=30)
    assert job_status(room, job_id) == "done"
    assert chain_of(room, guest.vm_id) == [leaf["volumeID"], guest.disk["volumeID"]]
    assert {memory["imageID"], parameters["imageID"]} <= set(room.storage.released)
    content = (folder / memory["imageID"] / memory["volumeID"]).stat()
    assert content.st_size > 1 << 17
    assert content.st_size % 4096 == 0
    written = pickle.loads((folder / parameters["imageID"] / parameters["volumeID"]).read_bytes())
    assert written["restoreFromSnapshot"] is True
    eventually(lambda: room.status(guest.vm_id) in ("Up", "Powering up"))
    guest.keeps_ticking()
    room.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)

    ticked = guest.ticks
    xml = vm_xml(guest.vm_id, serial=guest.serial, disk=guest.disk)
    room.create(xml, guest.vm_id, memoryDumpVolume=memory, memoryConfVolume=parameters)
    eventually(lambda: guest.ticks != ticked, within_s=30)
    assert room.status(guest.vm_id) in ("Up", "Powering up")
    assert hellos(guest.serial) == 1


def test_what_would_wait_for_the_memory_of_a_snapshot_is_refused_at_once(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd
) -> None:
    """libvirt lets it wait for half a minute, the VM's lane with it, and refuses it then."""
    guest = new_guest(room, memory_mib=128)
    guestmemory.fill(libvirtd.qemu_pid(guest.name), 128)
    leaf, job_id = overlay(room, folder, guest.disk), str(uuid.uuid4())
    memory, _, handle = memory_volumes(room, folder)
    room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish(leaf, guest.disk)], snapMemory=handle, jobUUID=job_id)
    with stopped(f"libvirt_iohelper\0.*{memory['volumeID']}"):
        eventually(lambda: room.status(guest.vm_id) == "Paused")
        assert job_status(room, job_id) == "running"
        began = time.monotonic()
        for verb, more in (
            ("VM.cont", {}), ("VM.setBalloonTarget", {"target": 100_000}), ("VM.reset", {}),
            ("VM.setTicket", {"password": "x", "ttl": 60, "existingConnAction": "keep", "params": {}}),
            ("VM.hibernate", {"hibernationVolHandle": handle}),
        ):  # fmt: skip
            with pytest.raises(VmWrongState, match="is writing its memory for a snapshot"):
                room.call(verb, vmID=guest.vm_id, **more)
        assert time.monotonic() - began < 10
    eventually(lambda: job_status(room, job_id) == "done", within_s=30)
    eventually(lambda: room.status(guest.vm_id) in ("Up", "Powering up"))
    room.call("VM.setBalloonTarget", vmID=guest.vm_id, target=131_072)
    guest.keeps_ticking()


@contextmanager
def stopped(command: str) -> Iterator[None]:
    """The process with that command line, as soon as it is there."""
    wanted = re.compile(command.encode(), re.DOTALL)

    def found() -> int:
        return next((one.pid for one in kernel.processes() if wanted.search(_line(one.pid))), 0)

    pid = eventually(found, every_s=0.0)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_a_snapshot_whose_memory_cannot_be_written_leaves_the_vm_where_it_was(
    room: VirtRoom, new_guest: NewGuest, folder: Path
) -> None:
    guest = new_guest(room)
    leaf = overlay(room, folder, guest.disk)
    memory, _, handle = memory_volumes(room, folder)
    del room.storage.images[memory["imageID"]]
    with pytest.raises(DiskNotFound):
        room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish(leaf, guest.disk)], snapMemory=handle)
    assert chain_of(room, guest.vm_id) == [guest.disk["volumeID"]]
    assert "snapshot_job" not in room.call("Host.dumpxmls")[guest.vm_id]
    with pytest.raises(InvalidVmParameter):
        room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish(leaf, guest.disk)], snapMemory="a,b")
    guest.keeps_ticking()
