# SPDX-License-Identifier: Apache-2.0
"""docs/api.md and the JSON Schema, made from the declarations: nothing about a verb is written twice.

usage: python -m vdsm_mp.tool.schema [--check | --write | --json]
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from vdsm_mp.api import gluster
from vdsm_mp.api.catalogue import EVENTS, VERBS
from vdsm_mp.api.event import EventSpec
from vdsm_mp.api.verb import VerbSpec
from vdsm_mp.tool import failures
from vdsm_mp.tool.types import type_name

API_MD = Path(__file__).resolve().parent.parent.parent / "docs" / "api.md"

_HEAD = """\
# Verbs and events

Generated from the declarations in `vdsm_mp/api/` by `make docs`; do not edit. Names, parameters and results are those
of VDSM's API. `vdsm-mp call VERB --help` tells the same of one verb.

* `?` after a parameter: it may be left out, or null. Numbers and truths may be written as text, and the other way
  round; parameters that are not listed are ignored.
* The last column tells the worker that answers, and within what time. *safe*: asking twice is harmless, so a call whose
  worker died is repeated once. *planned*: declared, and answered "not supported" (-32601).
* Errors are numbers of the table at the end. *Later*: what the task or the job that the verb begins may end with, told
  by `Task.getStatus` or `Host.getJobs`. Any verb may answer {any_verb} besides, and one that works on a storage
  domain {storage}.

"""


def public_verbs() -> list[VerbSpec]:
    """Every verb a client may call, by name."""
    return sorted((spec for spec in VERBS.values() if not spec.internal), key=lambda spec: spec.name)


def result(spec: VerbSpec) -> str:
    """The type of a verb's result."""
    return "`true`" if spec.reply is None else type_name(spec.reply)


def parameters(spec: VerbSpec) -> list[tuple[str, str, bool]]:
    """(wire name, type, required) of every parameter of a verb."""
    return [(f.encode_name, type_name(f.type), f.required) for f in msgspec.structs.fields(spec.message)]


def markdown() -> str:
    """The text of docs/api.md."""
    head = _HEAD.format(any_verb=failures.numbers(failures.ANY_VERB), storage=failures.numbers(failures.ON_STORAGE))
    return head + "".join(_summary()) + "".join(_verbs()) + "".join(_events()) + "".join(_errors())


def _summary() -> Iterator[str]:
    verbs = public_verbs()
    yield "| namespace | verbs | built |\n|---|---|---|\n"
    for namespace in sorted({spec.name.partition(".")[0] for spec in verbs}):
        mine = [spec for spec in verbs if spec.name.partition(".")[0] == namespace]
        yield f"| {namespace} | {len(mine)} | {sum(not spec.planned for spec in mine)} |\n"
    yield f"| **all** | **{len(verbs)}** | **{sum(not spec.planned for spec in verbs)}** |\n"


def _verbs() -> Iterator[str]:
    namespace = ""
    for spec in public_verbs():
        if spec.name.startswith("Gluster"):
            continue
        if spec.name.partition(".")[0] != namespace:
            namespace = spec.name.partition(".")[0]
            yield f"\n## {namespace}\n\n| verb | parameters | result | errors | |\n|---|---|---|---|---|\n"
        params = ", ".join(f"`{name}{'' if required else '?'}`: {kind}" for name, kind, required in parameters(spec))
        facts = "planned" if spec.planned else f"{spec.owner}, {spec.deadline_s:.0f} s{', safe' if spec.safe else ''}"
        later = f"<br>*later* {failures.numbers(spec.later)}" if spec.later else ""
        text = re.sub(r"\s*\n\s*", " ", spec.text.replace("\n\n", "<br>"))
        yield _row(
            f"**{spec.name}**<br>{text}", params or "–", result(spec), failures.numbers(spec.raises) + later, facts
        )
    yield "\n## Gluster\n\nAll planned, with parameters of any kind.\n\n"
    for namespace, names in gluster.NAMES.items():
        yield f"* `{namespace}`: {', '.join(names)}\n"


def _events() -> Iterator[str]:
    yield "\n## Events\n\n| event | meaning | fields |\n|---|---|---|\n"
    for spec in public_events():
        doc = (spec.event.__doc__ or "").strip().partition("\n")[0]
        fields = ", ".join(f"`{f.encode_name}`: {type_name(f.type)}" for f in msgspec.structs.fields(spec.event))
        yield _row(f"`{spec.public}`", doc, fields)


def _errors() -> Iterator[str]:
    yield "\n## Errors\n\n| number | sentence | what has changed |\n|---|---|---|\n"
    for number, sentence, changed in failures.rows(failures.declared(public_verbs())):
        yield _row(str(number), sentence, changed)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def public_events() -> list[EventSpec]:
    """The events that leave the house, by topic."""
    return sorted((spec for spec in EVENTS.values() if spec.public), key=lambda spec: spec.topic)


def json_schema() -> dict[str, Any]:
    """Parameters of every public verb as JSON Schema: {verb: schema}, with shared definitions."""
    verbs = public_verbs()
    schemas, definitions = msgspec.json.schema_components([spec.message for spec in verbs])
    return {"verbs": dict(zip([spec.name for spec in verbs], schemas, strict=True)), "$defs": definitions}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="vdsm-mp schema", description="the API as text")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="fail when docs/api.md is not what the declarations say")
    group.add_argument("--write", action="store_true", help="write docs/api.md")
    group.add_argument("--json", action="store_true", help="print JSON Schema instead of Markdown")
    asked = parser.parse_args(argv)
    if asked.json:
        print(msgspec.json.format(msgspec.json.encode(json_schema())).decode())
    elif asked.write:
        API_MD.write_text(markdown())
    elif asked.check:
        if not API_MD.exists() or API_MD.read_text() != markdown():
            print(f"{API_MD} is not current: run `make docs`", file=sys.stderr)
            return 1
    else:
        print(markdown(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
