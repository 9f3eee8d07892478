# SPDX-License-Identifier: Apache-2.0
"""Domains and pools that VDSM has written."""

from pathlib import Path
from typing import Any

import pytest

from tests.support import domains as written
from tests.support.needs import needs_program
from tests.support.storage_room import StorageRoom
from vdsm_mp.api.types import BLANK

pytestmark = needs_program("qemu-img")


def contents(root: Path) -> dict[Path, tuple[Any, ...]]:
    """What each file is; of the large ones, which are mostly holes, when they were written."""
    found: dict[Path, tuple[Any, ...]] = {}
    for path in root.rglob("*"):
        stats = path.lstat()
        small = path.is_file() and stats.st_size < 2**20
        found[path] = (stats.st_mode, stats.st_size, stats.st_mtime_ns, path.read_bytes() if small else None)
    return found


@pytest.mark.parametrize("which", ["export", "shared"])
def test_what_vdsm_wrote_is_listed_and_dumped_as_vdsm_does(tmp_path: Path, which: str) -> None:
    theirs = written.unpack(tmp_path)[which]
    room = StorageRoom(tmp_path)
    try:
        row = {"id": "x", "connection": str(theirs.root.parent)}
        room.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=[row])
        before = contents(theirs.root)
        info = room.call("StorageDomain.getInfo", storagedomainID=theirs.sd_id)
        assert theirs.facts["info"].items() <= info.items()
        assert info["remotePath"] == theirs.facts["domain"]["remote_path"]
        ids = {"storagedomainID": theirs.sd_id}
        assert room.call("StorageDomain.getImages", **ids) == sorted(theirs.facts["images"])
        assert room.call("StorageDomain.getVolumes", **ids) == sorted(theirs.facts["volumes"])
        image, chain = next((i, c) for i, c in theirs.facts["chains"].items() if len(c) == 3)
        assert room.call("StorageDomain.getVolumes", **ids, imageID=image) == sorted(chain)
        room.call("StorageDomain.validate", **ids)
        dump = room.call("StorageDomain.dump", sd_id=theirs.sd_id)
        assert {v: row["status"] for v, row in dump["volumes"].items()} == theirs.facts["dump_statuses"]
        assert set(dump) == {"metadata", "volumes"}
        full = room.call("StorageDomain.dump", sd_id=theirs.sd_id, full=True)
        assert dump.items() <= full.items()
        assert full.get("xleases", {}) == theirs.facts["xleases"]
        assert (full["lockspace"], "errors" in full) == ([], False)
        assert full["leases"] == theirs.facts.get("sdm", [])
        for volume_id, facts in theirs.facts["volumes"].items():
            row = dump["volumes"][volume_id]
            for key in ("capacity", "description", "format", "generation", "legality", "parent", "type", "voltype"):
                assert row[key] == facts[key], (volume_id, key)
        assert contents(theirs.root) == before
    finally:
        room.stop()


def test_the_pool_vdsm_made_is_joined_and_its_tasks_are_kept(tmp_path: Path) -> None:
    theirs = written.unpack(tmp_path)["export"]
    pool_id = theirs.facts["info"]["pool"][0]
    room = StorageRoom(tmp_path)
    try:
        row = {"id": "x", "connection": str(theirs.root.parent)}
        room.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=[row])
        ids = {"storagepoolID": pool_id, "hostID": 1, "scsiKey": "", "masterSdUUID": theirs.sd_id, "masterVersion": 1}
        room.call("StoragePool.connect", **ids)
        start = {"storagepoolID": pool_id, "prevID": -1, "prevLver": "-1", "enableScsiFencing": "false"}
        task_id = room.call("StoragePool.spmStart", **start)
        room.finished(task_id)
        info = room.call("StoragePool.getInfo", storagepoolID=pool_id)
        assert info["info"]["name"] == "fixture pool"
        assert {sd: row["status"] for sd, row in info["dominfo"].items()} == theirs.facts["pool_decoded"][
            "POOL_DOMAINS"
        ]
        assert len(room.call("Host.getAllTasksStatuses")) == 3
    finally:
        room.stop()
