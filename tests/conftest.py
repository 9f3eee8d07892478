# SPDX-License-Identifier: Apache-2.0
"""What tests everywhere share: one copy of the program for houses, removed at the end, and I/O children."""

from collections.abc import Iterator

import pytest

from tests.support import house
from tests.support.children import LocalChildren


@pytest.fixture(scope="session", autouse=True)
def _program_copy() -> Iterator[None]:
    yield
    house.forget_program()


@pytest.fixture
def children() -> Iterator[LocalChildren]:
    made = LocalChildren()
    yield made
    made.stop()
