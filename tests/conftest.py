# SPDX-License-Identifier: Apache-2.0
"""What tests everywhere share: one copy of the program for houses, removed at the end, I/O children, and no clock in
tests that are given made-up input."""

from collections.abc import Iterator

import hypothesis
import pytest

from tests.support import house
from tests.support.children import LocalChildren

# How long one input took tells of the machine, not of the input: at a load of 40 a pause of 0.3 s is nothing special.
hypothesis.settings.register_profile("any load", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("any load")

#: Seconds of a test without a mark.
_USUAL_S = 60.0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """When tests run beside each other, those that may take longest begin first: in the end nobody waits for one."""
    if hasattr(config, "workerinput"):
        items.sort(key=_allowed_s, reverse=True)


def _allowed_s(item: pytest.Item) -> float:
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0]) if mark is not None and mark.args else _USUAL_S


@pytest.fixture(scope="session", autouse=True)
def _program_copy() -> Iterator[None]:
    yield
    house.forget_program()


@pytest.fixture
def children() -> Iterator[LocalChildren]:
    made = LocalChildren()
    yield made
    made.stop()
