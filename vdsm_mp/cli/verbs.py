# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp verbs`: every verb with its state. Reads the declarations only; asks nobody."""

import argparse
import re
import sys
from collections import Counter
from typing import Any

from vdsm_mp.cli import render
from vdsm_mp.tool.schema import parameters, public_verbs

SAYS_NO = ()


def arguments(parser: argparse.ArgumentParser, _name: str) -> None:
    parser.add_argument("pattern", nargs="?", default="", help="only verbs whose name contains this")
    state = parser.add_mutually_exclusive_group()
    state.add_argument("--planned", action="store_true", help="only those that are not built yet")
    state.add_argument("--built", action="store_true", help="only those that are built")
    parser.add_argument("--json", action="store_true", help="with parameters and errors, as JSON")


def run(asked: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = [
        {
            "name": spec.name,
            "state": "planned" if spec.planned else "built",
            "tier": spec.tier,
            "owner": spec.owner,
            "parameters": [name + ("" if required else "?") for name, _, required in parameters(spec)],
            "doc": spec.doc,
            "errors": sorted({cls.code for cls in spec.raises}),
        }
        for spec in public_verbs()
        if asked.pattern.lower() in spec.name.lower()
        and (not asked.planned or spec.planned)
        and (not asked.built or not spec.planned)
    ]
    if asked.json:
        print(render.as_json(rows))
        return 0 if rows else 1
    if not rows:
        print(f"vdsm-mp: no such verb has {asked.pattern!r} in its name", file=sys.stderr)
        return 1
    columns = ("name", "state", "tier", "owner")
    # The first sentence is enough for a list; `call VERB --help` has the rest.
    cells = [[*(row[c] for c in columns), re.split(r"(?<=[^A-Z])\. |; ", row["doc"])[0].rstrip(".")] for row in rows]
    print(render.table((*columns, "what it does"), cells, width=render.terminal_width()))
    counts = Counter(row["state"] for row in rows)
    print(f"\n{len(rows)} verbs: {counts['built']} built, {counts['planned']} planned")
    return 0
