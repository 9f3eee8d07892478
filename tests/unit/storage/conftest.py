# SPDX-License-Identifier: Apache-2.0
"""What the tests of storage share: a directory behind an I/O child, and an SPM of a pool with one domain."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.children import LocalChildren
from tests.support.eventually import eventually
from tests.support.loopdevice import ext4_on_loop
from tests.support.storage_room import MIB, StorageRoom
from vdsm_mp.storage.domain_io import DomainIO


@pytest.fixture
def io(children: LocalChildren, tmp_path: Path) -> Iterator[DomainIO]:
    """A real I/O child on an empty directory."""
    (tmp_path / "root").mkdir()
    made = DomainIO(children, "test", str(tmp_path / "root"), deadline_s=10)
    yield made
    made.close()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[StorageRoom]:
    """A host of its own, without a pool."""
    made = StorageRoom(tmp_path)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageRoom]:
    made = StorageRoom(tmp_path_factory.mktemp("storage")).make()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def spm(house: StorageRoom) -> StorageRoom:
    return house


@pytest.fixture
def small(tmp_path: Path) -> Iterator[StorageRoom]:
    """Its domain has a file system of its own, which can be frozen, or full. Needs root."""
    (tmp_path / "export").mkdir()
    with ext4_on_loop(tmp_path / "disk", 64 * MIB) as device:
        subprocess.run(["mount", device, tmp_path / "export"], check=True)
        made = StorageRoom(tmp_path)
        try:
            yield made.make()
        finally:
            made.stop()
            umount = ["umount", tmp_path / "export"]  # once the I/O children have gone
            eventually(lambda: subprocess.run(umount, check=False).returncode == 0, every_s=0.2)
