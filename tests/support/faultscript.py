# SPDX-License-Identifier: Apache-2.0
"""Scripts of tests/faults that end with a line of JSON, each in a process of its own: they fork, without threads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run(module: str, *words: object) -> dict[str, Any]:
    """What it found, once that is free of problems. Raises: AssertionError, with the end of what it said."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.faults.{module}", *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert not found["problems"], (found, done.stderr[-20000:])
    return found
