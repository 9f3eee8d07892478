# SPDX-License-Identifier: Apache-2.0
"""Partition tables as sfdisk writes them, and as a guest might to hurt their reader."""

import os
import struct
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.needs import needs_program
from tests.support.virt_room import DISK_IDS, VirtRoom, vm_xml
from vdsm_mp.api.errors_virt import DiskNotFound, VmOperationFailed
from vdsm_mp.virt import alignment

pytestmark = needs_program("sfdisk", "qemu-img")

OLD = "label: dos\nstart=63, size=2048, type=83\nstart=4096, size=20000, type=5\nstart=4159, size=2000\n"
OLD += "start=8192, size=2000\n"


@pytest.fixture
def room(tmp_path: Path) -> Iterator[VirtRoom]:
    with VirtRoom("test:///default", tmp_path) as room:
        yield room


def scan(room: VirtRoom, path: Path) -> Any:
    room.storage.images[DISK_IDS["imageID"]] = path
    found = room.call("VM.getDiskAlignment", vmID=str(uuid.uuid4()), disk=DISK_IDS)
    assert room.storage.released == [ask.image_id for ask in room.storage.prepared]
    return found


def disk(folder: Path, table: str) -> Path:
    path = folder / "disk"
    path.touch()
    os.truncate(path, 64 << 20)
    if table:
        subprocess.run(["sfdisk", "-q", path], input=table.encode(), check=True, timeout=30, capture_output=True)
    return path


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("", {}),
        ("label: dos\n2048,20480\n22528,,82", {1: True, 2: True}),
        (OLD, {1: False, 2: True, 5: False, 6: True}),
        (
            "label: gpt\nstart=2048, size=4096\nstart=6145, size=2000\nstart=8320, size=2000",
            {1: True, 2: False, 3: True},
        ),
        ("label: gpt", {}),
    ],
)
@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_partitions_are_judged_by_where_they_begin(
    room: VirtRoom, tmp_path: Path, table: str, told: dict[int, bool], form: str
) -> None:
    path = disk(tmp_path, table)
    if form == "qcow2":
        words = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, tmp_path / "cow"]
        subprocess.run(words, check=True, timeout=30)
        path = tmp_path / "cow"
    assert scan(room, path) == {f"/dev/sda{number}": good for number, good in told.items()}


def test_a_disk_smaller_than_a_table_and_one_that_is_a_file_system_have_none(room: VirtRoom, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"\x55\xaa" * 100)
    assert scan(room, tmp_path / "small") == {}
    fat = bytearray(os.urandom(1 << 20))
    fat[446:462] = b"\x01" * 16
    fat[510:512] = b"\x55\xaa"
    (tmp_path / "fat").write_bytes(fat)
    assert scan(room, tmp_path / "fat") == {}


def _mbr(*entries: tuple[int, int]) -> bytes:
    table = b"".join(bytes(4) + bytes([kind]) + bytes(3) + struct.pack("<II", begin, 1) for kind, begin in entries)
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


def test_chains_without_end_and_tables_beyond_the_disk_are_given_up() -> None:
    reads: list[tuple[int, int]] = []

    def reading(content: Any) -> alignment.Read:
        def read(first: int, count: int) -> bytes:
            reads.append((first, count))
            return content(first)[: count * 512] if first < 1 << 40 else b""

        return read

    ring = reading(lambda first: _mbr((5, 100)) if first == 0 else _mbr((0x83, 1), (5, 0)))
    assert dict(alignment.partitions(ring)) == {1: 100, 5: 101}
    reads.clear()
    endless = reading(lambda first: _mbr((5, 100)) if first == 0 else _mbr((0x83, 1), (5, first)))
    assert len(list(alignment.partitions(endless))) == 61
    assert len(reads) == 61
    for header in (
        struct.pack("<QII", 1 << 60, 128, 128),
        struct.pack("<QII", 2, 128, 0),
        struct.pack("<QII", 2, 2**32 - 1, 2**31),
        struct.pack("<QII", 2, 2**32 - 1, 128),
    ):
        reads.clear()
        gpt = (b"EFI PART" + bytes(64) + header).ljust(512, b"\0")
        table = reading(lambda first, gpt=gpt: _mbr((0xEE, 1)) if first == 0 else gpt if first == 1 else b"")
        assert list(alignment.partitions(table)) == []
        assert all(count <= 64 for _, count in reads)


def test_a_disk_that_a_vm_uses_or_nobody_knows_is_refused(room: VirtRoom, tmp_path: Path) -> None:
    vm_id, ids = str(uuid.uuid4()), {key: str(uuid.uuid4()) for key in DISK_IDS}
    room.storage.images[ids["imageID"]] = disk(tmp_path, "")
    # One that is awaited from another host: libvirt's driver, which all tests of a process share, knows nothing of it.
    room.call("VM.migrationCreate", vmID=vm_id, params={"_srcDomXML": vm_xml(vm_id, disk=ids)})
    with pytest.raises(VmOperationFailed, match="uses the disk"):
        room.call("VM.getDiskAlignment", vmID=vm_id, disk=ids)
    for spec in ({}, {"GUID": "36001405"}, ids | {"imageID": str(uuid.uuid4())}):
        with pytest.raises(DiskNotFound):
            room.call("VM.getDiskAlignment", vmID=vm_id, disk=spec)
    room.call("VM.destroy", vmID=vm_id)


def test_an_image_that_cannot_be_read_is_told(room: VirtRoom, tmp_path: Path) -> None:
    (tmp_path / "torn").write_bytes(b"QFI\xfb" + b"\xff" * 600)
    with pytest.raises(VmOperationFailed, match="cannot be read"):
        scan(room, tmp_path / "torn")
    assert room.storage.released == [DISK_IDS["imageID"]]


def test_a_vm_that_takes_the_disk_while_it_is_read_keeps_it(
    room: VirtRoom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm_id, real = str(uuid.uuid4()), alignment._Reader.read

    def read(reader: Any, first: int, count: int) -> bytes:
        monkeypatch.undo()
        room.call("VM.migrationCreate", vmID=vm_id, params={"_srcDomXML": vm_xml(vm_id, disk=DISK_IDS)})
        return real(reader, first, count)

    monkeypatch.setattr(alignment._Reader, "read", read)
    room.storage.images[DISK_IDS["imageID"]] = disk(tmp_path, "label: dos\n2048,20480")
    assert room.call("VM.getDiskAlignment", vmID=vm_id, disk=DISK_IDS) == {"/dev/sda1": True}
    assert room.storage.released == []
    room.call("VM.destroy", vmID=vm_id)
