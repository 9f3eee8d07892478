# SPDX-License-Identifier: Apache-2.0
"""What a VDSM that is SPM after us makes of our stored tasks: it finds every function that a recovery names, and calls
it with as many parameters as it takes. One that it does not find would end the roll-back of that task.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import domains
from tests.support.children import LocalChildren
from tests.support.storage_room import StorageRoom, new_id
from vdsm_mp.storage import lease_undo, volume_undo
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.storage.locks import Locks
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.volume_undo import Undoing
from vdsm_mp.tasks.record import FINISH, Recovery, TaskRecord, from_files, to_files

pytestmark = pytest.mark.timeout(60)

IMAGE, VOLUME, TASK = (f"{n}1111111-aaaa-4bbb-8ccc-111111111111" for n in "123")

#: VDSM's functions by module, class and name, with the parameters that each takes behind the task itself.
VDSM = {
    ("sd", "StorageDomain", "create_image_rollback"): 1,
    ("fileVolume", "FileVolume", "startCreateVolumeRollback"): 3,
    ("fileVolume", "FileVolume", "halfbakedVolumeRollback"): 3,
    ("fileVolume", "FileVolume", "createVolumeMetadataRollback"): 1,
    ("fileVolume", "FileVolume", "createVolumeRollback"): 5,
    ("fileVolume", "FileVolume", "shareVolumeRollback"): 1,
    ("volume", "Volume", "parentVolumeRollback"): 3,
    ("volume", "Volume", "extendSizeFinalize"): 3,
}
#: The one that changes nothing.
MARK = ("fileVolume", "FileVolume", "startCreateVolumeRollback")


@pytest.fixture
def domain(tmp_path: Path, children: LocalChildren) -> Iterator[FileDomain]:
    root = domains.unpack(tmp_path)["shared"].root
    made = FileDomain(root.name, DomainIO(children, "shared", str(root), deadline_s=10))
    (root / "images" / IMAGE).mkdir()
    yield made
    made.io.close()


def stored(*steps: Recovery) -> tuple[Recovery, ...]:
    """As whoever is SPM then reads them."""
    files = to_files(TaskRecord(TASK, "moveImage", recoveries=steps), "/x")
    return from_files(TASK, {name: text.encode() for name, text in files.items()}).recoveries


def test_vdsm_finds_every_function_that_we_store(domain: FileDomain) -> None:
    ours = (
        volume_undo.image_created(domain, IMAGE),
        volume_undo.volume_shared(domain, IMAGE, VOLUME),
        volume_undo.volume_half_made(domain, IMAGE, VOLUME),
        volume_undo.metadata_made(domain, IMAGE, VOLUME),
        volume_undo.parent_made_internal(domain, IMAGE, VOLUME),
        volume_undo.size_changed(domain, IMAGE, VOLUME),
        volume_undo.volume_created(domain, IMAGE, VOLUME),
        volume_undo.source_to_go(domain, domain, IMAGE, wipe=False),
        lease_undo.lease_created(domain, VOLUME),
    )
    made = {name for name, thing in vars(volume_undo).items() if getattr(thing, "__annotations__", {}).get("return")}
    assert {"source_to_go", "volume_created"} <= made
    assert {(one.module, one.owner, one.function): len(one.params) for one in stored(*ours)} == VDSM


def test_what_vdsm_has_nothing_for_is_a_mark_to_it_and_no_mark_of_its_own_means_more_to_us(domain: FileDomain) -> None:
    source = volume_undo.source_to_go(domain, domain, IMAGE, wipe=True)
    lease = lease_undo.lease_created(domain, VOLUME)
    assert [(one.module, one.owner, one.function) for one in (source, lease)] == [MARK, MARK]
    assert (source.finishes, lease.finishes) == (True, False)
    theirs = Recovery("rollback sentinel", *MARK, (domain.sd_id, IMAGE, VOLUME))
    assert not theirs.finishes


@pytest.fixture
def spm(tmp_path: Path) -> Iterator[StorageRoom]:
    made = StorageRoom(tmp_path).make()
    yield made
    made.stop()


def undoing(spm: StorageRoom) -> Undoing:
    parts = spm.room.room.state
    found = [next(one for one in parts if isinstance(one, kind)) for kind in (Domains, Resources, Locks)]
    return Undoing(*found)  # type: ignore[arg-type]


@pytest.mark.parametrize("before", [False, True])
def test_the_source_of_a_finished_move_goes_by_either_form(spm: StorageRoom, before: bool) -> None:
    """before: as it was stored until now."""
    image_id, _ = spm.create()
    second = spm.add_domain()
    copied = spm.domain_of(second) / "images" / image_id
    copied.mkdir()
    for file in spm.image(image_id).iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    domains_here = next(one for one in spm.room.room.state if isinstance(one, Domains))
    source, target = domains_here.find(spm.sd_id), domains_here.find(second)
    step = volume_undo.source_to_go(source, target, image_id, wipe=False)
    if before:
        inode, modified_at, how = step.name.split()[3:]
        params = (spm.sd_id, second, image_id, inode, modified_at, how)
        step = Recovery(f"finish move: {image_id}", "image", FINISH, "removeSource", params)
    assert step.finishes
    [step] = stored(step)
    stranger = new_id()
    undoing(spm)(step, stranger)
    assert not spm.image(image_id).exists()
    assert copied.exists()
    undoing(spm)(step, stranger)  # the second time as after a death
    assert copied.exists()
