# SPDX-License-Identifier: Apache-2.0
"""qcow2 headers as qemu-img writes them, and as nobody should."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.needs import needs_program
from vdsm_mp.storage import qemuimg
from vdsm_mp.storage.qcow2 import HEADER_BYTES, NotQcow2, Qcow2Header, read_header


@needs_program("qemu-img")
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_a_header_says_what_qemu_img_says(tmp_path: Path, compat: str) -> None:
    path = tmp_path / "top"
    qemuimg.create(str(tmp_path / "base"), "qcow2", 2**20)
    qemuimg.create(str(path), "qcow2", 2**30, compat=compat, backing="base", backing_fmt="qcow2")
    found = qemuimg.info(str(path), "qcow2")
    header = read_header(path.read_bytes()[:HEADER_BYTES])
    assert header == Qcow2Header(2 if compat == "0.10" else 3, found.virtual_size, found.backing_filename, False)
    assert found.compat == compat


@needs_program("qemu-img")
def test_an_external_data_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/secret", path, "1M"]
    subprocess.run(argv, check=True)
    assert read_header(path.read_bytes()[:HEADER_BYTES]).external_data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"QFI\xfb",
        b"RAWDISK".ljust(512, b"\0"),
        struct.pack(">4sIQIIQ", b"QFI\xfb", 9, 0, 0, 0, 0),
        struct.pack(">4sIQIIQ", b"QFI\xfb", 2, 2**60, 10, 0, 0),
        struct.pack(">4sIQIIQ", b"QFI\xfb", 2, 10, 2**31, 0, 0),
        struct.pack(">4sIQIIQ", b"QFI\xfb", 2, 10, 0, 0, 0),
        struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 0, 0),
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(NotQcow2):
        read_header(data)


@given(st.binary(max_size=200))
def test_any_header_is_read_or_refused_and_nothing_worse(tail: bytes) -> None:
    try:
        read_header(b"QFI\xfb" + tail)
    except NotQcow2:
        return
