# SPDX-License-Identifier: Apache-2.0
"""A fault at the n-th step of an operation on domains, the pool or OVFs, n = 1, 2, 3 … until none is left: see
tests/faults/domains.py. Some steps in a quick run, all of them with VDSM_MP_FAULTS_STRIDE=1."""

import itertools
import os
from pathlib import Path

import pytest

from tests.faults.lives import Fault
from tests.support import faultscript
from tests.support.needs import needs_root

_DOMAINS = ("create", "format", "pool", "attach", "activate", "detach", "destroy", "rebuild", "switch", "upgrade")
_OVFS = ("update OVFs", "remove OVF", "put OVF store", "export", "move")
_STRIDE = int(os.environ.get("VDSM_MP_FAULTS_STRIDE", "0"))
#: Of pairs of faults every so many steps, other ones for each first step.
_PAIRS_APART = 9

pytestmark = pytest.mark.timeout(3600 if _STRIDE else 600)

_FAULTS = ("kill", "child", "cut", "EIO", "ENOSPC", "EROFS", "full", "kill+kill", "cut+cut", "EIO+kill")
_ALL = list(itertools.product((*_DOMAINS, *_OVFS), _FAULTS))
#: A failing call takes the same ways back as a death, but in one process: some operations stand for the rest.
_QUICK = [
    *itertools.product((*_DOMAINS, *_OVFS), ("kill",)),
    *itertools.product(("switch", "upgrade"), ("EIO",)),
    *itertools.product(("create", "update OVFs"), ("ENOSPC",)),
    *itertools.product(("detach", "put OVF store"), ("EROFS",)),
    *itertools.product(("create", "switch", "put OVF store"), ("cut",)),
    *itertools.product(("detach",), ("full",)),
    *itertools.product(("switch",), ("kill+kill",)),
]
#: A file system of its own needs mounts.
_CASES = [
    pytest.param(*case, marks=needs_root() if Fault.of(case[1]).takes_image else ())
    for case in (_ALL if _STRIDE else _QUICK)
]


@pytest.mark.parametrize(("scenario", "fault"), _CASES)
def test_a_fault_at_any_step_leaves_what_can_be_asked_for_again(tmp_path: Path, scenario: str, fault: str) -> None:
    stride = _STRIDE or {"switch": 40, "export": 50, "move": 24, "upgrade": 15, "create": 11}.get(scenario, 8)
    if "+" in fault:
        stride = _STRIDE * _PAIRS_APART or 60
    found = faultscript.run("domains", scenario, fault, tmp_path, stride)
    assert found["deaths"] >= 1, found
