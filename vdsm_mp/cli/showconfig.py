# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp show-config`: what would be in force if the agent started now, and which file says so."""

import argparse
from pathlib import Path
from typing import Any

from vdsm_mp.cli import render
from vdsm_mp.common import config


class NoSuchOption(Exception):
    """Nothing has this name."""


SAYS_NO = (config.ConfigError, NoSuchOption)


def arguments(parser: argparse.ArgumentParser, _name: str) -> None:
    parser.add_argument("section", nargs="?", default="", help="only this section, or SECTION.OPTION")
    parser.add_argument("--config", type=Path, help="instead of /etc/vdsm/vdsm.conf and its drop-ins")
    parser.add_argument("--changed", action="store_true", help="only what a file sets")
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(asked: argparse.Namespace) -> int:
    loaded = config.load(asked.config)
    section, _, option = asked.section.partition(".")
    rows = [
        row
        for row in config.rows(loaded)
        if (not section or row.section == section) and (not option or row.option == option)
    ]
    if not rows:
        raise NoSuchOption(f"there is no {asked.section} to show")
    rows = [row for row in rows if row.origin or not asked.changed]
    if asked.json:
        found: dict[str, dict[str, Any]] = {}
        for row in rows:
            found.setdefault(row.section, {})[row.option] = {"value": row.value, "origin": row.origin or None}
        print(render.as_json({"config": found, "notes": list(loaded.notes)}))
        return 0
    print(config.as_ini(rows) if rows else "# no file sets anything here: every option has its default")
    for note in () if section else loaded.notes:
        print(f"# {note}")
    return 0
