# SPDX-License-Identifier: Apache-2.0
"""The host has just been switched on, or runs for years: no time that the house keeps is taken for "never" or "now"."""

import json
import subprocess
import sys
import time

import pytest

from tests.support.house import CHECKOUT
from tests.support.needs import lacks, needs_program, needs_root

pytestmark = [needs_root(), needs_program("unshare")]

YEARS_S = 10 * 366 * 86400


@pytest.mark.parametrize("up_s", [2, YEARS_S])
def test_a_house_works_however_long_the_host_is_up(up_s: int) -> None:
    offset = str(up_s - int(time.clock_gettime(time.CLOCK_BOOTTIME)))
    space = ["unshare", "--time", "--fork", f"--monotonic={offset}", f"--boottime={offset}"]
    if subprocess.run([*space, "true"], check=False, capture_output=True).returncode:
        lacks("time namespaces")
    argv = [*space, sys.executable, "-m", "tests.support.clockedhouse"]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    found = json.loads(done.stdout)
    assert up_s - 1 < found["began_mono"] < up_s + 60
    assert 0 < found["up_s"] < 200 and found["verdict"] == "ok"
    assert found["deaths"]["storage"] == "signal SIGKILL"
    assert "hung: no heartbeat" in found["deaths"]["network"]
    assert [name for name, death in found["deaths"].items() if death is None] == ["virt", "scheduler", "clientif"]
    assert "Traceback" not in found["log"]
