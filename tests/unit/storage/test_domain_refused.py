# SPDX-License-Identifier: Apache-2.0
"""Domains that cannot be, are damaged, or have something planted in them, and ids that are no ids."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.pools import add_domain, connect_params
from tests.support.storage_room import StorageRoom, code_of, new_id
from vdsm_mp.api.errors import InvalidParameters
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.domain_metadata import seal_of


@pytest.fixture
def spm(room: StorageRoom) -> StorageRoom:
    return room.make()


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
