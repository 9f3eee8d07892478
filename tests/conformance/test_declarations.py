# SPDX-License-Identifier: Apache-2.0
"""Every verb and event of VDSM's schema is accounted for: done or planned, with the same parameters, result and tier.

verbs.txt is the schema as data of our own. Run with `-s` for the counts.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from vdsm_mp.api.catalogue import EVENTS, VERBS
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Status


@dataclass(frozen=True)
class Row:
    name: str
    tier: int
    required: frozenset[str]
    optional: frozenset[str]
    recorded: bool
    result: str


def read_rows() -> list[Row]:
    rows = []
    for line in (Path(__file__).parent / "verbs.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        name, tier, *words = line.split()
        params = [word for word in words if not word.startswith("=")]
        result = next((word[1:] for word in words if word.startswith("=")), "")
        required = frozenset(p for p in params if not p.endswith("?") and p != "*")
        optional = frozenset(p.rstrip("?") for p in params if p.endswith("?"))
        rows.append(Row(name, int(tier), required, optional, "*" not in params, result))
    return rows


ROWS = read_rows()
EVENT_NAMES = {
    "|virt|VM_status|{vm_id}",
    "|virt|VM_migration_status|{vm_id}",
    "|net|host_conn|no_id",
    "|jobs|status|{job_id}",
}


def test_the_schema_has_205_verbs_and_gluster_81() -> None:
    gluster = [row for row in ROWS if row.name.startswith("Gluster")]
    assert (len(ROWS) - len(gluster), len(gluster)) == (205, 81)
    assert len({row.name for row in ROWS}) == 286


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_verb_is_declared_with_the_schema_s_parameters_and_tier(row: Row) -> None:
    spec = VERBS[row.name]
    assert not spec.internal
    assert spec.tier == row.tier
    if not row.recorded:
        return
    fields = {f.encode_name: f.required for f in msgspec.structs.fields(spec.message)}
    assert row.required | row.optional <= set(fields), "a parameter of the schema is not declared"
    assert {name for name, required in fields.items() if required} <= row.required, "we demand more than the schema"


def kind_of(reply: Any) -> str:
    """A declared reply in the words of verbs.txt."""
    if reply is None:
        return "true"
    if reply is Status:
        return "status"
    match inspect.type_info(reply):
        case inspect.StrType():
            return "text"
        case inspect.IntType():
            return "integer"
        case inspect.ListType():
            return "list"
        case inspect.DictType() | inspect.StructType():
            return "object"
        case other:
            raise TypeError(other)


@pytest.mark.parametrize("row", [row for row in ROWS if row.result], ids=lambda row: row.name)
def test_a_verb_answers_what_the_wire_wants_of_it(row: Row) -> None:
    """The schema says otherwise in places, and is wrong there: clients read what the original really sends."""
    spec = VERBS[row.name]
    assert kind_of(spec.reply) == ("text" if row.result == "task" else row.result)
    if row.result == "task":
        assert spec.reply is Uuid
        assert not spec.safe, "asked twice, it makes two tasks"
        assert spec.later or spec.planned, "what the task may end with is not told, and nobody follows it"


def test_the_results_of_all_but_gluster_s_verbs_are_recorded() -> None:
    assert {row.name for row in ROWS if not row.result} == {r.name for r in ROWS if r.name.startswith("Gluster")}


def test_every_public_verb_is_of_the_schema() -> None:
    ours = {name for name, spec in VERBS.items() if not spec.internal}
    assert ours == {row.name for row in ROWS}


def test_the_four_event_families_are_declared() -> None:
    assert {spec.public for spec in EVENTS.values() if spec.public} == EVENT_NAMES


def test_every_verb_is_done_or_planned_and_all_of_gluster_is_planned() -> None:
    counts = Counter((row.tier, VERBS[row.name].planned) for row in ROWS)
    for tier in (1, 2, 3):
        print(f"tier {tier}: {counts[tier, False]} done, {counts[tier, True]} planned")
    assert all(VERBS[row.name].planned for row in ROWS if row.name.startswith("Gluster"))
    assert not [row.name for row in ROWS if row.tier == 1 and VERBS[row.name].planned]
