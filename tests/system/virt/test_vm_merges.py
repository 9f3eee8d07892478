# SPDX-License-Identifier: Apache-2.0
"""Live merges: the volume leaves QEMU's chain, storage and metadata follow, and nothing is lost when we die."""

import uuid
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.support import decode
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom
from tests.system.virt.conftest import Guest, NewGuest, chain_of, overlay
from vdsm_mp.api.errors_virt import MergeFailed
from vdsm_mp.virt import merge_record
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.merge_record import Merge
from vdsm_mp.virt.records import VolumeIds

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-img", "unshare", "nsenter"),
]


def with_snapshots(room: VirtRoom, new_guest: NewGuest, folder: Path, count: int) -> tuple[Guest, list[dict[str, str]]]:
    """A VM whose disk has `count` layers above its base; the ids, base first."""
    guest = new_guest(room)
    layers = [guest.disk]
    for _ in range(count):
        leaf = overlay(room, folder, layers[-1])
        names = ("domainID", "imageID", "volumeID")
        wish: dict[str, Any] = {name: leaf[name] for name in names} | {"baseVolumeID": layers[-1]["volumeID"]}
        room.call("VM.snapshot", vmID=guest.vm_id, snapDrives=[wish])
        layers.append(leaf)
    return guest, layers


def merge(room: VirtRoom, guest: Guest, base: dict[str, str], top: dict[str, str]) -> str:
    job_id = str(uuid.uuid4())
    answer = room.call(
        "VM.merge", vmID=guest.vm_id, drive=guest.disk, baseVolUUID=base["volumeID"], topVolUUID=top["volumeID"],
        bandwidth="0", jobUUID=job_id,
    )  # fmt: skip
    decode.check_true(answer)
    return job_id


def test_the_leaf_merges_into_its_base_and_the_vm_pivots(room: VirtRoom, new_guest: NewGuest, folder: Path) -> None:
    guest, (base, leaf) = with_snapshots(room, new_guest, folder, 1)
    job_id = merge(room, guest, base, leaf)
    eventually(lambda: room.stats(guest.vm_id)["vmJobs"] == {}, within_s=10)
    assert chain_of(room, guest.vm_id) == [base["volumeID"]]
    assert room.storage.legal == {leaf["volumeID"]: False}
    (sync,) = room.storage.synced
    assert (sync.leaf_volume_id, sync.merged_volume_id) == (base["volumeID"], leaf["volumeID"])
    dumped = room.call("Host.dumpxmls")[guest.vm_id]
    assert f"<ovirt-vm:volumeID>{base['volumeID']}" in dumped
    assert job_id not in dumped
    guest.keeps_ticking()


def test_a_volume_in_the_middle_merges_without_the_leaf_moving(
    room: VirtRoom, new_guest: NewGuest, folder: Path
) -> None:
    guest, (base, middle, leaf) = with_snapshots(room, new_guest, folder, 2)
    merge(room, guest, base, middle)
    eventually(lambda: room.stats(guest.vm_id)["vmJobs"] == {}, within_s=10)
    assert chain_of(room, guest.vm_id) == [leaf["volumeID"], base["volumeID"]]
    assert room.storage.synced[-1].leaf_volume_id == leaf["volumeID"]
    guest.keeps_ticking()


def test_a_merge_that_ends_while_it_is_looked_at_has_not_failed(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, (base, leaf) = with_snapshots(room, new_guest, folder, 1)
    ask = libvirt.virDomain.blockJobInfo

    def ends_first(dom: Any, disk: str, flags: int = 0) -> Any:
        eventually(lambda: dom.blockJobAbort(disk, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT) == 0, within_s=10)
        return eventually(lambda: (ask(dom, disk, flags),) if not ask(dom, disk, flags) else None, within_s=10)[0]

    monkeypatch.setattr(libvirt.virDomain, "blockJobInfo", ends_first)
    merge(room, guest, base, leaf)
    eventually(lambda: room.stats(guest.vm_id)["vmJobs"] == {}, within_s=15)
    assert [sync.leaf_volume_id for sync in room.storage.synced] == [base["volumeID"]]
    assert f"<ovirt-vm:volumeID>{base['volumeID']}" in room.call("Host.dumpxmls")[guest.vm_id]


def test_a_merge_stays_listed_until_storage_knows_of_it(room: VirtRoom, new_guest: NewGuest, folder: Path) -> None:
    guest, (base, leaf) = with_snapshots(room, new_guest, folder, 1)
    room.storage.fails = MergeFailed("storage is away")
    job_id = merge(room, guest, base, leaf)
    eventually(lambda: chain_of(room, guest.vm_id) == [base["volumeID"]], within_s=10)
    stats = decode.check_vm_stats(room.stats(guest.vm_id))
    assert stats["vmJobs"][job_id]["imgUUID"] == base["imageID"]
    room.storage.fails = None
    eventually(lambda: room.stats(guest.vm_id)["vmJobs"] == {}, within_s=10)


@pytest.mark.parametrize("begun", [True, False], ids=["while QEMU copies", "before QEMU was asked"])
def test_a_death_in_the_middle_of_a_merge_is_taken_up(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, begun: bool
) -> None:
    guest, (base, leaf) = with_snapshots(room, new_guest, folder, 1)
    ids = VolumeIds(leaf["poolID"], leaf["domainID"], leaf["imageID"], leaf["volumeID"])
    note = Merge(id=str(uuid.uuid4()), drive="hda", leaf=ids, base=base["volumeID"], top=leaf["volumeID"])
    room.state(Keeper).remember(guest.vm_id, **merge_record.write({note.id: note}))
    room.close()  # this life ends here, and sees nothing of what follows
    if begun:
        libvirtd.virsh("blockcommit", guest.name, "hda", "--active")
    with VirtRoom(libvirtd.uri, folder) as next_life:
        next_life.storage.volumes, next_life.storage.images = room.storage.volumes, room.storage.images
        eventually(lambda: next_life.stats(guest.vm_id)["vmJobs"] == {}, within_s=15)
        expected = [base["volumeID"]] if begun else [leaf["volumeID"], base["volumeID"]]
        assert chain_of(next_life, guest.vm_id) == expected
        # Not begun: the leaf is in use, so it must be legal again, whatever had been marked.
        assert next_life.storage.legal[leaf["volumeID"]] is not begun
        next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)


def test_a_merge_that_cannot_be_is_refused(room: VirtRoom, new_guest: NewGuest, folder: Path) -> None:
    guest, (base, leaf) = with_snapshots(room, new_guest, folder, 1)
    with pytest.raises(MergeFailed, match="does not stand on"):
        merge(room, guest, leaf, base)
    with pytest.raises(MergeFailed, match="no disk"):
        merge(
            room,
            Guest(guest.vm_id, guest.name, guest.serial, overlay(room, folder, leaf) | {"imageID": str(uuid.uuid4())}),
            base,
            leaf,
        )
    assert room.stats(guest.vm_id)["vmJobs"] == {}
