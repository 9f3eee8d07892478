# SPDX-License-Identifier: Apache-2.0
"""OVAs as they are met, and as somebody makes them who means no good; looked at by the real child."""

import gzip
import os
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support import ova
from tests.support.needs import needs_program
from vdsm_mp.api.errors_virt import BadOva
from vdsm_mp.virt import v2v_ovf
from vdsm_mp.virt.v2v_talk import talk

DISK = b"KDMV" + struct.pack("<IIQQQQ", 3, 3, 131072, 128, 1, 20) + bytes(4096)


def describe(path: Path) -> Any:
    return talk({"do": "describe", "path": str(path)}, deadline_s=50)


def check(path: Path) -> None:
    talk({"do": "check", "path": str(path)}, deadline_s=50)


def test_a_tar_a_compressed_one_a_zip_and_a_folder_are_read_alike(tmp_path: Path) -> None:
    members = {"small.ovf": ova.ovf().encode(), "disk1.vmdk": DISK}
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in members.items():
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "z.ova", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    ways = (ova.tar(tmp_path / "t.ova", members), ova.tar(tmp_path / "c.ova", members, mode="w:gz"))
    for path in (*ways, tmp_path / "z.ova", folder):
        assert describe(path) == {
            "vmName": "small",
            "status": "Down",
            "memSize": 512,
            "smp": 2,
            "disks": [{"type": "disk", "capacity": str(64 << 20), "alias": "disk1.vmdk", "allocation": "4096"}],
            "networks": [{"dev": "ethernet0", "model": "E1000", "type": "bridge", "bridge": "VM Network"}],
        }
        check(path)


def test_names_and_origins_that_are_told_otherwise() -> None:
    nameless = ova.ovf().replace("<Name>small</Name>", "")
    assert v2v_ovf.external_vm(nameless, "from-the-file")["vmName"] == "from-the-file"
    ours = ova.ovf().replace("<Envelope ", '<Envelope xmlns:ovirt="http://www.ovirt.org/ovf" ')
    assert v2v_ovf.external_vm(ours, "")["originType"] == 3


@pytest.mark.parametrize(
    ("units", "capacity"),
    [("byte", 64), ("byte * 2^20", 64 << 20), ("byte*1024", 65536), ("byte * 2 * 10^3", 128_000)],
)
def test_sizes_are_told_in_bytes_whatever_their_unit(units: str, capacity: int) -> None:
    assert v2v_ovf.external_vm(ova.ovf(units=units), "")["disks"][0]["capacity"] == str(capacity)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('capacity="64"', 'capacity="-1"'),
        ('capacity="64"', 'capacity="' + "9" * 5000 + '"'),
        ("byte * 2^20", "byte * 2^99"),
        ("byte * 2^20", "gallons"),
        ('ovf:fileRef="file1"', 'ovf:fileRef="other"'),
        (">512<", "><"),
        (">3</rasd:ResourceType>", ">33</rasd:ResourceType>"),
        ("<rasd:ElementName>ethernet0</rasd:ElementName>", ""),
        ("<Envelope", '<!DOCTYPE x [<!ENTITY a "b">]><Envelope'),
        ("</Envelope>", ""),
    ],
)
def test_descriptions_that_make_no_sense(old: str, new: str) -> None:
    text = ova.ovf()
    assert old in text
    with pytest.raises(BadOva):
        v2v_ovf.external_vm(text.replace(old, new), "")


@pytest.mark.parametrize("href", ["/etc/shadow", "../../etc/shadow", "a/../../x", "nbd://host/x", "json:{}"])
def test_a_disk_outside_of_the_ova_is_refused(tmp_path: Path, href: str) -> None:
    path = ova.tar(tmp_path / "x.ova", {"x.ovf": ova.ovf(href=href).encode()})
    with pytest.raises(BadOva, match="outside"):
        check(path)


def test_a_link_is_no_disk(tmp_path: Path) -> None:
    (tmp_path / "small.ovf").write_text(ova.ovf())
    (tmp_path / "disk1.vmdk").symlink_to("/etc/passwd")
    with pytest.raises(BadOva, match=r"it has no 'disk1\.vmdk'"):
        check(tmp_path)
    (tmp_path / "small.ovf").rename(tmp_path / "elsewhere")
    (tmp_path / "small.ovf").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadOva, match="no description"):
        describe(tmp_path)


def _embedded(text: bytes, capacity: int = 131072, at: int = 1) -> bytes:
    head = b"KDMV" + struct.pack("<IIQQQQ", 3, 3, capacity, 128, at, 20)
    return head.ljust(512, b"\0") + text.ljust(20 * 512, b"\0")


@pytest.mark.parametrize(
    "disk",
    [
        b'# Disk DescriptorFile\nversion=1\nRW 1 FLAT "/etc/shadow" 0\n',
        _embedded(b'# Disk DescriptorFile\nRW 1 FLAT "/etc/shadow" 0\n', capacity=0),
        _embedded(b'# Disk DescriptorFile\nparentCID=12345678\nparentFileNameHint="/etc/shadow"\n'),
        _embedded(b'parentCID=ffffffff\nparentFileNameHint="/etc/shadow"\n'),
        _embedded(b"", at=1 << 30),
        b"COWD" + bytes(2000),
        b"QFI\xfb" + struct.pack(">IQI", 3, 104, 11) + bytes(2000),
        b"QFI\xfb" + struct.pack(">I", 3) + bytes(64) + struct.pack(">Q", 4) + bytes(200),
    ],
)
def test_a_disk_that_lies_on_another_file_is_refused_compressed_or_not(tmp_path: Path, disk: bytes) -> None:
    for content in (disk, gzip.compress(disk)):
        path = ova.tar(tmp_path / "x.ova", {"x.ovf": ova.ovf().encode(), "disk1.vmdk": content})
        with pytest.raises(BadOva, match=r"disk1\.vmdk"):
            check(path)


@needs_program("qemu-img")
def test_what_qemu_makes_of_such_disks_is_refused_and_a_plain_one_is_not(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(os.urandom(1 << 20))
    good = ova.vmdk(raw, tmp_path / "good.vmdk")
    check(ova.tar(tmp_path / "good.ova", {"x.ovf": ova.ovf().encode(), "disk1.vmdk": good.read_bytes()}))
    bad = tmp_path / "bad.vmdk"
    words = ["qemu-img", "create", "-q", "-f", "vmdk", "-b", good, "-F", "vmdk", bad]
    subprocess.run(words, check=True, timeout=30)
    path = ova.tar(tmp_path / "bad.ova", {"x.ovf": ova.ovf().encode(), "disk1.vmdk": bad.read_bytes()})
    with pytest.raises(BadOva, match="lies on another file"):
        check(path)


def test_an_archive_without_end_is_given_up(tmp_path: Path) -> None:
    """40 GB of zeros in 40 MB, before the description."""
    bomb = tmp_path / "bomb.ova"
    block = gzip.compress(bytes(64 << 20), 9)
    header = ova.tar(tmp_path / "t", {"zeros": b""}).read_bytes()[:512]
    size = 640 * (64 << 20)
    header = bytearray(header)
    header[124:136] = b"\x80" + bytes(3) + struct.pack(">Q", size)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with bomb.open("wb") as file:
        file.write(gzip.compress(bytes(header)))
        for _ in range(640):
            file.write(block)
    with pytest.raises(BadOva, match="within 2 s"):
        talk({"do": "describe", "path": str(bomb)}, deadline_s=2)


@pytest.mark.parametrize("content", [b"", b"\0" * 100_000, b"PK\x03\x04" + b"x" * 100, b"\x1f\x8b" + b"x" * 100])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BadOva):
        describe(tmp_path / "x")
    with pytest.raises(BadOva):
        describe(tmp_path / "missing")


def test_a_huge_description_and_too_many_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOva, match="bytes"):
        describe(ova.tar(tmp_path / "big.ova", {"x.ovf": b"<" * (2 << 20)}))
    many = ova.tar(tmp_path / "many.ova", {f"f{n}": b"" for n in range(10_002)})
    with pytest.raises(BadOva, match="more than 10000"):
        describe(many)
    os.mkfifo(tmp_path / "fifo.ovf")
    with pytest.raises(BadOva, match="neither"):
        describe(tmp_path / "fifo.ovf")
