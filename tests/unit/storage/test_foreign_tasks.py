# SPDX-License-Identifier: Apache-2.0
"""Tasks that another SPM of the pool, a VDSM, left on the master domain: what is undone of them, and what is not.

They are written here as VDSM writes them: one recovery after another, each before the step that it undoes.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import domains
from tests.support.children import LocalChildren
from tests.support.needs import needs_program
from tests.support.storage_room import COW, MIB, RAW, SPARSE, StorageRoom, new_id
from vdsm_mp.api.errors_volume import VolumeAlreadyExists
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.storage.locks import Lease
from vdsm_mp.storage.volume_create import make
from vdsm_mp.storage.volume_spec import VolumeSpec
from vdsm_mp.tasks.progress import Progress

pytestmark = [needs_program("qemu-img"), pytest.mark.timeout(60)]


def leave(spm: StorageRoom, state: str, *recoveries: tuple[str, str, str, str, str]) -> str:
    """A task of verb createVolume in this state; each recovery is name, module, object, function, params. Its id."""
    task_id = new_id()
    folder = spm.domain / "master/tasks" / task_id
    folder.mkdir()
    head = {"id": task_id, "name": "createVolume", "tag": "spm", "store": "/rhev/data-center/x/mastersd/master/tasks"}
    head |= {"recoveryPolicy": "auto", "persistPolicy": "auto", "cleanPolicy": "manual", "priority": "low"}
    head |= {"state": state, "njobs": "0", "nrecoveries": str(len(recoveries)), "metadataVersion": "1"}
    _write(folder / f"{task_id}.task", head)
    for n, parts in enumerate(recoveries):
        names = ("name", "moduleName", "object", "function", "params")
        _write(folder / f"{task_id}.recover.{n}", dict(zip(names, parts, strict=True)))
    return task_id


def _write(file: Path, fields: dict[str, str]) -> None:
    file.write_text("".join(f"{name} = {value}\n" for name, value in fields.items()))


def half_made(*params: str) -> tuple[str, str, str, str, str]:
    return ("Halfbaked volume rollback", "fileVolume", "FileVolume", "halfbakedVolumeRollback", ",".join(params))


@pytest.fixture
def spm(tmp_path: Path) -> Iterator[StorageRoom]:
    made = StorageRoom(tmp_path).make()
    yield made
    made.stop()


def taken_over(spm: StorageRoom) -> StorageRoom:
    """The same host, after it had lost the role for a while."""
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    return spm


def test_a_volume_that_was_there_before_stays_when_its_second_creation_is_undone(spm: StorageRoom) -> None:
    """VDSM stores how to undo the file, then finds that the volume exists, then forgets; it may die in between."""
    image_id, volume_id = spm.create(volFormat=RAW)
    taken_over(spm)
    before = {path.name: path.stat().st_ino for path in spm.image(image_id).iterdir()}
    where = f"/rhev/data-center/mnt/other/{spm.sd_id}/images/{image_id}/{volume_id}"
    tasks = [leave(spm, "running", half_made(spm.sd_id, volume_id, where)), leave(spm, "queued", half_made(where))]
    spm.take_role()
    for task_id in tasks:
        assert spm.ended(task_id)["taskResult"] == "cleanSuccess"
    assert {path.name: path.stat().st_ino for path in spm.image(image_id).iterdir()} == before


def test_a_file_that_never_got_metadata_goes(spm: StorageRoom) -> None:
    image_id, _ = spm.create()
    taken_over(spm)
    volume_id = new_id()
    file = spm.image(image_id) / volume_id
    file.write_bytes(bytes(4096))
    task_id = leave(spm, "running", half_made(spm.sd_id, volume_id, str(file)))
    spm.take_role()
    assert spm.ended(task_id)["taskResult"] == "cleanSuccess"
    assert not file.exists()


def test_nothing_is_copied_to_where_an_older_copy_is_still_being_undone(spm: StorageRoom) -> None:
    """The roll-back would take what the new copy has made."""
    image_id, volume_id = spm.create()
    target_image, target = new_id(), new_id()
    taken_over(spm)
    where = f"/rhev/data-center/mnt/other/{spm.sd_id}/images/{target_image}/{target}"
    metadata = ("Create volume metadata rollback", "fileVolume", "FileVolume", "createVolumeMetadataRollback", where)
    # A domain that is away: it is tried three times, and what was pushed before it waits.
    sd_id = new_id()
    away = half_made(sd_id, new_id(), f"/rhev/data-center/mnt/other/{sd_id}/images/{new_id()}/{new_id()}")
    task_id = leave(spm, "running", half_made(spm.sd_id, target, where), metadata, away)
    spm.take_role(attached=(sd_id,))
    params = {
        **spm.names(image_id, volume_id),
        "dstSdUUID": spm.sd_id,
        "dstImgUUID": target_image,
        "dstVolUUID": target,
        "desc": "copy",
        "volType": 8,
        "volFormat": COW,
        "preallocate": SPARSE,
        "postZero": False,
        "force": False,
    }
    assert spm.outcome("Volume.copy", **params) == ("cleanSuccess", VolumeAlreadyExists.code)
    assert spm.ended(task_id)["taskResult"] == "cleanFailure"
    assert spm.outcome("Volume.copy", **params) == ("success", 0)


def test_a_task_whose_state_vdsm_did_not_understand_is_set_aside_and_may_be_cleared(spm: StorageRoom) -> None:
    taken_over(spm)
    task_id = leave(spm, "unknown")
    spm.take_role()
    assert "not known" in spm.call("Host.getAllTasks")[task_id]["message"]
    spm.call("Task.clear", taskID=task_id)
    assert not (spm.domain / "master/tasks" / task_id).exists()
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)


class Leases:
    """sanlock's part: it writes into the file that is there."""

    def __init__(self) -> None:
        self.written: list[tuple[str, int]] = []

    def write_lease(self, lease: Lease) -> None:
        self.written.append((lease.name, Path(lease.path).stat().st_size))


def test_a_volume_is_made_again_where_vdsm_has_undone_one(tmp_path: Path, children: LocalChildren) -> None:
    """It leaves the lease, and with it the image's directory: a disk could never be moved there again."""
    root = domains.unpack(tmp_path)["shared"].root
    domain = FileDomain(root.name, DomainIO(children, "shared", str(root), deadline_s=10))
    spec = VolumeSpec(
        image_id=new_id(),
        volume_id=new_id(),
        capacity=MIB,
        format="RAW",
        type="SPARSE",
        disk_type="DATA",
        description="",
    )
    image = root / "images" / spec.image_id
    image.mkdir()
    (image / f"{spec.volume_id}.lease").write_bytes(bytes(2 * MIB))
    leases = Leases()
    make(domain, leases, spec, Progress())
    domain.io.close()
    assert leases.written == [(spec.volume_id, 0)]
    assert {path.name for path in image.iterdir()} == {spec.volume_id + end for end in ("", ".meta", ".lease")}
