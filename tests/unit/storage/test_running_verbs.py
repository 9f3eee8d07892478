# SPDX-License-Identifier: Apache-2.0
"""After a live merge the metadata follow what QEMU did, on any host and however often it is told."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.needs import needs_program
from tests.support.storage_room import StorageRoom
from vdsm_mp.api.types import BLANK

pytestmark = needs_program("qemu-img")

MIB = 1 << 20


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageRoom]:
    room = StorageRoom(tmp_path_factory.mktemp("storage")).make()
    try:
        yield room
    finally:
        room.stop()


def commit(room: StorageRoom, image_id: str, top: str) -> None:
    """As QEMU's commit job: top's data go into the volume below."""
    subprocess.run(
        ["qemu-img", "commit", "-q", "-f", "qcow2", "-d", room.image(image_id) / top], check=True, timeout=60
    )


def sync(room: StorageRoom, image_id: str, *, leaf: str, base: str, merged: str) -> list[str]:
    found: list[str] = room.call(
        "internal.sync_running_chain", sd_id=room.sd_id, image_id=image_id, leaf_volume_id=leaf, base_volume_id=base,
        merged_volume_id=merged,
    )  # fmt: skip
    return found


def set_legal(room: StorageRoom, image_id: str, volume_id: str, *, legal: bool) -> None:
    room.call(
        "internal.set_running_legality", sd_id=room.sd_id, image_id=image_id, volume_id=volume_id, legal=legal
    )  # fmt: skip


def test_the_base_is_the_leaf_again_after_the_leaf_was_merged(host: StorageRoom) -> None:
    image_id, base = host.create()
    _, leaf = host.create(image_id, srcImgUUID=image_id, srcVolUUID=base, size=str(32 * MIB))
    assert host.info(image_id, base)["voltype"] == "INTERNAL"
    set_legal(host, image_id, leaf, legal=False)
    commit(host, image_id, leaf)
    for _ in range(2):
        assert sync(host, image_id, leaf=base, base=base, merged=leaf) == [base]
        now = host.info(image_id, base)
        assert (now["voltype"], now["parent"], now["status"]) == ("LEAF", BLANK, "OK")
        assert now["capacity"] == host.info(image_id, leaf)["capacity"]
        assert host.info(image_id, leaf)["status"] == "ILLEGAL"


def test_the_leaf_stands_on_the_base_after_the_middle_was_merged(host: StorageRoom) -> None:
    image_id, base = host.create()
    _, middle = host.create(image_id, srcImgUUID=image_id, srcVolUUID=base)
    _, leaf = host.create(image_id, srcImgUUID=image_id, srcVolUUID=middle)
    commit(host, image_id, middle)
    path = host.image(image_id) / leaf
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", path], check=True, timeout=60)
    assert sync(host, image_id, leaf=leaf, base=base, merged=middle) == [base, leaf]
    assert host.info(image_id, leaf)["parent"] == base
    assert (host.info(image_id, leaf)["voltype"], host.info(image_id, leaf)["status"]) == ("LEAF", "OK")
    assert host.info(image_id, middle)["status"] == "ILLEGAL"


def test_a_pivot_that_did_not_happen_leaves_the_leaf_legal_again(host: StorageRoom) -> None:
    image_id, base = host.create()
    _, leaf = host.create(image_id, srcImgUUID=image_id, srcVolUUID=base)
    for legal, status in ((False, "ILLEGAL"), (True, "OK"), (True, "OK")):
        set_legal(host, image_id, leaf, legal=legal)
        assert host.info(image_id, leaf)["status"] == status
