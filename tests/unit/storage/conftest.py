# SPDX-License-Identifier: Apache-2.0
"""What the tests of storage share: a directory behind an I/O child, and an SPM of a pool with one domain."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.children import LocalChildren
from tests.support.storage_room import StorageRoom
from vdsm_mp.storage.domain_io import DomainIO


@pytest.fixture
def io(children: LocalChildren, tmp_path: Path) -> Iterator[DomainIO]:
    """A real I/O child on an empty directory."""
    (tmp_path / "root").mkdir()
    made = DomainIO(children, "test", str(tmp_path / "root"), deadline_s=10)
    yield made
    made.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageRoom]:
    made = StorageRoom(tmp_path_factory.mktemp("storage")).make()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def spm(house: StorageRoom) -> StorageRoom:
    return house
