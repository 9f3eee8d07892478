# SPDX-License-Identifier: Apache-2.0
"""ISO and export domains as an engine makes them: version 0, whose lease is a time stamp."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.children import LocalChildren
from tests.support.eventually import eventually
from tests.support.storage_room import StorageRoom, code_of, new_id
from vdsm_mp.api.errors_storage import LockNotAcquired
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_file import FREE_STAMP, LEASES, DomainSpec, FileDomain, create
from vdsm_mp.storage.domain_format import DomainClass, DomainType
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.storage.domain_metadata import parse
from vdsm_mp.storage.stamp_lock import StampLock

ISO, EXPORT = 2, 3


def metadata(spm: StorageRoom, sd_id: str) -> dict[str, str]:
    return parse(sd_id, (spm.domain_of(sd_id) / "dom_md/metadata").read_bytes())


@pytest.mark.parametrize("domain_class", [ISO, EXPORT])
def test_a_domain_of_version_0_lives_from_creation_to_format(spm: StorageRoom, domain_class: int) -> None:
    sd_id = spm.add_domain(domain_class=domain_class, version=0)
    ids = {"storagedomainID": sd_id, "storagepoolID": spm.pool_id}
    pairs = metadata(spm, sd_id)
    assert (pairs["VERSION"], pairs["POOL_UUID"], pairs["ROLE"]) == ("0", spm.pool_id, "Regular")
    assert not {"BLOCK_SIZE", "ALIGNMENT"} & set(pairs)
    assert {p.name for p in (spm.domain_of(sd_id) / "dom_md").iterdir()} == {
        "metadata",
        "ids",
        "leases",
        "inbox",
        "outbox",
    }
    assert (spm.domain_of(sd_id) / LEASES).read_bytes() == FREE_STAMP
    info = spm.call("StorageDomain.getInfo", storagedomainID=sd_id)
    assert (info["version"], info["class"], info["pool"]) == ("0", {2: "Iso", 3: "Backup"}[domain_class], [spm.pool_id])
    eventually(lambda: spm.call("internal.domain_vitals")[sd_id]["actual"])
    assert spm.call("internal.domain_vitals")[sd_id]["valid"]
    assert spm.call("StoragePool.getInfo", storagepoolID=spm.pool_id)["dominfo"][sd_id]["version"] == 0

    no_master = {"masterSdUUID": BLANK, "masterVersion": 1}
    spm.call("StorageDomain.deactivate", **ids, **no_master)
    spm.call("StorageDomain.detach", **ids, **no_master)
    assert metadata(spm, sd_id)["POOL_UUID"] == ""
    spm.call("StorageDomain.format", storagedomainID=sd_id, autoDetach=False)
    assert not spm.domain_of(sd_id).exists()


def test_an_iso_domain_belongs_to_several_pools_and_an_export_domain_to_one(spm: StorageRoom) -> None:
    for domain_class, code in ((ISO, None), (EXPORT, 380)):
        sd_id = spm.add_domain(domain_class=domain_class, version=0, attach=False)
        other = new_id()
        path = spm.domain_of(sd_id) / "dom_md/metadata"
        domain = FileDomain(sd_id, DomainIO(LocalChildren(), sd_id, str(path.parents[1])))
        domain.change(lambda meta, other=other: type(meta)(**{**fields(meta), "pool_ids": (other,)}))  # type: ignore[misc]
        domain.io.close()
        attach = {"storagedomainID": sd_id, "storagepoolID": spm.pool_id}
        if code is None:
            spm.call("StorageDomain.attach", **attach)
            assert metadata(spm, sd_id)["POOL_UUID"] == f"{other},{spm.pool_id}"
            spm.call("StorageDomain.detach", **attach, masterSdUUID=BLANK, masterVersion=1)
            assert metadata(spm, sd_id)["POOL_UUID"] == other
        else:
            assert code_of(spm.call, "StorageDomain.attach", **attach) == code


def fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def test_old_versions_are_for_iso_and_export_domains_and_take_ascii_names(spm: StorageRoom) -> None:
    with pytest.raises(Error) as e:
        spm.add_domain(domain_class=1, version=0)
    assert e.value.code == 394
    with pytest.raises(Error) as e:
        spm.add_domain(domain_class=ISO, version=0, name="größe")
    assert e.value.code == 4900
    sd_id = spm.add_domain(domain_class=ISO, version=0)
    rename = "StorageDomain.setDescription"
    assert code_of(spm.call, rename, storagedomainID=sd_id, description="é") == 4900
    spm.call(rename, storagedomainID=sd_id, description="isos")
    assert metadata(spm, sd_id)["DESCRIPTION"] == "isos"


def test_an_iso_domain_has_no_volumes(spm: StorageRoom) -> None:
    sd_id = spm.add_domain(domain_class=ISO, version=0)
    assert code_of(spm.start_create, new_id(), new_id(), storagedomainID=sd_id) == 386
    image_id, _ = spm.create()
    move = {"imageID": image_id, "storagepoolID": spm.pool_id, "storagedomainID": spm.sd_id, "dstSdUUID": sd_id}
    assert code_of(spm.call, "Image.move", **move, operation=1, postZero=False, force=False) == 386


# --- the lease


@pytest.fixture
def old(tmp_path: Path, children: LocalChildren) -> Iterator[FileDomain]:
    sd_id = new_id()
    mount = DomainIO(children, "mount", str(tmp_path), deadline_s=10)
    spec = DomainSpec(sd_id, DomainType.NFS, DomainClass.BACKUP, 0, "old", "server:/export")
    create(mount, spec, lambda directory: None)
    mount.close()
    io = DomainIO(children, sd_id, str(tmp_path), sd_id, deadline_s=10)
    yield FileDomain(sd_id, io)
    io.close()


def lock_of(domain: FileDomain, renew_s: float = 0.02) -> StampLock:
    return StampLock(domain, op_s=0.05, lease_s=0.1, renew_s=renew_s)


NEVER_S = 3600.0


def lease(domain: FileDomain) -> bytes:
    return domain.io.read(LEASES)


def test_a_lease_names_its_holder_and_is_free_after(old: FileDomain) -> None:
    lock = StampLock(old, op_s=0.05, lease_s=5)
    assert not old.format.volume_leases
    lock.acquire(lock.sdm, 7)
    assert lease(old)[:16] == b"7".ljust(16)
    assert int(lease(old)[16:32], 16) > 1_600_000_000_000_000
    assert (lock.holds(lock.sdm), lock.inspect(lock.sdm).host_id) == (True, 7)
    lock.release(lock.sdm)
    lock.release(lock.sdm)
    assert lease(old) == FREE_STAMP
    assert (lock.holds(lock.sdm), lock.inspect(lock.sdm).host_id) == (False, None)


def test_a_lease_whose_holder_is_silent_is_taken_and_not_given_back_by_it(old: FileDomain) -> None:
    dead, living = lock_of(old, NEVER_S), lock_of(old, NEVER_S)
    dead.acquire(dead.sdm, 1)
    living.acquire(living.sdm, 2)
    assert not dead.holds(dead.sdm)
    dead.release(dead.sdm)
    assert lease(old)[:16] == b"2".ljust(16)
    living.release(living.sdm)


def test_a_lease_is_kept_for_as_long_as_it_is_needed(old: FileDomain) -> None:
    holder, other = StampLock(old, op_s=0.2, lease_s=5, renew_s=0.1), StampLock(old, op_s=0.2, lease_s=5)
    holder.acquire(holder.sdm, 1)
    seen = {lease(old)}
    with pytest.raises(LockNotAcquired, match="1 holds it and renews it"):
        other.acquire(other.sdm, 2)
    eventually(lambda: seen.add(lease(old)) or len(seen) > 8, within_s=10, every_s=0.02)
    assert holder.holds(holder.sdm)
    holder.release(holder.sdm)
    assert lease(old) == FREE_STAMP
    other.acquire(other.sdm, 2)
    other.release(other.sdm)
    assert lease(old) == FREE_STAMP
    eventually(lambda: f"stamp {old.sd_id}" not in [thread.name for thread in threading.enumerate()])


def test_a_lease_that_somebody_wrote_over_is_left_to_them(old: FileDomain) -> None:
    lock = StampLock(old, op_s=0.05, lease_s=5, renew_s=0.05)
    lock.acquire(lock.sdm, 1)
    others = f"{9:<16d}{1:016x}".encode().ljust(512, b"\0")
    old.io.write(LEASES, others)
    eventually(lambda: not lock.holds(lock.sdm))
    lock.release(lock.sdm)
    assert lease(old) == others


def test_a_lease_that_is_renewed_is_not_taken(old: FileDomain) -> None:
    over = threading.Event()

    def renew() -> None:
        count = 0
        while not over.wait(0.02):
            count += 1
            old.io.write(LEASES, f"{9:<16d}{count:016x}".encode().ljust(512, b"\0"))

    old.io.write(LEASES, f"{9:<16d}{0:016x}".encode().ljust(512, b"\0"))
    other = threading.Thread(target=renew)
    other.start()
    lock = lock_of(old)
    try:
        with pytest.raises(LockNotAcquired, match="9 holds it"):
            lock.acquire(lock.sdm, 1)
    finally:
        over.set()
        other.join()


def test_of_two_who_write_at_once_the_later_one_wins(old: FileDomain) -> None:
    locks = [lock_of(old, NEVER_S), lock_of(old, NEVER_S)]
    outcomes: list[str] = []

    def take(n: int) -> None:
        try:
            locks[n].acquire(locks[n].sdm, n + 1)
            outcomes.append("won")
        except LockNotAcquired:
            outcomes.append("lost")

    threads = [threading.Thread(target=take, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("won") <= 1
    holders = [n + 1 for n in (0, 1) if locks[n].holds(locks[n].sdm)]
    assert len(holders) == outcomes.count("won")
