# SPDX-License-Identifier: Apache-2.0
"""What a new domain and pool look like, on storage and in answers."""

from pathlib import Path

import pytest

from tests.support import domains as written
from tests.support.eventually import eventually
from tests.support.storage_room import StorageRoom
from vdsm_mp.storage.domain_metadata import parse


@pytest.fixture
def spm(room: StorageRoom) -> StorageRoom:
    return room.make()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_new_domain_has_the_layout_of_vdsm(spm: StorageRoom) -> None:
    files = {
        str(p.relative_to(spm.domain)): (p.stat().st_size if p.is_file() else None, oct(mode(p)))
        for p in spm.domain.rglob("*")
    }
    assert files.pop("dom_md/metadata")[1] == "0o644"
    assert files == {
        "dom_md": (None, "0o755"),
        "dom_md/ids": (0, "0o660"),
        "dom_md/leases": (0, "0o660"),
        "dom_md/inbox": (16 * 2**20, "0o660"),
        "dom_md/outbox": (16 * 2**20, "0o660"),
        "images": (None, "0o755"),
        "master": (None, "0o755"),
        "master/vms": (None, "0o755"),
        "master/tasks": (None, "0o755"),
    }


def test_the_metadata_of_a_new_master_differ_from_vdsms_in_names_only(spm: StorageRoom, tmp_path: Path) -> None:
    theirs = written.unpack(tmp_path)["export"]
    ours = parse(spm.sd_id, (spm.domain / "dom_md/metadata").read_bytes())
    model = parse(theirs.sd_id, (theirs.root / "dom_md/metadata").read_bytes())
    named = {"SDUUID", "POOL_UUID", "POOL_DOMAINS", "POOL_DESCRIPTION", "DESCRIPTION", "REMOTE_PATH"}
    assert {k: v for k, v in ours.items() if k not in named} == {k: v for k, v in model.items() if k not in named}
    assert ours["POOL_DOMAINS"] == f"{spm.sd_id}:Active"


def test_answers_are_typed_as_an_engine_reads_them(spm: StorageRoom) -> None:
    assert spm.call("StorageDomain.getInfo", storagedomainID=spm.sd_id) == {
        "uuid": spm.sd_id,
        "type": "LOCALFS",
        "class": "Data",
        "name": "test",
        "role": "Master",
        "pool": [spm.pool_id],
        "version": "5",
        "block_size": 512,
        "alignment": 2**20,
        "remotePath": f"{spm.root}/export",
    }
    stats = spm.call("StorageDomain.getStats", storagedomainID=spm.sd_id)
    assert int(stats["disktotal"]) > int(stats["diskfree"]) > 0
    assert isinstance(stats["disktotal"], str)
    eventually(lambda: spm.call("internal.domain_vitals")[spm.sd_id]["actual"])
    answer = spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)
    assert answer["info"] == {
        "domains": f"{spm.sd_id}:Active",
        "isoprefix": "",
        "lver": 0,
        "master_uuid": spm.sd_id,
        "master_ver": 1,
        "name": "No Description",
        "pool_status": "connected",
        "spm_id": 1,
        "type": "LOCALFS",
        "version": "5",
    }
    row = answer["dominfo"][spm.sd_id]
    assert (row["status"], row["alerts"], row["isoprefix"], row["version"]) == ("Active", [], "", 5)
    assert int(row["diskfree"]) > 0
    assert spm.call("StoragePool.getSpmStatus", storagepoolID=spm.pool_id) == {
        "spmStatus": "SPM",
        "spmLver": 0,
        "spmId": 1,
    }
