# SPDX-License-Identifier: Apache-2.0
"""A short slice of fuzzing what the agent reads from storage, guests' owners, operators and its own processes."""

import logging
import random
from collections.abc import Iterator

import pytest

from tests.fuzz import documents
from vdsm_mp.common.errors import Error


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)  # storage warns of each seal that is missing
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", documents.KINDS)
def test_mutants_get_a_value_or_a_declared_error(name: str) -> None:
    # The seed changes with each run; it is named when something goes wrong.
    seed = random.SystemRandom().randrange(2**32)
    assert documents.run(2.0, seed, [name], most=20_000)[name] > 20


def test_known_inputs_break_no_rule() -> None:
    for name, path in documents.known():
        documents.judge(documents.KINDS[name], path.read_bytes())


@pytest.mark.parametrize("name", documents.KINDS)
def test_seeds_are_read_so_that_mutants_come_past_the_first_check(name: str) -> None:
    kind = documents.KINDS[name]
    read = 0
    for seed in kind.seeds:
        try:
            kind.read(seed)
            read += 1
        except (*kind.declared, Error):
            continue
    assert read


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE a [" + "".join(f"<!ENTITY e{n} '{f'&e{n - 1};' * 10}'>" for n in range(1, 9)) + "]><a>&e8;</a>",
        "<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>",
        "<a>" * 200_000 + "</a>" * 200_000,
        "<a>" + "<b/>" * 100_000 + "</a>",
        "<a b='" + "x" * 2_000_000 + "'/>",
        "<a " + " ".join(f"b{n}='1'" for n in range(50_000)) + "/>",
    ],
    ids=["entities", "external", "deep", "many", "long", "attributes"],
)
def test_documents_that_grow_are_refused_or_stay_small(text: str) -> None:
    documents.judge(documents.KINDS["vm-xml"], text.encode())
