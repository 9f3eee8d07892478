# SPDX-License-Identifier: Apache-2.0
"""The life of a pool and its domains on local directories, in an engine's order and out of order."""

import os
import subprocess
from collections.abc import Callable

import pytest

from tests.support.eventually import eventually
from tests.support.pools import add_domain
from tests.support.storage_room import StorageRoom, code_of, new_id
from vdsm_mp.api.errors_storage import IoChildDied
from vdsm_mp.api.events import DomainValidityChanged
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_metadata import DomainMetadata, parse
from vdsm_mp.storage.monitor_space import Limits
from vdsm_mp.storage.monitors import Monitors


@pytest.fixture
def spm(room: StorageRoom) -> StorageRoom:
    return room.make()


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
