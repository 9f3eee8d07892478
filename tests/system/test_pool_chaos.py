# SPDX-License-Identifier: Apache-2.0
"""Two hosts, one pool, something dies in each round: see tests/faults/pool_chaos.py. A few rounds in a quick run, forty
with VDSM_MP_FAULTS_STRIDE=1."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import needs_program, needs_root

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("sanlock", "sudo", "mkfs.ext4", "losetup"),
    pytest.mark.timeout(1800),
]

FULL = os.environ.get("VDSM_MP_FAULTS_STRIDE") == "1"
ROUNDS = 40 if FULL else 2
#: A host that dies keeps its leases for one and a half minutes, which a check has not.
QUICK = "storage,io,helper,master,sanlock,none"


def test_disk_and_hosts_tell_the_same_whatever_died() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.pool_chaos", str(ROUNDS)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **({} if FULL else {"VDSM_MP_CHAOS_HARMS": QUICK})},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["problems"], (found, done.stderr[-20000:])
    assert found["rounds"] == ROUNDS
