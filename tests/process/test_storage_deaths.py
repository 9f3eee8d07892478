# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the storage worker and its I/O child before every step of an operation, n = 1, 2, 3 … until none is left.

Afterwards a new worker takes the role: the operation is done or undone as a whole, qemu-img finds nothing wrong, no
file is left over, a task that was acknowledged is still listed, and what was undone can be asked for again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import needs_program

pytestmark = [needs_program("qemu-img"), pytest.mark.timeout(300)]

#: Every step in a nightly run (1); here every step of the short ones.
_STRIDES = {"create": 1, "delete": 1, "snapshot": 3, "clone": 3, "failure": 5}


@pytest.mark.parametrize("scenario", sorted(_STRIDES))
def test_death_at_any_step_leaves_a_whole_state(tmp_path: Path, scenario: str) -> None:
    stride = min(_STRIDES[scenario], int(os.environ.get("VDSM_MP_DEATHS_STRIDE", "9")))
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.deaths", scenario, tmp_path, str(stride)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["problems"], (found, done.stderr[-4000:])
    assert found["deaths"] >= 10, found
    assert found["outcomes"], found
