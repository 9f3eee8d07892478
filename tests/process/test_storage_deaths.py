# SPDX-License-Identifier: Apache-2.0
"""A fault at every step of operations on volumes, n = 1, 2, 3 … until none is left: kill -9 of the storage worker and
its I/O child before the step, a power cut, an error of the operating system, or a file system that is full from there
on. Pairs of faults, too: the worker that takes over dies, or what a failed worker does then is cut short.

Afterwards a new worker takes the role: the operation is done or undone as a whole, qemu-img finds nothing wrong, no
file is left over, a task that was acknowledged is still listed, and what was undone can be asked for again.
"""

import os
from pathlib import Path

import pytest

from tests.faults.lives import Fault
from tests.support import faultscript
from tests.support.needs import needs_program, needs_root

_STRIDE = int(os.environ.get("VDSM_MP_FAULTS_STRIDE", "0"))

pytestmark = [needs_program("qemu-img"), pytest.mark.timeout(3600 if _STRIDE else 600)]

#: {(scenario, fault): distance of the steps that are tried}, in a quick run.
_QUICK = {
    ("create", "kill"): 4,
    ("create", "EIO"): 8,
    ("delete", "kill"): 3,
    ("snapshot", "kill"): 9,
    ("clone", "kill"): 9,
    ("failure", "kill"): 15,
    ("delete volume", "kill"): 8,
    ("delete volume", "ENOSPC"): 11,
    ("copy", "kill"): 13,
    ("revert", "kill"): 10,
    ("extend", "kill"): 7,
    ("prepare merge", "kill"): 7,
    ("finalize", "kill"): 8,
    ("finalize", "EROFS"): 8,
    ("snapshot", "cut"): 14,
    ("delete", "cut"): 7,
    ("finalize", "cut"): 9,
    ("snapshot", "child"): 12,
    ("snapshot", "full"): 13,
    ("snapshot", "kill+kill"): 27,
    ("create", "EIO+kill"): 24,
}
#: Of pairs every so many steps, other ones for each first step: all of them would be thousands for one operation.
_PAIRS_APART = 9
_SINGLE = ("kill", "child", "cut", "EIO", "ENOSPC", "EROFS", "full")
_PAIRS = ("kill+kill", "cut+cut", "kill+EIO", "EIO+kill", "ENOSPC+kill", "full+kill")
_SCENARIOS = sorted({scenario for scenario, _ in _QUICK})
_WHOLE = {(scenario, fault): _STRIDE for scenario in _SCENARIOS for fault in _SINGLE if _STRIDE}
_WHOLE |= {(scenario, fault): _STRIDE * _PAIRS_APART for scenario in _SCENARIOS for fault in _PAIRS if _STRIDE}
_STRIDES = _WHOLE or _QUICK
#: A file system of its own needs mounts.
_CASES = [pytest.param(*case, marks=needs_root() if Fault.of(case[1]).takes_image else ()) for case in sorted(_STRIDES)]


@pytest.mark.parametrize(("scenario", "fault"), _CASES)
def test_a_fault_at_any_step_leaves_a_whole_state(tmp_path: Path, scenario: str, fault: str) -> None:
    stride = _STRIDES[scenario, fault]
    found = faultscript.run("deaths", scenario, tmp_path, stride, fault)
    assert found["deaths"] >= 5, found
    assert found["outcomes"], found
