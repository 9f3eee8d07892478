# SPDX-License-Identifier: Apache-2.0
"""The two domains of tests/data, unpacked, and what VDSM reads in them."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True)
class WrittenByVdsm:
    """root: the domain's directory. facts: {"info": …, "volumes": …, "chains": …, "tasks": …, …}."""

    sd_id: str
    root: Path
    facts: dict[str, Any]


def unpack(to: Path) -> dict[str, WrittenByVdsm]:
    """{"export": …, "shared": …} below `to`."""
    subprocess.run(["tar", "--no-same-owner", "-C", to, "-xf", _DATA / "vdsm-v5.tar.xz"], check=True)
    found = {}
    for name in ("export", "shared"):
        facts = json.loads((_DATA / f"{name}.json").read_text())
        sd_id = facts["info"]["uuid"]
        found[name] = WrittenByVdsm(sd_id, to / name / sd_id, facts)
    return found
