# SPDX-License-Identifier: Apache-2.0
"""Hung and dead storage paths, with real children in the kernel's hands (FUSE)."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.children import LocalChildren
from tests.support.eventually import eventually
from tests.support.hangfs import HangFs
from tests.support.needs import lacks, needs_root
from tests.support.storage_room import StorageRoom, new_id
from vdsm_mp.api.errors import TooManyLost
from vdsm_mp.api.errors_storage import IoChildDied, IoTimedOut, StoragePathBlocked
from vdsm_mp.api.types import BLANK
from vdsm_mp.common import kernel
from vdsm_mp.common.errors import Unavailable
from vdsm_mp.storage import each, ioproc_link
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.storage.ioproc_wire import SLOTS

pytestmark = [needs_root(), pytest.mark.timeout(60)]


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[HangFs]:
    if not Path("/dev/fuse").exists():
        lacks("/dev/fuse")
    (tmp_path / "real").mkdir()
    made = HangFs(tmp_path / "real", tmp_path / "dead")
    yield made
    made.go_on()
    made.stop()


def test_a_hung_request_frees_its_caller_at_the_deadline(hanging: HangFs, children: LocalChildren) -> None:
    io = DomainIO(children, "d", str(hanging.target), deadline_s=10)
    io.stat(".")
    hanging.hang()
    with pytest.raises(IoTimedOut):
        io.stat(".", deadline_s=0.2)
    assert io.health()["stuck"] == 1
    hanging.go_on()
    eventually(lambda: io.health()["stuck"] == 0)
    assert io.readdir(".") == []
    assert children.opened == 1
    io.close()


def test_when_every_slot_hangs_the_child_is_replaced_and_then_left_in_peace(
    hanging: HangFs, children: LocalChildren
) -> None:
    io = DomainIO(children, "d", str(hanging.target), deadline_s=10)
    io.stat(".")
    hanging.hang()
    refused = 0
    for _ in range(5 * SLOTS):
        with pytest.raises(Unavailable) as e:
            io.stat(".", deadline_s=0.1)
        refused += isinstance(e.value, StoragePathBlocked)
    # The first child, two that were tried after it; then calls fail at once.
    assert children.opened == 3
    assert refused > 0
    lost = list(children.lost)
    assert lost
    hanging.go_on()
    eventually(lambda: io.health()["stuck"] == 0)
    assert io.readdir(".") == []
    io.close()
    children.stop()
    assert children.lost == []


def test_a_root_whose_opening_failed_late_is_opened_anew(
    hanging: HangFs, children: LocalChildren, tmp_path: Path
) -> None:
    io = DomainIO(children, "d", str(hanging.target / "sub"), deadline_s=10)
    hanging.hang()
    with pytest.raises(IoTimedOut):
        io.stat(".", deadline_s=0.3)
    hanging.go_on()  # there is no such directory: nobody is left to hear that
    eventually(lambda: io.health()["stuck"] == 0)
    (tmp_path / "real" / "sub").mkdir()
    assert io.stat(".").kind == "dir"
    io.close()


def test_children_that_cannot_be_killed_are_counted_and_capped(hanging: HangFs) -> None:
    children = LocalChildren(max_lost=2)
    ios = [DomainIO(children, f"d{n}", str(hanging.target), deadline_s=0.2) for n in range(3)]
    for io in ios[:2]:
        io.stat(".", deadline_s=10)
    hanging.hang()
    for io in ios[:2]:
        with pytest.raises(IoTimedOut):
            io.readdir(".")
        io.close()
    with pytest.raises(TooManyLost):
        ios[2].stat(".")
    hanging.go_on()
    children.stop()
    assert children.lost == []
    ios[2]._process._not_before = 0.0
    ios[2].stat(".", deadline_s=10)
    ios[2].close()
    children.stop()


def test_a_stopped_child_is_replaced_while_its_callers_wait(tmp_path: Path, children: LocalChildren) -> None:
    (tmp_path / "file").write_bytes(b"x")
    io = DomainIO(children, "d", str(tmp_path), deadline_s=60)
    io.stat(".")
    pid = children.pids["storage-io", "d"]
    children.signal("storage-io", "d", signal.SIGSTOP)
    with ThreadPoolExecutor(4) as pool:
        changing = pool.submit(io.write, "file", b"y")
        reading = [pool.submit(io.read, "file", direct=False) for _ in range(3)]
        assert [one.result() for one in reading] == [b"x"] * 3
        with pytest.raises(IoChildDied):  # nobody knows whether it was done
            changing.result()
    assert children.opened == 2
    assert kernel.process(pid) is None  # and nobody does it later
    assert (tmp_path / "file").read_bytes() == b"x"
    io.close()


def test_a_child_that_only_waits_for_storage_is_left_in_peace(
    hanging: HangFs, children: LocalChildren, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("_ASK_AFTER_S", 0.01), ("_STOPPED_S", 0.02), ("_SILENT_S", 0.3)):
        monkeypatch.setattr(ioproc_link, name, value)
    io = DomainIO(children, "d", str(hanging.target), deadline_s=30)
    io.stat(".")
    hanging.hang()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(io.readdir, ".")
        with pytest.raises(TimeoutError):
            waiting.result(timeout=2)
        hanging.go_on()
        assert waiting.result() == []
    assert (children.opened, io.health()["stuck"]) == (1, 0)
    io.close()


def test_a_child_that_was_stopped_for_a_moment_goes_on(tmp_path: Path, children: LocalChildren) -> None:
    io = DomainIO(children, "d", str(tmp_path), deadline_s=30)
    io.stat(".")
    children.signal("storage-io", "d", signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(io.stat, ".")
        with pytest.raises(TimeoutError):
            waiting.result(timeout=1.5)  # asked by now, not yet given up
        children.signal("storage-io", "d", signal.SIGCONT)
        assert waiting.result().kind == "dir"
    assert children.opened == 1
    io.close()


@pytest.fixture
def room(tmp_path: Path, hanging: HangFs) -> Iterator[tuple[StorageRoom, str]]:
    """A pool with its master on a healthy path and a second domain that can hang; checks every second."""
    made = StorageRoom(tmp_path, sd_health_check_delay=1).make()
    (tmp_path / "real").chmod(0o777)
    second = new_id()
    params = {"storagepoolID": BLANK, "domainType": 4}
    real = [{"id": "real", "connection": str(tmp_path / "real")}]
    made.call("StoragePool.connectStorageServer", connectionParams=real, **params)
    made.call(
        "StorageDomain.create",
        storagedomainID=second,
        domainType=4,
        typeArgs=str(tmp_path / "real"),
        name="second",
        domainClass=1,
        version="5",
    )
    made.call("StorageDomain.attach", storagepoolID=made.pool_id, storagedomainID=second)
    made.call("StoragePool.disconnectStorageServer", connectionParams=real, **params)
    dead = [{"id": "dead", "connection": str(hanging.target)}]
    [found] = made.call("StoragePool.connectStorageServer", connectionParams=dead, **params)
    assert found["status"] == 0
    made.call("StorageDomain.activate", storagepoolID=made.pool_id, storagedomainID=second)
    yield made, second
    hanging.go_on()
    made.stop()


def test_a_hung_domain_disturbs_nothing_else_and_comes_back_by_itself(
    hanging: HangFs, room: tuple[StorageRoom, str]
) -> None:
    spm, second = room
    vitals = "internal.domain_vitals"
    eventually(lambda: all(v["actual"] and v["valid"] for v in spm.call(vitals).values()))
    hanging.hang()
    eventually(lambda: spm.call(vitals)[second]["code"] == 2001, within_s=10)
    assert spm.call(vitals)[second]["valid"] is False
    threads = threading.active_count()
    seen = set()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        report = spm.call(vitals)
        seen.add(report[spm.sd_id]["lastCheck"])
        assert float(report[spm.sd_id]["lastCheck"]) <= 2.0
        assert report[spm.sd_id]["code"] == 0
        assert spm.call("StorageDomain.getInfo", storagedomainID=spm.sd_id)["uuid"] == spm.sd_id
        assert set(spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)["dominfo"]) == {spm.sd_id, second}
        os.sched_yield()
    assert len(seen) > 5
    assert threading.active_count() <= threads + 4
    assert spm.call("internal.storage_status")["domains"][second]["io"]["stuck"] >= 1
    hanging.go_on()
    eventually(lambda: spm.call(vitals)[second]["valid"], within_s=10)
    assert spm.call("StorageDomain.getInfo", storagedomainID=second)["uuid"] == second


def test_who_asks_all_domains_is_answered_by_the_healthy_ones(
    hanging: HangFs, room: tuple[StorageRoom, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spm, second = room
    monkeypatch.setattr(each, "DEADLINE_S", 0.5)
    image_id = new_id()
    for images in (spm.domain / "images", hanging.target.parent / "real" / second / "images"):
        (images / image_id).mkdir(mode=0o777)

    def found() -> list[str]:
        ids: list[str] = spm.call("StoragePool.getDomainsContainingImage", storagepoolID=spm.pool_id, imageID=image_id)
        return sorted(ids)

    assert found() == sorted([spm.sd_id, second])
    hanging.hang()
    assert found() == [spm.sd_id]
    hanging.go_on()
    eventually(lambda: found() == sorted([spm.sd_id, second]), within_s=10)
