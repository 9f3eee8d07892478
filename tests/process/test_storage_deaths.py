# SPDX-License-Identifier: Apache-2.0
"""A fault at every step of operations on volumes, n = 1, 2, 3 … until none is left: kill -9 of the storage worker and
its I/O child before the step, a power cut, or an error of the operating system.

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

pytestmark = [needs_program("qemu-img"), pytest.mark.timeout(600)]

#: {(scenario, fault): distance of the steps that are tried}, in a quick run.
_QUICK = {
    ("create", "kill"): 2,
    ("create", "EIO"): 5,
    ("delete", "kill"): 2,
    ("snapshot", "kill"): 5,
    ("clone", "kill"): 5,
    ("failure", "kill"): 9,
    ("delete volume", "kill"): 5,
    ("delete volume", "ENOSPC"): 7,
    ("copy", "kill"): 7,
    ("extend", "kill"): 5,
    ("prepare merge", "kill"): 4,
    ("finalize", "kill"): 5,
    ("finalize", "EROFS"): 7,
    ("snapshot", "cut"): 9,
    ("delete", "cut"): 5,
    ("finalize", "cut"): 6,
}
_STRIDE = int(os.environ.get("VDSM_MP_FAULTS_STRIDE", "0"))
_WHOLE = {
    (scenario, fault): _STRIDE
    for scenario, _ in _QUICK
    for fault in ("kill", "cut", "EIO", "ENOSPC", "EROFS")
    if _STRIDE
}
_STRIDES = _WHOLE or _QUICK


@pytest.mark.parametrize(("scenario", "fault"), sorted(_STRIDES), ids=str)
def test_a_fault_at_any_step_leaves_a_whole_state(tmp_path: Path, scenario: str, fault: str) -> None:
    stride = _STRIDES[scenario, fault]
    if fault == "cut" and os.geteuid() != 0:
        pytest.skip("a power cut needs mounts, and so root")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.deaths", scenario, tmp_path, str(stride), fault],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["problems"], (found, done.stderr[-4000:])
    assert found["deaths"] >= 5, found
    assert found["outcomes"], found
