# SPDX-License-Identifier: Apache-2.0
"""Merges and snapshot jobs in a VM's metadata: what is written is read, and so is what this agent wrote before."""

import json
import uuid

import pytest

from vdsm_mp.virt import merge_record, snapshot_record
from vdsm_mp.virt.merge_record import Merge
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import VolumeIds

JOB, OTHER, POOL, DOMAIN, IMAGE, BASE, TOP, LEAF = (str(uuid.uuid4()) for _ in range(8))


def before(active: bool) -> str:
    """A merge as this agent wrote it before it took VDSM's form."""
    merge = {
        "id": JOB, "drive": "sda", "image_id": IMAGE, "sd_id": DOMAIN, "base": BASE, "top": TOP, "bandwidth": 7,
        "active": active,
    }  # fmt: skip
    return json.dumps({JOB: merge})


@pytest.mark.parametrize("active", (True, False))
def test_a_merge_that_is_under_way_beside_an_upgrade_goes_on(active: bool) -> None:
    found = merge_record.read(Metadata().with_values(jobs=before(active)))
    assert set(found) == {JOB}
    merge = found[JOB]
    assert (merge.id, merge.drive, merge.base, merge.top, merge.bandwidth) == (JOB, "sda", BASE, TOP, 7)
    assert (merge.leaf.sd_id, merge.leaf.image_id, merge.active) == (DOMAIN, IMAGE, active)


def test_the_old_form_goes_with_the_next_write() -> None:
    old = Metadata().with_values(jobs=before(True))
    another = Merge(OTHER, "sdb", VolumeIds(POOL, DOMAIN, IMAGE, LEAF), BASE, TOP)
    both = {**merge_record.read(old), OTHER: another}
    new = old.with_values(**merge_record.write(both))
    assert new.get("jobs") is None
    assert merge_record.read(new) == both
    over = new.with_values(**merge_record.write({}))
    assert not merge_record.read(over)
    assert over.dump() == Metadata().dump()


def test_a_merge_that_cannot_be_read_is_said() -> None:
    for key in ("jobs", "block_jobs"):
        for text in ("[]", "{", json.dumps({JOB: {"id": JOB}})):
            with pytest.raises(ValueError):
                merge_record.read(Metadata().with_values(**{key: text}))


def test_a_snapshot_that_is_under_way_beside_an_upgrade_is_ended() -> None:
    job = {"jobUUID": JOB, "newDrives": {"sda": LEAF}, "memoryParams": ""}
    note = snapshot_record.read(Metadata().with_values(snapshot_job=json.dumps(job)))
    assert note == snapshot_record.SnapshotNote(JOB, {"sda": LEAF}, ours_to_thaw=True)


def test_and_its_memory_is_given_back() -> None:
    memory = ",".join((DOMAIN, POOL, IMAGE, LEAF, IMAGE, TOP))
    job = {"jobUUID": JOB, "newDrives": {"sda": LEAF}, "memoryParams": memory}
    note = snapshot_record.read(Metadata().with_values(snapshot_job=json.dumps(job)))
    assert note is not None
    assert note.memory == (VolumeIds(POOL, DOMAIN, IMAGE, LEAF), VolumeIds(POOL, DOMAIN, IMAGE, TOP))
    assert not note.ours_to_thaw


def test_a_snapshot_that_cannot_be_read_is_said() -> None:
    for wrong in ({}, {"newDrives": {"sda": 1}}, {"memoryParams": "a,b"}, {"memoryParams": {"dst": {}}}):
        text = json.dumps({"jobUUID": JOB, **wrong} if wrong else {"newDrives": {}})
        with pytest.raises(ValueError):
            snapshot_record.read(Metadata().with_values(snapshot_job=text))
