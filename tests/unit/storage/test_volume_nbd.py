# SPDX-License-Identifier: Apache-2.0
"""NBD servers: what a backup program reads, and that a server outlives the worker that started it."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from tests.support.storage_room import MIB, RAW, StorageRoom, new_id, same_content, write_pattern
from vdsm_mp.api.errors_volume import BitmapDoesNotExist, ImageIsNotLegalChain, VolumeDoesNotExist
from vdsm_mp.common.errors import Error

pytestmark = needs_program("qemu-img", "qemu-io", "qemu-nbd")


@pytest.fixture
def place() -> Iterator[Path]:
    """Short: the address of a socket has at most 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="nbd-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def house(place: Path) -> Iterator[StorageRoom]:
    made = StorageRoom(place).make()
    yield made
    made.stop()


def config(house: StorageRoom, image_id: str, volume_id: str, **changes: object) -> dict[str, object]:
    return {"sd_id": house.sd_id, "img_id": image_id, "vol_id": volume_id, "readonly": True, **changes}


def read_all(url: str, to: Path, fmt: str = "raw") -> Path:
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", fmt, url, to], check=True, capture_output=True)
    return to


def test_a_volume_is_read_and_written_over_its_socket(house: StorageRoom, tmp_path: Path) -> None:
    image_id, base = house.create(volFormat=RAW)
    write_pattern(house.image(image_id) / base, "raw", 1, 0, 2 * MIB)
    _, leaf = house.create(image_id, srcImgUUID=image_id, srcVolUUID=base)
    write_pattern(house.image(image_id) / leaf, "qcow2", 2, MIB, 2 * MIB)
    server = new_id()
    url = house.call("NBD.start_server", server_id=server, config=config(house, image_id, leaf))
    assert url == f"nbd:unix:{house.root}/run/nbd/{server}.sock"
    assert (house.root / f"run/nbd/{server}.sock").stat().st_mode & 0o777 == 0o660
    assert house.call("NBD.start_server", server_id=server, config=config(house, image_id, leaf)) == url
    assert same_content(read_all(url, tmp_path / "copy"), "raw", house.image(image_id) / leaf, "qcow2")
    writing = subprocess.run(["qemu-io", "-f", "raw", "-c", "write 0 512", url], capture_output=True, check=False)
    assert writing.returncode != 0
    for _ in range(2):
        assert house.call("NBD.stop_server", server_id=server) is True
    assert os.listdir(house.root / "run/nbd") == []

    # The layer alone, and written to.
    url = house.call(
        "NBD.start_server",
        server_id=server,
        config=config(house, image_id, leaf, readonly=False, discard=True, detect_zeroes=True, backing_chain=False),
    )
    subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 7 8M 64k", url], check=True, capture_output=True)
    layer = read_all(url, tmp_path / "layer").read_bytes()
    assert layer[:MIB] == bytes(MIB) and layer[MIB : MIB + 1] == b"\2" and layer[8 * MIB : 8 * MIB + 1] == b"\7"
    house.call("NBD.stop_server", server_id=server)


def test_a_server_outlives_the_worker_and_is_stopped_by_the_next(place: Path, tmp_path: Path) -> None:
    first = StorageRoom(place).make()
    image_id, leaf = first.create()
    server = new_id()
    url = first.call("NBD.start_server", server_id=server, config=config(first, image_id, leaf))
    pid = int((place / f"run/nbd/{server}.pid").read_text())
    assert os.getsid(pid) != os.getsid(0)
    first.stop()
    second = StorageRoom(place).take_role()
    try:
        read_all(url, tmp_path / "copy")
        second.call("NBD.stop_server", server_id=server)
        eventually(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes())
    finally:
        second.stop()


def test_a_stale_pid_file_ends_nobody_else(house: StorageRoom) -> None:
    image_id, leaf = house.create()
    server = new_id()
    (house.root / "run/nbd").mkdir()
    (house.root / f"run/nbd/{server}.pid").write_text(f"{os.getpid()}\n")
    house.call("NBD.stop_server", server_id=server)
    house.call("NBD.start_server", server_id=server, config=config(house, image_id, leaf))
    house.call("NBD.stop_server", server_id=server)


def test_extents_of_a_bitmap_can_be_asked_for(house: StorageRoom) -> None:
    bitmap, server = new_id(), new_id()
    image_id, leaf = house.create(bitmap=bitmap)
    write_pattern(house.image(image_id) / leaf, "qcow2", 3, 4 * MIB, MIB)
    url = house.call("NBD.start_server", server_id=server, config=config(house, image_id, leaf, bitmap=bitmap))
    try:
        opened = {
            "driver": "nbd",
            "path": url.removeprefix("nbd:unix:"),
            "server.type": "unix",
            "x-dirty-bitmap": f"qemu:dirty-bitmap:{bitmap}",
        }
        image = f"driver=nbd,server.type=unix,server.path={opened['path']},x-dirty-bitmap={opened['x-dirty-bitmap']}"
        done = subprocess.run(
            ["qemu-img", "map", "--output", "json", "--image-opts", image], check=True, capture_output=True
        )
        dirty = [one for one in json.loads(done.stdout) if not one["data"]]
        assert (dirty[0]["start"], dirty[0]["length"]) == (4 * MIB, MIB)
    finally:
        house.call("NBD.stop_server", server_id=server)
    with pytest.raises(BitmapDoesNotExist):
        house.call("NBD.start_server", server_id=server, config=config(house, image_id, leaf, bitmap="none"))


def test_what_cannot_be_exported_is_refused(house: StorageRoom) -> None:
    image_id, leaf = house.create()
    with pytest.raises(VolumeDoesNotExist):
        house.call("NBD.start_server", server_id=new_id(), config=config(house, image_id, new_id()))
    path = house.image(image_id) / leaf
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", path, "1M"]
    subprocess.run(argv, check=True)
    with pytest.raises(ImageIsNotLegalChain):
        house.call("NBD.start_server", server_id=new_id(), config=config(house, image_id, leaf))
    with pytest.raises(Error):
        house.call("NBD.start_server", server_id="../../etc/cron.d/x", config=config(house, image_id, leaf))
