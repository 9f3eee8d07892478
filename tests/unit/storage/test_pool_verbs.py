# SPDX-License-Identifier: Apache-2.0
"""Domains and the pool on local directories, through the verbs, in an engine's order and out of order."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import domains as written
from tests.support.eventually import eventually
from tests.support.storage_room import StorageRoom, code_of, new_id
from vdsm_mp.api.errors import InvalidParameters
from vdsm_mp.api.errors_storage import IoChildDied
from vdsm_mp.api.events import DomainValidityChanged
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_metadata import DomainMetadata, parse, seal_of
from vdsm_mp.storage.monitor_space import Limits
from vdsm_mp.storage.monitors import Monitors


@pytest.fixture
def room(tmp_path: Path) -> Iterator[StorageRoom]:
    made = StorageRoom(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def spm(room: StorageRoom) -> StorageRoom:
    return room.make()


def add_domain(room: StorageRoom, name: str, **changes: Any) -> str:
    """Another connected domain; its id."""
    path = room.root / name
    path.mkdir()
    [found] = room.call(
        "StoragePool.connectStorageServer",
        storagepoolID=BLANK,
        domainType=4,
        connectionParams=[{"id": name, "connection": str(path)}],
    )
    assert found == {"id": name, "status": 0}
    sd_id = new_id()
    params = {
        "storagedomainID": sd_id,
        "domainType": 4,
        "typeArgs": str(path),
        "name": name,
        "domainClass": 1,
        "version": "5",
    }
    room.call("StorageDomain.create", **(params | changes))
    return sd_id


def connect_params(room: StorageRoom, **changes: Any) -> dict[str, Any]:
    return {
        "storagepoolID": room.pool_id,
        "hostID": 1,
        "scsiKey": "",
        "masterSdUUID": room.sd_id,
        "masterVersion": 1,
        "domainDict": {room.sd_id: "active"},
    } | changes


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


def test_a_pool_is_left_though_the_host_cannot_forget_it(spm: StorageRoom) -> None:
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    [remembered] = [path for path in (spm.root / "run").rglob("*.json") if spm.pool_id in path.read_text()]
    remembered.unlink()
    (remembered / "in the way").mkdir(parents=True)
    spm.call("StoragePool.disconnect", storagepoolID=spm.pool_id, hostID=1, scsiKey="")
    assert spm.call("internal.domain_vitals") == {}
    assert not (spm.root / "data-center" / spm.pool_id).exists()


def test_a_domain_is_listed_from_connect_to_disconnect(spm: StorageRoom) -> None:
    vitals = eventually(lambda: spm.call("internal.domain_vitals"))[spm.sd_id]
    assert vitals["code"] == 0
    eventually(lambda: spm.call("internal.domain_vitals")[spm.sd_id]["acquired"])
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    spm.call("StoragePool.disconnect", storagepoolID=spm.pool_id, hostID=1, scsiKey="")
    assert spm.call("internal.domain_vitals") == {}
    told = [e for e in spm.room.events.events if isinstance(e, DomainValidityChanged)]
    assert [(e.valid, e.gone) for e in told] == [(True, False), (True, True)]
    assert not (spm.root / "data-center" / spm.pool_id).exists()


def monitors_of(room: StorageRoom) -> Monitors:
    return next(thing for thing in room.room.room.state if isinstance(thing, Monitors))


def test_a_nearly_full_domain_is_logged_once_and_no_alert(
    room: StorageRoom, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings() -> list[str]:
        return [r.getMessage() for r in caplog.records if "free space is critical" in r.getMessage()]

    monkeypatch.setattr(monitors_of(room), "_limits", Limits(critical_bytes=2**70))
    room.make()
    monitors = monitors_of(room)
    eventually(warnings)
    first = monitors.watch_of(room.sd_id)
    assert first is not None

    def checked_again() -> bool:
        monitors.check_soon(room.sd_id)
        watch = monitors.watch_of(room.sd_id)
        return watch is not None and watch.last is not first.last

    eventually(checked_again)
    assert len(warnings()) == 1
    assert room.sd_id in warnings()[0]
    report = room.call("StoragePool.getInfo", storagepoolID=room.pool_id)
    assert report["dominfo"][room.sd_id]["alerts"] == []


def test_links_name_the_active_domains_and_the_master(spm: StorageRoom) -> None:
    second = add_domain(spm, "second")
    pool = {"storagepoolID": spm.pool_id, "storagedomainID": second}
    spm.call("StorageDomain.attach", **pool)
    directory = spm.root / "data-center" / spm.pool_id
    assert sorted(os.listdir(directory)) == sorted([spm.sd_id, "mastersd"])
    spm.call("StorageDomain.activate", **pool)
    assert (directory / second).resolve() == spm.root / "second" / second
    assert (directory / "mastersd").resolve() == spm.domain
    spm.call("StorageDomain.deactivate", **pool, masterSdUUID=BLANK, masterVersion=1)
    assert sorted(os.listdir(directory)) == sorted([spm.sd_id, "mastersd"])


def test_every_attached_domain_is_in_the_pools_information(spm: StorageRoom) -> None:
    second = add_domain(spm, "second")
    spm.call("StorageDomain.attach", storagepoolID=spm.pool_id, storagedomainID=second)
    found = spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)["dominfo"]
    assert found[second] == {"status": "Attached", "alerts": [], "isoprefix": ""}
    assert set(found) == {spm.sd_id, second}


def test_the_life_of_a_second_domain(spm: StorageRoom) -> None:
    second = add_domain(spm, "second")
    pool = {"storagepoolID": spm.pool_id, "storagedomainID": second}
    blank = {"masterSdUUID": BLANK, "masterVersion": 1}
    assert code_of(spm.call, "StorageDomain.activate", **pool) == 353
    spm.call("StorageDomain.attach", **pool)
    assert spm.call("StorageDomain.getInfo", storagedomainID=second)["pool"] == [spm.pool_id]
    spm.call("StorageDomain.activate", **pool)
    assert second in spm.call("internal.domain_vitals")
    assert code_of(spm.call, "StorageDomain.detach", **pool, **blank) == 347
    spm.call("StorageDomain.deactivate", **pool, **blank)
    assert second not in spm.call("internal.domain_vitals")
    assert code_of(spm.call, "StorageDomain.format", storagedomainID=second, autoDetach=False) == 392
    spm.call("StorageDomain.detach", **pool, **blank)
    assert spm.call("StorageDomain.getInfo", storagedomainID=second)["pool"] == []
    spm.call("StorageDomain.format", storagedomainID=second, autoDetach=False)
    assert os.listdir(spm.root / "second") == []
    assert code_of(spm.call, "StorageDomain.getInfo", storagedomainID=second) == 358


def test_the_master_is_neither_detached_nor_taken_down_alone(spm: StorageRoom) -> None:
    pool = {"storagepoolID": spm.pool_id, "storagedomainID": spm.sd_id, "masterSdUUID": BLANK, "masterVersion": 1}
    spm.call("StorageDomain.deactivate", **pool)
    assert spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)["dominfo"][spm.sd_id]["status"] == "Active"
    assert code_of(spm.call, "StorageDomain.detach", **pool) == 383


def test_what_needs_the_role_says_so_without_it(room: StorageRoom) -> None:
    ids = {"storagepoolID": room.pool_id, "storagedomainID": room.sd_id}
    assert code_of(room.call, "StorageDomain.attach", **ids) == 309
    room.make()
    room.call("StoragePool.spmStop", storagepoolID=room.pool_id)
    for verb in ("StorageDomain.attach", "StorageDomain.activate"):
        assert code_of(room.call, verb, **ids) == 654
    assert code_of(room.call, "StoragePool.spmStop", storagepoolID=room.pool_id) == 654
    assert code_of(room.call, "Host.getAllTasksStatuses") == 654
    assert code_of(room.call, "StoragePool.getSpmStatus", storagepoolID=new_id()) == 309
    assert room.call("StoragePool.getSpmStatus", storagepoolID=room.pool_id)["spmStatus"] == "Free"


def test_the_role_is_not_taken_twice_nor_left_behind_by_leaving(spm: StorageRoom) -> None:
    start = {"prevID": -1, "prevLver": "-1", "enableScsiFencing": "false", "storagepoolID": spm.pool_id}
    assert code_of(spm.call, "StoragePool.spmStart", **start) == 656
    leave = {"storagepoolID": spm.pool_id, "hostID": 1, "scsiKey": ""}
    assert code_of(spm.call, "StoragePool.disconnect", **leave) == 656
    assert spm.call("StoragePool.disconnect", **(leave | {"storagepoolID": new_id()}))


def test_the_role_stays_while_a_task_waits_to_be_cleared(spm: StorageRoom) -> None:
    task_id = spm.start_create(new_id(), new_id())
    spm.ended(task_id)
    assert code_of(spm.call, "StoragePool.spmStop", storagepoolID=spm.pool_id) == 406
    spm.call("Task.clear", taskID=task_id)
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)


def test_a_second_process_of_this_host_cannot_be_spm_of_a_local_domain(spm: StorageRoom) -> None:
    ids = spm.domain / "dom_md/ids"
    assert subprocess.run(["flock", "-n", ids, "true"], check=False).returncode == 1
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    with subprocess.Popen(["flock", ids, "sleep", "60"]) as other:
        eventually(lambda: subprocess.run(["flock", "-n", ids, "true"], check=False).returncode == 1)
        task_id = spm.call(
            "StoragePool.spmStart",
            storagepoolID=spm.pool_id,
            prevID=-1,
            prevLver="-1",
            enableScsiFencing="false",
        )
        assert spm.ended(task_id)["code"] == 651
        assert spm.call("StoragePool.getSpmStatus", storagepoolID=spm.pool_id)["spmStatus"] == "Free"
        subprocess.run(["pkill", "-P", str(other.pid)], check=True)
        other.kill()


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


def test_a_pool_is_destroyed_with_all_its_memberships(spm: StorageRoom) -> None:
    second = add_domain(spm, "second")
    spm.call("StorageDomain.attach", storagepoolID=spm.pool_id, storagedomainID=second)
    spm.call("StoragePool.destroy", storagepoolID=spm.pool_id, hostID=1, scsiKey="")
    for sd_id in (spm.sd_id, second):
        info = spm.call("StorageDomain.getInfo", storagedomainID=sd_id)
        assert (info["role"], info["pool"]) == ("Regular", [])
    assert "MASTER_VERSION" not in parse(spm.sd_id, (spm.domain / "dom_md/metadata").read_bytes())
    assert spm.call("internal.domain_vitals") == {}
    spm.call("StorageDomain.format", storagedomainID=spm.sd_id, autoDetach=False)


@pytest.mark.parametrize("unanswered", [1, 2])
def test_a_pool_whose_making_is_told_as_failed_is_of_no_domain(
    spm: StorageRoom, monkeypatch: pytest.MonkeyPatch, unanswered: int
) -> None:
    """Whichever domain was written though nobody heard of it: an engine makes the pool again by another id."""
    ids = [add_domain(spm, name) for name in ("one", "two")]
    numbers = {"lockRenewalIntervalSec": 5, "leaseTimeSec": 60, "ioOpTimeoutSec": 10, "leaseRetries": 3}
    params = {"name": "new", "masterSdUUID": ids[0], "masterVersion": 1, "domainList": ids, **numbers}
    change, changed = FileDomain.change, list[str]()

    def lost(domain: FileDomain, edit: Callable[[DomainMetadata], DomainMetadata]) -> DomainMetadata:
        after = change(domain, edit)
        changed.append(domain.sd_id)
        if len(changed) == unanswered:
            raise IoChildDied(domain.sd_id, "replace")
        return after

    with monkeypatch.context() as patch:
        patch.setattr(FileDomain, "change", lost)
        assert code_of(spm.call, "StoragePool.create", storagepoolID=new_id(), **params) == IoChildDied.code
    for sd_id in ids:
        info = spm.call("StorageDomain.getInfo", storagedomainID=sd_id)
        assert (info["pool"], info["role"]) == ([], "Regular")
    spm.call("StoragePool.create", storagepoolID=new_id(), **params)


def test_a_domain_belongs_to_one_pool(spm: StorageRoom) -> None:
    params = {
        "name": "other",
        "masterSdUUID": spm.sd_id,
        "masterVersion": 1,
        "domainList": [spm.sd_id],
        "lockRenewalIntervalSec": 5,
        "leaseTimeSec": 60,
        "ioOpTimeoutSec": 10,
        "leaseRetries": 3,
    }
    before = (spm.domain / "dom_md/metadata").read_bytes()
    assert code_of(spm.call, "StoragePool.create", storagepoolID=new_id(), **params) == 380
    iso = add_domain(spm, "iso", domainClass=2)
    export = add_domain(spm, "exported", domainClass=3)
    for sd_id, code in ((iso, 317), (export, 319)):
        others = params | {"masterSdUUID": sd_id, "domainList": [sd_id]}
        assert code_of(spm.call, "StoragePool.create", storagepoolID=new_id(), **others) == code
    assert (spm.domain / "dom_md/metadata").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"storagedomainID": "5d000000-0000-4000-8000-000000000009"}, 361),
        ({"domainType": 9}, 372),
        ({"domainType": 3}, 372),
        ({"domainClass": 4}, 386),
        ({"version": "2"}, 394),
        ({"version": "new"}, 394),
        ({"blockSize": 1024}, 753),
        ({"name": "two\nlines"}, 753),
        ({"typeArgs": "/nowhere"}, 360),
        ({"typeArgs": "relative"}, 390),
        ({"typeArgs": "/../etc"}, 390),
        ({"typeArgs": {"remotePath": "/nowhere"}}, 360),
    ],
)
def test_a_domain_that_cannot_be_is_not_created(spm: StorageRoom, changes: dict[str, Any], code: int) -> None:
    if "storagedomainID" not in changes:
        (spm.root / "empty").mkdir()
        server = [{"id": "e", "connection": f"{spm.root}/empty"}]
        spm.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=server)
    params = {
        "storagedomainID": new_id(),
        "domainType": 4,
        "typeArgs": f"{spm.root}/empty" if "storagedomainID" not in changes else f"{spm.root}/export",
        "name": "n",
        "domainClass": 1,
        "version": "5",
    }
    assert code_of(spm.call, "StorageDomain.create", **(params | changes)) == code
    assert "storagedomainID" in changes or os.listdir(spm.root / "empty") == []


@pytest.mark.parametrize(("name", "code"), [("put-aside", 361), (".hidden", None), ("lost+found", None)])
def test_a_place_is_empty_when_nothing_in_it_looks_like_a_domain(
    room: StorageRoom, tmp_path: Path, name: str, code: int | None
) -> None:
    place = tmp_path / "place"
    (place / name / ("dom_md" if name != "lost+found" else "else")).mkdir(parents=True)
    server = [{"id": "e", "connection": str(place)}]
    room.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=server)
    params = {"domainType": 4, "typeArgs": str(place), "name": "n", "domainClass": 1, "version": "5"}
    if code:
        assert code_of(room.call, "StorageDomain.create", storagedomainID=new_id(), **params) == code
    else:
        room.call("StorageDomain.create", storagedomainID=new_id(), **params)


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


def test_ids_that_are_no_ids_never_reach_storage(room: StorageRoom) -> None:
    good = room.sd_id
    bad = ["..", "../x", "a/b", "", "X" * 36, "\u0663" * 36, "a" * 10_000, 7, None, ["x"], {}]
    for where in (*bad, f"{good}\n", f"{good}\0", f"{good}/..", good.upper(), f" {good}"):
        for verb in ("StorageDomain.getInfo", "StorageDomain.getStats"):
            with pytest.raises(InvalidParameters):
                room.call(verb, storagedomainID=where)
        with pytest.raises(InvalidParameters):
            room.call("StoragePool.connect", **connect_params(room, storagepoolID=where))
    assert room.room.children.opened == 0


METADATA_MUTANTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "garbage": lambda data: os.urandom(400),
    "nul": lambda data: bytes(len(data)),
    "truncated": lambda data: data[: len(data) // 2],
    "huge": lambda data: data + b"X=" + b"y" * (10 * 2**20),
    "seal": lambda data: data.replace(b"ROLE=Master", b"ROLE=Regular"),
    "version": lambda data: _resealed(data, b"VERSION=5", b"VERSION=6"),
    "other id": lambda data: _resealed(data, b"SDUUID=", b"SDUUID=0"),
}


def _resealed(data: bytes, old: bytes, new: bytes) -> bytes:
    text = data.replace(old, new).decode()
    pairs = dict(line.split("=", 1) for line in text.splitlines() if not line.startswith("_SHA"))
    return "".join(f"{k}={v}\n" for k, v in pairs.items()).encode() + f"_SHA_CKSUM={seal_of(pairs)}\n".encode()


@pytest.mark.parametrize("mutant", METADATA_MUTANTS.values(), ids=METADATA_MUTANTS.keys())
def test_damaged_metadata_is_refused_told_and_never_repaired(
    spm: StorageRoom, mutant: Callable[[bytes], bytes]
) -> None:
    second = add_domain(spm, "second")
    spm.call("StorageDomain.attach", storagepoolID=spm.pool_id, storagedomainID=second)
    file = spm.root / "second" / second / "dom_md/metadata"
    damaged = mutant(file.read_bytes())
    if damaged == file.read_bytes():  # a mutant of the master's words
        damaged = damaged.replace(b"ROLE=Regular", b"ROLE=Master")
    file.write_bytes(damaged)
    told = (751, 752, 379, 394)
    assert code_of(spm.call, "StorageDomain.getInfo", storagedomainID=second) in told
    assert code_of(spm.call, "StorageDomain.activate", storagepoolID=spm.pool_id, storagedomainID=second) in told
    assert file.read_bytes() == damaged
    assert set(spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)["dominfo"]) == {spm.sd_id, second}
    assert spm.call("StorageDomain.getInfo", storagedomainID=spm.sd_id)["uuid"] == spm.sd_id


@pytest.mark.parametrize("where", ["dom_md/metadata", "dom_md", "."])
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_domain_with_something_planted_in_it_is_not_read(spm: StorageRoom, where: str, kind: str) -> None:
    second = add_domain(spm, "second")
    spm.call("StorageDomain.format", storagedomainID=second, autoDetach=False)
    real = spm.root / "real"
    (real / "dom_md").mkdir(parents=True)
    (real / "dom_md/metadata").write_bytes((spm.domain / "dom_md/metadata").read_bytes())
    domain = spm.root / "second" / second
    target = domain if where == "." else domain / where
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        target.symlink_to(real if where == "." else real / where)
    else:
        os.mkfifo(target)
    assert code_of(spm.call, "StorageDomain.getInfo", storagedomainID=second) in (358, 379)
