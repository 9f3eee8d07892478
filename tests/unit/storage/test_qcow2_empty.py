# SPDX-License-Identifier: Apache-2.0
"""An empty volume of ours is to QEMU what its own would be: same report, clean check, same map, and it takes data."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.needs import needs_program
from vdsm_mp.storage import qcow2, qemuimg
from vdsm_mp.storage.qcow2_empty import empty

pytestmark = needs_program("qemu-img", "qemu-io")

MIB, GIB, TIB = 2**20, 2**30, 2**40
#: Around what one entry of the L1 table maps, and the largest.
SIZES = (4096, 2 * MIB, 512 * MIB, 512 * MIB + 4096, 100 * GIB, 4 * TIB)


def write(path: Path, size: int, compat: str, backing: str = "", backing_fmt: str = "") -> None:
    made = empty(size, compat=compat, backing=backing, backing_fmt=backing_fmt)
    assert made is not None
    with path.open("wb") as file:
        for offset, data in made.pieces.items():
            file.seek(offset)
            file.write(data)
        file.truncate(made.size_bytes)


def report(path: Path, *argv: str) -> Any:
    command = ["qemu-img", argv[0], "--output", "json", "-f", "qcow2", *argv[1:], path]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if isinstance(found, dict):
        for name in ("filename", "actual-size", "children", "dirty-flag"):
            found.pop(name, None)
    return found


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backing_fmt", ["", "raw", "qcow2"])
def test_it_is_as_qemu_would_have_made_it(tmp_path: Path, size: int, compat: str, backing_fmt: str) -> None:
    backing = "5f8d1c0a-0000-4000-8000-000000000001" if backing_fmt else ""
    if backing:
        qemuimg.create(str(tmp_path / backing), backing_fmt, 4096)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write(ours, size, compat, backing, backing_fmt)
    qemuimg.create(str(theirs), "qcow2", size, compat=compat, backing=backing, backing_fmt=backing_fmt)
    assert report(ours, "info") == report(theirs, "info")
    assert report(ours, "check") == report(theirs, "check")
    assert report(ours, "map") == report(theirs, "map")
    assert ours.stat().st_size == theirs.stat().st_size
    header = qcow2.read_header(ours.read_bytes()[: qcow2.HEADER_BYTES])
    assert (header.virtual_bytes, header.backing) == (size, backing or None)
    end = max(size - 65536, 0)
    commands = ["-c", f"write -P 7 {end} 4096", "-c", "write -P 9 0 512"]
    subprocess.run(["qemu-io", "-f", "qcow2", *commands, ours], check=True, capture_output=True)
    done = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "read -P 9 0 512", ours], check=True, capture_output=True)
    assert b"verification failed" not in done.stdout
    qemuimg.resize(str(ours), "qcow2", size + 10 * GIB)
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", ours], check=True)


@pytest.mark.parametrize(("size", "compat"), [(0, "1.1"), (4 * TIB + 4096, "1.1"), (4096, "")])
def test_what_is_unusual_is_left_to_qemu(size: int, compat: str) -> None:
    assert empty(size, compat=compat) is None
    assert empty(4096, compat="1.1", backing="x" * 1024, backing_fmt="raw") is None
