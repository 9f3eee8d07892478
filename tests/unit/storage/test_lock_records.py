# SPDX-License-Identifier: Apache-2.0
"""What a dump tells of locks when the files are short, damaged or missing. Whole ones are in the domains of VDSM."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import domains as written
from tests.support.storage_room import MIB, StorageRoom
from vdsm_mp.api.types import BLANK

HOST, LEASE = 0x12212010, 0x06152010


@pytest.fixture
def theirs(tmp_path: Path) -> written.WrittenByVdsm:
    return written.unpack(tmp_path)["shared"]


@pytest.fixture
def room(tmp_path: Path, theirs: written.WrittenByVdsm) -> Iterator[StorageRoom]:
    made = StorageRoom(tmp_path)
    row = {"id": "x", "connection": str(theirs.root.parent)}
    made.call("StoragePool.connectStorageServer", storagepoolID=BLANK, domainType=4, connectionParams=[row])
    yield made
    made.stop()


def dump(room: StorageRoom, theirs: written.WrittenByVdsm) -> dict[str, Any]:
    found: dict[str, Any] = room.call("StorageDomain.dump", sd_id=theirs.sd_id, full=True)
    return found


def record(magic: int, owner: int, name: bytes, timestamp: int) -> bytes:
    head = struct.pack("<IIII QQQQQ", magic, 0x30004, 0, 512, 0, 1, owner, 7, 9)
    return head + b"space".ljust(48, b"\0") + name.ljust(48, b"\0") + struct.pack("<Q", timestamp)


def put(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as f:
        f.seek(offset)
        f.write(data)


def test_hosts_and_leases_are_told_with_their_place(room: StorageRoom, theirs: written.WrittenByVdsm) -> None:
    directory = theirs.root / "dom_md"
    put(directory / "ids", 41 * 512, record(HOST, 42, b"host-42", 1234))
    put(directory / "ids", 50 * 512, record(LEASE, 51, b"not a host", 1))
    put(directory / "ids", 60 * 512, record(HOST, 61, b"", 1))
    put(directory / "leases", MIB, record(LEASE, 42, b"SDM", 0))
    found = dump(room, theirs)
    common = {"lockspace": "space", "gen": 7, "own": 42}
    assert found["lockspace"] == [{**common, "offset": 41 * 512, "resource": "host-42", "timestamp": 1234}]
    assert found["leases"] == [{**common, "offset": MIB, "resource": "SDM", "timestamp": 0, "lver": 9}]


def test_what_is_broken_is_named_and_the_rest_is_told(room: StorageRoom, theirs: written.WrittenByVdsm) -> None:
    directory = theirs.root / "dom_md"
    (directory / "ids").unlink()
    put(directory / "xleases", MIB, b"\xff" * 512)
    found = dump(room, theirs)
    assert found["leases"] == theirs.facts["sdm"]
    assert found["volumes"].keys() == theirs.facts["dump_statuses"].keys()
    assert "lockspace" not in found
    assert "xleases" not in found
    assert set(found["errors"]) == {"lockspace", "xleases"}
    assert "dom_md/ids" in found["errors"]["lockspace"]


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\xff" * (2 * MIB), record(LEASE, 1, b"SDM", 5)[:100]])
def test_files_of_garbage_hold_nothing(room: StorageRoom, theirs: written.WrittenByVdsm, content: bytes) -> None:
    for name in ("ids", "leases"):
        (theirs.root / "dom_md" / name).write_bytes(content)
    found = dump(room, theirs)
    assert (found["lockspace"], found["leases"], "errors" in found) == ([], [], False)
