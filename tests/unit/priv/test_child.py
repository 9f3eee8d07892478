# SPDX-License-Identifier: Apache-2.0
"""Programs that root runs: their end."""

import time
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program
from vdsm_mp.common import kernel
from vdsm_mp.priv.child import Children, OutOfTime

pytestmark = needs_program("setpriv", "setsid")


@pytest.mark.parametrize("apart", ["", "setsid"])
def test_a_program_that_is_out_of_time_is_killed_with_its_children(apart: str, tmp_path: Path) -> None:
    script = f"{apart} sleep 77 & echo $! > {tmp_path}/pid; wait"
    with pytest.raises(OutOfTime):
        Children().run(["/bin/sh", "-c", script], time.monotonic() + 0.5)
    grandchild = int((tmp_path / "pid").read_text())
    eventually(lambda: (facts := kernel.process(grandchild)) is None or facts.state == "Z", within_s=5)
