# SPDX-License-Identifier: Apache-2.0
"""The lesser verbs of pools and domains: names, finding, watching, files of an ISO domain."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.background import ThreadBackground
from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.pools import add_active_domain, add_domain, lock_of
from tests.support.storage_room import StorageRoom, code_of
from vdsm_mp.api.errors import Busy
from vdsm_mp.storage.locks import LocalLock
from vdsm_mp.storage.monitors import Monitors

pytestmark = needs_program("qemu-img")


@pytest.fixture
def spm(room: StorageRoom) -> StorageRoom:
    return room.make()


def test_a_domain_is_valid_though_there_is_no_thread_to_look_at_its_role(
    spm: StorageRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ThreadBackground.start

    def full(background: ThreadBackground, name: str, job: Callable[[], None], *, key: str | None = None) -> None:
        if threading.current_thread().name.startswith("monitor"):
            refused.append(name)
            raise Busy("the background")
        start(background, name, job, key=key)

    refused: list[str] = []
    told: list[str] = []
    monkeypatch.setattr(ThreadBackground, "start", full)
    monitors = next(one for one in spm.room.room.state if isinstance(one, Monitors))
    monkeypatch.setattr(monitors, "on_verdict", [*monitors.on_verdict, lambda sd_id, valid: told.append(sd_id)])
    second = add_active_domain(spm, "second")
    found = eventually(lambda: (row := spm.call("Host.getStorageRepoStats")[second])["actual"] and row)
    assert (found["valid"], found["code"]) == (True, 0)
    eventually(lambda: second in told)  # the last of those who listen, which are told behind what vitals read
    assert refused == []


def test_names_are_changed_by_the_spm(spm: StorageRoom) -> None:
    spm.call("StorageDomain.setDescription", storagedomainID=spm.sd_id, description="neu é")
    assert spm.call("StorageDomain.getInfo", storagedomainID=spm.sd_id)["name"] == "neu é"
    bad = {"storagedomainID": spm.sd_id, "description": "two\nlines"}
    assert code_of(spm.call, "StorageDomain.setDescription", **bad) == 753
    spm.call("StoragePool.setDescription", storagepoolID=spm.pool_id, description="neu")
    long = {"storagepoolID": spm.pool_id, "description": "x" * 51}
    assert code_of(spm.call, "StoragePool.setDescription", **long) == 327
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    ok = {"storagedomainID": spm.sd_id, "description": "n"}
    assert code_of(spm.call, "StorageDomain.setDescription", **ok) == 654


def test_domains_are_found_by_what_is_asked(spm: StorageRoom) -> None:
    iso = add_domain(spm, "iso", domainClass=2)
    find = "Host.getStorageDomains"
    assert spm.call(find) == sorted([spm.sd_id, iso])
    assert spm.call(find, storagepoolID=spm.pool_id) == [spm.sd_id]
    assert spm.call(find, domainClass=2, storageType=4) == [iso]
    assert spm.call(find, storageType=1) == []
    assert spm.call(find, remotePath=f"{spm.root}//iso/") == [iso]
    assert spm.call("Host.getConnectedStoragePools") == [spm.pool_id]


def test_a_domain_is_watched_until_everybody_who_asked_stops(spm: StorageRoom) -> None:
    other = add_domain(spm, "other")
    stats = "Host.getStorageRepoStats"
    spm.call("Host.startMonitoringDomain", sdUUID=other, hostID=1)
    spm.call("Host.startMonitoringDomain", sdUUID=spm.sd_id, hostID=1)
    assert set(spm.call(stats)) == {spm.sd_id, other}
    eventually(lambda: spm.call(stats, domains=[other])[other]["actual"])
    assert list(spm.call(stats, domains=[other])) == [other]
    spm.call("Host.stopMonitoringDomain", sdUUID=other)
    spm.call("Host.stopMonitoringDomain", sdUUID=spm.sd_id)
    assert list(spm.call(stats)) == [spm.sd_id]
    spm.call("Host.stopMonitoringDomain", sdUUID=other)


def test_a_domain_that_nobody_watches_any_more_is_not_joined_by_a_check_that_was_under_way(
    spm: StorageRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id would be held for good, and its file system could not be unmounted."""
    other = add_domain(spm, "other")
    lock, request = lock_of(spm, other), LocalLock.request_host_id

    def stopped_just_before(one: LocalLock, host_id: int) -> None:
        if one is lock:
            spm.call("Host.stopMonitoringDomain", sdUUID=other)
            asked.set()
        request(one, host_id)

    asked = threading.Event()
    monkeypatch.setattr(LocalLock, "request_host_id", stopped_just_before)
    spm.call("Host.startMonitoringDomain", sdUUID=other, hostID=1)
    assert asked.wait(10)
    eventually(lambda: not lock.has_host_id(1))
    assert other not in spm.call("Host.getStorageRepoStats", domains=[])


def test_files_of_an_iso_domain_are_listed(spm: StorageRoom) -> None:
    iso = add_active_domain(spm, "iso", domainClass=2)
    files = spm.root / "iso" / iso / "images/11111111-1111-1111-1111-111111111111"
    (files / "sub").mkdir()
    for name in ("Debian.ISO", "sub/b.iso", "notes.txt"):
        (files / name).write_bytes(b"12345")
    (files / "private.iso").touch(mode=0o600)
    (files / "link.iso").symlink_to("/etc/passwd")
    stats = "StorageDomain.getFileStats"
    found = spm.call(stats, storagedomainID=iso, pattern="*.iso", caseSensitive=False)
    assert set(found) == {"Debian.ISO", "sub/b.iso", "private.iso"}
    assert (found["sub/b.iso"]["size"], found["sub/b.iso"]["status"]) == ("5", 0)
    assert found["private.iso"]["status"] == 469
    assert set(spm.call(stats, storagedomainID=iso, pattern="*.iso", caseSensitive=True)) == {
        "sub/b.iso",
        "private.iso",
    }
    assert code_of(spm.call, stats, storagedomainID=spm.sd_id, pattern="*", caseSensitive=True) == 386
    eventually(lambda: spm.call("internal.domain_vitals")[iso]["actual"])
    prefix = spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)["info"]["isoprefix"]
    assert Path(prefix).resolve() == files
