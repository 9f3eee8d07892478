# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.children import LocalChildren
from vdsm_mp.storage.domain_io import DomainIO


@pytest.fixture
def children() -> Iterator[LocalChildren]:
    made = LocalChildren()
    yield made
    made.stop()


@pytest.fixture
def io(children: LocalChildren, tmp_path: Path) -> Iterator[DomainIO]:
    """A real I/O child on an empty directory."""
    (tmp_path / "root").mkdir()
    made = DomainIO(children, "test", str(tmp_path / "root"), deadline_s=10)
    yield made
    made.close()
