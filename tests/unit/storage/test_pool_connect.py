# SPDX-License-Identifier: Apache-2.0
"""Connecting to a pool and to its storage servers, and what a host remembers of that."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.pools import add_domain, connect_params
from tests.support.storage_room import StorageRoom, code_of, new_id
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.domain_metadata import parse


@pytest.fixture
def spm(room: StorageRoom) -> StorageRoom:
    return room.make()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"domainDict": {}}, 324),
        ({"masterVersion": 2, "domainDict": None}, 324),
        ({"masterSdUUID": "00000000-1111-2222-3333-444444444444"}, 304),
        ({"storagepoolID": "00000000-1111-2222-3333-444444444444"}, 324),
    ],
)
def test_a_connect_that_does_not_fit_changes_nothing(spm: StorageRoom, changes: dict[str, Any], code: int) -> None:
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    spm.call("StoragePool.disconnect", storagepoolID=spm.pool_id, hostID=1, scsiKey="")
    assert code_of(spm.call, "StoragePool.connect", **connect_params(spm, **changes)) == code
    assert spm.call("internal.domain_vitals") == {}


def test_a_connected_host_refreshes_but_does_not_change_pool_or_id(spm: StorageRoom) -> None:
    spm.call("StoragePool.connect", **connect_params(spm))
    assert code_of(spm.call, "StoragePool.connect", **connect_params(spm, hostID=2)) == 325
    assert code_of(spm.call, "StoragePool.connect", **connect_params(spm, storagepoolID=new_id())) == 323
    assert code_of(spm.call, "StoragePool.connect", **connect_params(spm, domainDict=None)) == 325
    attached = {spm.sd_id: "attached"}
    assert code_of(spm.call, "StoragePool.connect", **connect_params(spm, domainDict=attached)) == 324


def test_without_the_engines_list_the_master_says_what_belongs_to_the_pool(spm: StorageRoom) -> None:
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    spm.call("StoragePool.disconnect", storagepoolID=spm.pool_id, hostID=1, scsiKey="")
    spm.call("StoragePool.connect", **connect_params(spm, domainDict=None))
    task_id = spm.call(
        "StoragePool.spmStart", storagepoolID=spm.pool_id, prevID=-1, prevLver="-1", enableScsiFencing="false"
    )
    spm.finished(task_id)
    pairs = parse(spm.sd_id, (spm.domain / "dom_md/metadata").read_bytes())
    assert (pairs["POOL_SPM_ID"], pairs["POOL_SPM_LVER"]) == ("1", "0")
    second = add_domain(spm, "second")
    spm.call("StorageDomain.attach", storagepoolID=spm.pool_id, storagedomainID=second)
    pairs = parse(spm.sd_id, (spm.domain / "dom_md/metadata").read_bytes())
    assert pairs["POOL_DOMAINS"] == f"{spm.sd_id}:Active,{second}:Attached"
    assert spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)["info"]["name"] == "pool"
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    pairs = parse(spm.sd_id, (spm.domain / "dom_md/metadata").read_bytes())
    assert (pairs["POOL_SPM_ID"], pairs["POOL_SPM_LVER"]) == ("-1", "0")


def test_a_failed_connection_does_not_stop_the_others(room: StorageRoom) -> None:
    (room.root / "good").mkdir()
    (room.root / "file").touch()
    rows = [
        {"id": "1", "connection": f"{room.root}/good"},
        {"id": "2", "connection": f"{room.root}/absent"},
        {"id": "3", "connection": f"{room.root}/file"},
        {"id": "4", "connection": "../x"},
        {"id": "5"},
        {"id": "6", "connection": 7},
        {"id": "7", "connection": ["x"]},
    ]
    found = room.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=rows)
    assert [(row["id"], row["status"]) for row in found] == [
        ("1", 0),
        ("2", 451),
        ("3", 451),
        ("4", 453),
        ("5", 453),
        ("6", 453),
        ("7", 453),
    ]


def test_a_connection_goes_with_its_last_user(spm: StorageRoom) -> None:
    def server(verb: str, name: str) -> int:
        rows = [{"id": name, "connection": f"{spm.root}/shared/"}]
        [found] = spm.call(f"StoragePool.{verb}", storagepoolID=BLANK, domainType=4, connectionParams=rows)
        return int(found["status"])

    (spm.root / "shared").mkdir()
    link = Path(f"{spm.root}/data-center/mnt/{str(spm.root / 'shared').replace('_', '__').replace('/', '_')}")
    for name in ("a", "b", "a"):
        assert server("connectStorageServer", name) == 0
    assert link.readlink() == spm.root / "shared"
    assert server("disconnectStorageServer", "a") == 0
    assert link.is_symlink()
    assert server("disconnectStorageServer", "b") == 0
    assert not link.is_symlink()
    assert server("disconnectStorageServer", "b") == 0


def test_a_server_in_use_is_not_disconnected(spm: StorageRoom) -> None:
    rows = [{"id": "other", "connection": f"{spm.root}/export"}]
    call = {"storagepoolID": BLANK, "domainType": 4, "connectionParams": rows}
    # An id nobody connected with does not count as the last user.
    assert spm.call("StoragePool.disconnectStorageServer", **call)[0]["status"] == 0
    assert spm.call("StorageDomain.getInfo", storagedomainID=spm.sd_id)["uuid"] == spm.sd_id


def test_a_start_sweeps_links_of_pools_that_were_left_by_a_crash(spm: StorageRoom, tmp_path: Path) -> None:
    repository = tmp_path / "data-center"
    left, other = repository / new_id(), repository / new_id()
    left.mkdir()
    (left / "mastersd").symlink_to(spm.domain)
    other.mkdir()
    (other / "file").write_text("somebody's")
    (repository / new_id()).symlink_to(spm.domain)
    (repository / "hsm-tasks").mkdir()
    again = StorageRoom(tmp_path)
    try:
        found = {entry.name for entry in repository.iterdir()}
        assert found == {"mnt", "hsm-tasks", spm.pool_id, other.name}
        assert (repository / spm.pool_id / "mastersd").resolve() == spm.domain
        assert os.listdir(other) == ["file"]
        assert spm.domain.is_dir()
    finally:
        again.stop()


def test_after_a_restart_the_domains_are_watched_before_anybody_asks(spm: StorageRoom, tmp_path: Path) -> None:
    spm.room.background.draining = True
    for step in spm.room.room.on_drain:
        step()
    again = StorageRoom(tmp_path)
    try:
        assert spm.sd_id in again.call("internal.domain_vitals")
        assert again.call("StoragePool.getSpmStatus", storagepoolID=spm.pool_id)["spmStatus"] == "Free"
        again.take_role()
    finally:
        again.stop()


def test_a_damaged_memory_of_the_pool_is_forgotten(room: StorageRoom, tmp_path: Path) -> None:
    (tmp_path / "run" / "storage-pool.json").write_bytes(b"{\0")
    again = StorageRoom(tmp_path)
    assert again.call("internal.domain_vitals") == {}
    again.stop()
