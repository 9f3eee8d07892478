# SPDX-License-Identifier: Apache-2.0
"""A house with a worker that misbehaves on demand (`rogue.py`): raised, told what to do, asked what it did."""

import contextlib
from collections.abc import Iterator

from tests.support.house import RunningHouse

TABLE = "tests.support.rogue_table"


def rogue_house() -> RunningHouse:
    """One that is ready; it ends with its block."""
    return RunningHouse.start(table=TABLE)


@contextlib.contextmanager
def house_to_begin() -> Iterator[RunningHouse]:
    """One that the block begins itself, as often as it likes."""
    house = RunningHouse({}, tls=False, table=TABLE, libvirt_uri="test:///default")
    try:
        yield house
    finally:
        house.stop()


def order(house: RunningHouse, what: str) -> None:
    """Tell the rogue what to do next."""
    fresh = house.root / "state/new"
    fresh.write_text(what)
    fresh.rename(house.root / "state/rogue.do")


def done(house: RunningHouse, worker: str = "rogue") -> str:
    path = house.root / f"state/{worker}.done"
    return path.read_text() if path.exists() else ""
