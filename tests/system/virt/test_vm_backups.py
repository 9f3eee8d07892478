# SPDX-License-Identifier: Apache-2.0
"""Backups, checkpoints and replicas of the disks of a running VM."""

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support import decode
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom
from tests.system.virt.conftest import Guest, NewGuest, chain_of, image, overlay
from vdsm_mp.api.errors_virt import (
    BackupFailed,
    MigrationFailed,
    NoSuchBackup,
    NoSuchCheckpoint,
    ReplicaFailed,
    ReplicationNotReady,
    SnapshotFailed,
)

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-img", "unshare", "nsenter"),
]


def on_qcow2(room: VirtRoom, new_guest: NewGuest, folder: Path) -> tuple[Guest, dict[str, str]]:
    """A VM whose leaf is qcow2, as bitmaps need it; the ids of the leaf."""
    guest = new_guest(room)
    leaf = overlay(room, folder, guest.disk)
    wish: dict[str, Any] = {name: leaf[name] for name in ("domainID", "imageID", "volumeID")}
    room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish | {"baseVolumeID": guest.disk["volumeID"]}])
    return guest, leaf


def scratch(folder: Path) -> str:
    path = folder / f"scratch-{uuid.uuid4().hex[:8]}"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"], check=True, timeout=30)
    shutil.chown(path, "vdsm", "kvm")
    path.chmod(0o660)
    return str(path)


def config(leaf: dict[str, str], folder: Path, **more: Any) -> dict[str, Any]:
    names = ("domainID", "imageID", "volumeID")
    disk = {name: leaf[name] for name in names} | {
        "checkpoint": True, "backup_mode": "incremental" if "from_checkpoint_id" in more else "full",
        "scratch_disk": {"path": scratch(folder), "type": "file"},
    }  # fmt: skip
    return {
        "backup_id": str(uuid.uuid4()),
        "to_checkpoint_id": str(uuid.uuid4()),
        "creation_time": int(time.time()),
        "disks": [disk],
        **more,
    }


def test_a_full_backup_can_be_read_and_marks_what_comes_after(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd
) -> None:
    guest, leaf = on_qcow2(room, new_guest, folder)
    (folder / "backup").mkdir()
    shutil.chown(folder / "backup", "vdsm", "kvm")
    (folder / "backup").chmod(0o770)
    full = config(leaf, folder)
    answer = room.call("VM.start_backup", vmID=guest.vm_id, config=full)
    assert full["to_checkpoint_id"] in answer["checkpoint"]
    url = answer["disks"][leaf["imageID"]]
    assert url == f"nbd:unix:{folder}/backup/{full['backup_id']}:exportname=hda"
    info = subprocess.run(
        ["qemu-img", "info", "--output", "json", url], check=True, capture_output=True, timeout=30
    ).stdout
    assert json.loads(info)["virtual-size"] == 1 << 20

    asked = {"vmID": guest.vm_id, "backup_id": full["backup_id"]}
    assert room.call("VM.backup_info", **asked)["disks"] == answer["disks"]
    with pytest.raises(BackupFailed):
        room.call("VM.start_backup", vmID=guest.vm_id, config=config(leaf, folder))
    # libvirt would let these wait for half a minute, and refuse them then.
    began, volumes = time.monotonic(), [image(room, folder) for _ in range(2)]
    memory = [volumes[0]["domainID"], volumes[0]["poolID"]]
    memory += [one[key] for one in volumes for key in ("imageID", "volumeID")]
    drive = {**overlay(room, folder, leaf), "baseVolumeID": leaf["volumeID"]}
    room.call("VM.migrate", vmID=guest.vm_id, params={"dst": "127.0.0.1:1"})
    eventually(lambda: room.status(guest.vm_id) != "Migration Source")
    with pytest.raises(MigrationFailed, match="a backup of it is running"):
        room.call("VM.getMigrationStatus", vmID=guest.vm_id)
    room.call("VM.hibernate", vmID=guest.vm_id, hibernationVolHandle=",".join(memory))
    eventually(lambda: room.status(guest.vm_id) != "Saving State")
    with pytest.raises(SnapshotFailed, match="a backup of it is running"):
        room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[drive])
    assert time.monotonic() - began < 10
    assert room.status(guest.vm_id) in ("Up", "Powering up")
    decode.check_status(room.call("VM.stop_backup", **asked))
    decode.check_status(room.call("VM.stop_backup", **asked))
    with pytest.raises(NoSuchBackup):
        room.call("VM.backup_info", **asked)
    assert room.call("VM.list_checkpoints", vmID=guest.vm_id) == [full["to_checkpoint_id"]]

    later = config(leaf, folder, from_checkpoint_id=full["to_checkpoint_id"])
    room.call("VM.start_backup", vmID=guest.vm_id, config=later)
    room.call("VM.stop_backup", vmID=guest.vm_id, backup_id=later["backup_id"])
    both = [full["to_checkpoint_id"], later["to_checkpoint_id"]]
    assert room.call("VM.list_checkpoints", vmID=guest.vm_id) == both
    dumped = room.call("VM.dump_checkpoint", vmID=guest.vm_id, checkpoint_id=both[1])["checkpoint"]
    assert both[0] in dumped  # its parent

    unknown = {"vmID": guest.vm_id, "checkpoint_id": str(uuid.uuid4())}
    with pytest.raises(NoSuchCheckpoint):
        room.call("VM.dump_checkpoint", **unknown)
    with pytest.raises(NoSuchCheckpoint):
        room.call(
            "VM.start_backup", vmID=guest.vm_id, config=config(leaf, folder, from_checkpoint_id=str(uuid.uuid4()))
        )

    gone = room.call("VM.delete_checkpoints", vmID=guest.vm_id, checkpoint_ids=[both[0], str(uuid.uuid4())])
    assert len(gone["checkpoint_ids"]) == 2
    assert room.call("VM.list_checkpoints", vmID=guest.vm_id) == both[1:]
    guest.keeps_ticking()


@pytest.mark.parametrize("by", ["xml", "config"])
def test_checkpoints_are_defined_again_after_a_start(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, by: str
) -> None:
    guest, leaf = on_qcow2(room, new_guest, folder)
    (folder / "backup").mkdir()
    shutil.chown(folder / "backup", "vdsm", "kvm")
    (folder / "backup").chmod(0o770)
    made: list[dict[str, Any]] = []
    for _ in range(2):
        since = {"from_checkpoint_id": made[-1]["id"]} if made else {}
        wish = config(leaf, folder, creation_time=str(1_600_000_000 + len(made)), **since)
        described = room.call("VM.start_backup", vmID=guest.vm_id, config=wish)["checkpoint"]
        room.call("VM.stop_backup", vmID=guest.vm_id, backup_id=wish["backup_id"])
        entry = {"id": wish["to_checkpoint_id"]}
        made.append(entry | ({"xml": described} if by == "xml" else {"config": wish}))
    names = [entry["id"] for entry in made]
    for name in reversed(names):
        libvirtd.virsh("checkpoint-delete", guest.name, name, "--metadata")
    assert room.call("VM.list_checkpoints", vmID=guest.vm_id) == []
    assert room.call("VM.redefine_checkpoints", vmID=guest.vm_id, checkpoints=made) == {"checkpoint_ids": names}
    assert room.call("VM.list_checkpoints", vmID=guest.vm_id) == names
    assert names[0] in room.call("VM.dump_checkpoint", vmID=guest.vm_id, checkpoint_id=names[1])["checkpoint"]

    answer = room.call("VM.redefine_checkpoints", vmID=guest.vm_id, checkpoints=[{"id": str(uuid.uuid4())}])
    assert (answer["checkpoint_ids"], answer["error"]["code"]) == ([], 1610)


def test_a_backup_that_must_be_consistent_needs_the_guests_agent(
    room: VirtRoom, new_guest: NewGuest, folder: Path
) -> None:
    guest, leaf = on_qcow2(room, new_guest, folder)
    with pytest.raises(BackupFailed, match="frozen"):
        room.call("VM.start_backup", vmID=guest.vm_id, config=config(leaf, folder, require_consistency=True))
    with pytest.raises(BackupFailed, match="from_checkpoint_id"):
        wish = config(leaf, folder)
        wish["disks"][0]["backup_mode"] = "incremental"
        room.call("VM.start_backup", vmID=guest.vm_id, config=wish)


def own_scratch(folder: Path) -> list[str]:
    return [path.name for path in (folder / "storage/transient_disks").rglob("*")]


def begin_on_own_scratch(room: VirtRoom, folder: Path, guest: Guest, leaf: dict[str, str]) -> str:
    (folder / "backup").mkdir(exist_ok=True)
    shutil.chown(folder / "backup", "vdsm", "kvm")
    (folder / "backup").chmod(0o770)
    wish = config(leaf, folder)
    del wish["disks"][0]["scratch_disk"]
    # The room of a test is root: what it makes there has our common group, which QEMU has, too.
    place = folder / "storage/transient_disks" / guest.vm_id
    place.mkdir(parents=True)
    shutil.chown(place, "vdsm", "kvm")
    place.chmod(0o2770)
    room.call("VM.start_backup", vmID=guest.vm_id, config=wish)
    assert f"{wish['backup_id']}.hda" in own_scratch(folder)
    return str(wish["backup_id"])


@pytest.mark.parametrize("end", ["destroyed", "killed", "killed while nobody looks"])
def test_nothing_of_a_backup_outlives_its_vm(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, end: str
) -> None:
    guest, leaf = on_qcow2(room, new_guest, folder)
    backup_id = begin_on_own_scratch(room, folder, guest, leaf)
    if end == "destroyed":
        room.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
        eventually(lambda: own_scratch(folder) == [] and list((folder / "backup").iterdir()) == [])
        return
    if end == "killed while nobody looks":
        room.close()
    os.kill(libvirtd.qemu_pid(guest.name), signal.SIGKILL)
    eventually(lambda: guest.name not in libvirtd.virsh("list", "--name"))
    with VirtRoom(libvirtd.uri, folder) as next_life:
        eventually(lambda: own_scratch(folder) == [] and list((folder / "backup").iterdir()) == [])
        eventually(lambda: next_life.status(guest.vm_id) == "Down")
        # An engine that has not heard of it ends its backup.
        decode.check_status(next_life.call("VM.stop_backup", vmID=guest.vm_id, backup_id=backup_id))
        next_life.call("VM.destroy", vmID=guest.vm_id)


def replica(room: VirtRoom, folder: Path, disk: dict[str, str]) -> dict[str, str]:
    """The same image on another domain, prepared as a raw volume of the same size."""
    there = {**disk, "domainID": str(uuid.uuid4()), "volumeID": str(uuid.uuid4())}
    place = folder / there["domainID"] / there["imageID"]
    place.mkdir(parents=True)
    path = place / there["volumeID"]
    path.write_bytes(bytes(1 << 20))
    shutil.chown(path, "vdsm", "kvm")
    path.chmod(0o660)
    room.storage.volumes[there["volumeID"]] = path
    return there


def test_a_disk_moves_to_another_domain_under_the_running_vm(room: VirtRoom, new_guest: NewGuest, folder: Path) -> None:
    guest = new_guest(room)
    there = replica(room, folder, guest.disk)
    wish = {"vmID": guest.vm_id, "srcDisk": guest.disk, "dstDisk": there}
    decode.check_true(room.call("VM.diskReplicateStart", **wish))
    assert "diskReplicate" in room.call("Host.dumpxmls")[guest.vm_id]

    def finished() -> bool:
        try:
            return room.call("VM.diskReplicateFinish", **wish) is True
        except ReplicationNotReady:
            return False

    eventually(finished, within_s=15, every_s=0.2)
    assert chain_of(room, guest.vm_id) == [there["volumeID"]]
    dumped = room.call("Host.dumpxmls")[guest.vm_id]
    assert f"<ovirt-vm:domainID>{there['domainID']}" in dumped
    assert "diskReplicate" not in dumped
    guest.keeps_ticking()
    with pytest.raises(ReplicaFailed):
        room.call("VM.diskReplicateFinish", vmID=guest.vm_id, srcDisk=there, dstDisk=guest.disk)


def test_a_replication_can_be_called_off(room: VirtRoom, new_guest: NewGuest, folder: Path) -> None:
    guest = new_guest(room)
    there = replica(room, folder, guest.disk)
    room.call("VM.diskReplicateStart", vmID=guest.vm_id, srcDisk=guest.disk, dstDisk=there)
    room.call("VM.diskReplicateFinish", vmID=guest.vm_id, srcDisk=guest.disk, dstDisk=guest.disk)
    assert chain_of(room, guest.vm_id) == [guest.disk["volumeID"]]
    assert "diskReplicate" not in room.call("Host.dumpxmls")[guest.vm_id]
    guest.keeps_ticking()
