# SPDX-License-Identifier: Apache-2.0
"""What every session of tests shares: one copy of the program for houses, removed at the end."""

from collections.abc import Iterator

import pytest

from tests.support import house


@pytest.fixture(scope="session", autouse=True)
def _program_copy() -> Iterator[None]:
    yield
    house.forget_program()
