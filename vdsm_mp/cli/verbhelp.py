# SPDX-License-Identifier: Apache-2.0
"""What `vdsm-mp call VERB --help` shows: a verb's declaration, whole."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import msgspec

from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.verb import VerbSpec
from vdsm_mp.cli import render
from vdsm_mp.cli.spelling import near
from vdsm_mp.common.errors import Error
from vdsm_mp.tool import failures
from vdsm_mp.tool.types import type_name


def verb_help(name: str) -> str:
    """What a verb does, wants, gives and may answer instead."""
    spec = VERBS.get(name)
    if spec is None or spec.internal:
        found = similar(name)
        hint = f"there are {', '.join(found)}" if found else "`vdsm-mp verbs` lists them"
        return f"{name}: no such verb; {hint}\n"
    return "\n".join(_lines(spec)) + "\n"


def similar(name: str) -> list[str]:
    """Public verbs whose name contains this, or is nearly this; the best at most ten."""
    names = sorted(verb for verb, spec in VERBS.items() if not spec.internal)
    found = [verb for verb in names if name.lower() in verb.lower()]
    return found[:10] or near(name, names, at_most=5, alike=0.75)


def _lines(spec: VerbSpec) -> Iterator[str]:
    width = min(110, max(60, shutil.get_terminal_size((100, 24)).columns))
    paragraphs = spec.text.split("\n\n")
    yield from (textwrap.fill(f"{spec.name}: {paragraphs[0]}", width, break_on_hyphens=False),)
    for paragraph in paragraphs[1:]:
        yield from ("", textwrap.fill(paragraph, width, break_on_hyphens=False))
    fields = msgspec.structs.fields(spec.message)
    rows = [(f.encode_name, type_name(f.type), "" if f.required else "optional", _members(f.type)) for f in fields]
    shown = render.table(("parameter", "type", "", "members"), rows).replace("  -", "   ")
    yield from ("", *(line.rstrip() for line in shown.splitlines())) if rows else ("", "no parameters")
    yield from ("", f"result: {'true' if spec.reply is None else type_name(spec.reply)}")
    if spec.planned:
        yield 'planned: this host answers "not supported" (-32601)'
        return
    yield f"answered by {spec.owner} within {spec.deadline_s:.0f} s; " + (
        "asking again is harmless" if spec.safe else "never repeated by itself"
    )
    if spec.raises:
        yield from ("", "errors:", *_errors(spec.raises, width))
    if spec.later:
        yield from ("", "the task or job that it begins may end with:", *_errors(spec.later, width))
    besides = f"besides, as any verb: {failures.numbers(failures.ANY_VERB)}"
    if spec.owner == "storage":
        besides += f"; while storage is out of reach, damaged, full or in use: {failures.numbers(failures.ON_STORAGE)}"
    yield from ("", textwrap.fill(f"{besides} (docs/api.md has them all)", width))


def _errors(classes: Iterable[type[Error]], width: int) -> Iterator[str]:
    for number, sentence, changed in failures.rows(classes):
        yield textwrap.fill(f"{number:>6}  {sentence}. {changed}", width, subsequent_indent=" " * 8)


def _members(kind: Any) -> str:
    """Names of the members when a parameter is an object we know."""
    for inner in (kind, *get_args(kind)):
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            return ", ".join(f.encode_name + ("" if f.required else "?") for f in msgspec.structs.fields(inner))
    return ""
