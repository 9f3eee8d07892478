# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp verbs`: every verb with its state. Reads the declarations only; asks nobody."""

import argparse
from collections import Counter

from vdsm_mp.cli import render
from vdsm_mp.tool.schema import parameters, public_verbs

SAYS_NO = ()


def arguments(parser: argparse.ArgumentParser, _name: str) -> None:
    parser.add_argument("pattern", nargs="?", default="", help="only verbs whose name contains this")
    parser.add_argument("--planned", action="store_true", help="only those that are not built yet")
    parser.add_argument("--built", action="store_true", help="only those that are built")
    parser.add_argument("--json", action="store_true")


def run(asked: argparse.Namespace) -> int:
    rows = [
        {
            "name": spec.name,
            "state": "planned" if spec.planned else "built",
            "tier": spec.tier,
            "owner": spec.owner,
            "parameters": [name + ("" if required else "?") for name, _, required in parameters(spec)],
            "doc": spec.doc,
        }
        for spec in public_verbs()
        if asked.pattern.lower() in spec.name.lower()
        and (not asked.planned or spec.planned)
        and (not asked.built or not spec.planned)
    ]
    if asked.json:
        print(render.as_json(rows))
        return 0
    columns = ("name", "state", "tier", "owner", "doc")
    print(render.table(columns, [[row[c] for c in columns] for row in rows]))
    counts = Counter(row["state"] for row in rows)
    print(f"\n{len(rows)} verbs: {counts['built']} built, {counts['planned']} planned")
    return 0
