# SPDX-License-Identifier: Apache-2.0
"""A domain that connected storage holds twice: the storage by two names, or a copy of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.storage_room import StorageRoom, code_of, new_id
from vdsm_mp.api.errors_storage import DomainNotFound, DomainTwice
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.connections import Connections, Server
from vdsm_mp.storage.domain_format import DomainType
from vdsm_mp.storage.registry import Domains

pytestmark = pytest.mark.timeout(60)

_T = TypeVar("_T")


@pytest.fixture
def spm(tmp_path: Path) -> Iterator[StorageRoom]:
    made = StorageRoom(tmp_path).make()
    yield made
    made.stop()


def again(spm: StorageRoom) -> StorageRoom:
    """A new worker in its place."""
    spm.stop()
    return StorageRoom(spm.root)


def copied(spm: StorageRoom) -> Path:
    copy = spm.root / "copy"
    shutil.copytree(spm.root / "export", copy)
    return copy


def row(path: Path) -> dict[str, str]:
    return {"id": str(path), "connection": str(path)}


def connect(room: StorageRoom, *paths: Path) -> list[int]:
    rows = [row(path) for path in paths]
    ask = {"storagepoolID": BLANK, "domainType": 4, "connectionParams": rows}
    return [one["status"] for one in room.call("StoragePool.connectStorageServer", **ask)]


def disconnect(room: StorageRoom, path: Path) -> int:
    """By each id that it was connected by; the status of the last."""
    connections, status = part_of(room, Connections), 0
    root = connections.root_of(DomainType.LOCALFS, Server.of(row(path)))
    for one in sorted(connections._held[root].ids):
        ask = {"storagepoolID": BLANK, "domainType": 4, "connectionParams": [row(path) | {"id": one}]}
        [found] = room.call("StoragePool.disconnectStorageServer", **ask)
        status = found["status"]
    return status


def part_of(room: StorageRoom, kind: type[_T]) -> _T:
    return next(thing for thing in room.room.room.state if isinstance(thing, kind))


def place_of(room: StorageRoom) -> str:
    domains = part_of(room, Domains)
    return Path(domains.find(room.sd_id).path).parent.resolve().name


def test_a_copy_takes_nothing_from_a_domain_that_is_in_use(spm: StorageRoom) -> None:
    """Its storage could be disconnected below it, and the next lookup went to the copy."""
    copy = copied(spm)
    assert connect(spm, copy) == [0]
    assert disconnect(spm, spm.root / "export") == 452
    assert disconnect(spm, copy) == 0
    connect(spm, copy)
    domains = part_of(spm, Domains)
    domains.look_elsewhere(spm.sd_id)
    assert place_of(spm) == "export"
    image_id, _ = spm.create()
    assert (spm.domain / "images" / image_id).exists()


def test_a_new_worker_goes_on_where_the_pool_was(spm: StorageRoom) -> None:
    copy = copied(spm)
    room = again(spm)
    try:
        assert connect(room, copy, room.root / "export") == [0, 0]
        assert place_of(room) == "export"
    finally:
        room.stop()


@pytest.mark.parametrize("first", ["export", "copy"])
def test_of_a_domain_and_its_copy_none_is_taken_for_the_other(spm: StorageRoom, first: str) -> None:
    copy = copied(spm)
    spm.call("StoragePool.spmStop", storagepoolID=spm.pool_id)
    spm.call("StoragePool.disconnect", storagepoolID=spm.pool_id, hostID=1, scsiKey="")
    room = again(spm)
    try:
        others = {"export": "copy", "copy": "export"}
        assert connect(room, room.root / first, room.root / others[first]) == [0, 0]
        assert code_of(room.call, "StorageDomain.getInfo", storagedomainID=room.sd_id) == DomainTwice.code
        assert code_of(room.call, "StorageDomain.format", storagedomainID=room.sd_id, autoDetach=True) == 371
        params = {"domainType": 4, "typeArgs": str(new_place(room)), "name": "x", "domainClass": 1, "version": "5"}
        assert code_of(room.call, "StorageDomain.create", storagedomainID=room.sd_id, **params) == DomainTwice.code
        assert disconnect(room, copy) == 0
        assert place_of(room) == "export"
        room.take_role()
    finally:
        room.stop()


def new_place(room: StorageRoom) -> Path:
    place = room.root / new_id()
    place.mkdir()
    connect(room, place)
    return place


def test_a_server_by_two_names_is_one(spm: StorageRoom) -> None:
    other = spm.root / "same"
    other.symlink_to(spm.root / "export")
    room = again(spm)
    try:
        assert connect(room, other, room.root / "export") == [0, 0]
        assert place_of(room) == "export"
        room.take_role()
    finally:
        room.stop()


def test_what_has_moved_to_other_storage_is_found_there(spm: StorageRoom) -> None:
    second = spm.root / "second"
    second.mkdir()
    connect(spm, second)
    shutil.move(spm.domain, second / spm.sd_id)
    domains = part_of(spm, Domains)
    domains.look_elsewhere(spm.sd_id)
    assert place_of(spm) == "second"
    shutil.move(second / spm.sd_id, spm.root / "elsewhere")
    domains.forget(spm.sd_id)
    with pytest.raises(DomainNotFound):
        domains.find(spm.sd_id)
    shutil.move(spm.root / "elsewhere", spm.domain)
