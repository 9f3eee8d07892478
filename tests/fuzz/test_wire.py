# SPDX-License-Identifier: Apache-2.0
"""A short slice of the wire's fuzzing, and every input that once went wrong."""

import random
from pathlib import Path

import pytest

from tests.fuzz import wire
from tests.support.door import open_door


@pytest.mark.parametrize("path", sorted(wire.CORPUS.iterdir()), ids=lambda path: path.name)
def test_known_inputs_break_no_rule(path: Path) -> None:
    for seed in range(5):
        wire.judge(path.read_bytes(), random.Random(seed))


def test_the_door_stands_every_known_input() -> None:
    with open_door(None) as door, door.client(None) as witness:
        for octets in wire.corpus():
            wire.throw(door, octets)
            assert witness.call("Host.ping2") is True


def test_mutants_break_no_rule(tmp_path: Path) -> None:
    # The seed changes with each run; it is named when something goes wrong.
    seed = random.SystemRandom().randrange(2**32)
    assert wire.run(3.0, seed, most=4000) > 100
