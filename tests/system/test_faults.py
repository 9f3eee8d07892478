# SPDX-License-Identifier: Apache-2.0
"""A slice of the fault run: a house with guests, storage and fifty TLS clients, in which everything dies once.

`make faults` does the same more often and with more kinds of harm. Times are in its report; here nothing is timed.
"""

import pytest

from tests.faults import run
from tests.faults.scenarios import UNDER_LOAD
from tests.support.needs import needs_program, needs_root

pytestmark = [
    pytest.mark.system, needs_root(), pytest.mark.timeout(300),
    needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter", "sudo", "qemu-img"),
]  # fmt: skip

SLICE = ("A1", "A2", "A3", "A3i", "A4", "A4n", "A7", "B1 virt", "C1")


def test_whatever_dies_under_load_every_request_is_answered_and_nothing_is_lost() -> None:
    chosen = [scenario for scenario in UNDER_LOAD if scenario.id in SLICE]
    found = run.under_load(chosen, run.Wish(repeat=1, guests=1, callers=50, per_s=30), print)
    assert found["broken"] == []
    assert [row["executed"] for row in found["rows"]] == [1] * len(SLICE)
    assert found["requests"]["silent"] == 0
    assert found["requests"]["asked"] > 100
