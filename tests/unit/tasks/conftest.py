# SPDX-License-Identifier: Apache-2.0
"""What tests of tasks begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.background import HeldBackground
from tests.support.children import LocalChildren
from tests.support.spm_tasks import Undone
from vdsm_mp.storage.domain_io import DomainIO


@pytest.fixture
def files(tmp_path: Path, children: LocalChildren) -> Iterator[DomainIO]:
    (tmp_path / "master/tasks").mkdir(parents=True)
    io = DomainIO(children, "tasks", str(tmp_path), deadline_s=10)
    yield io
    io.close()


@pytest.fixture
def undone() -> Undone:
    return Undone()


@pytest.fixture
def background() -> HeldBackground:
    return HeldBackground()
