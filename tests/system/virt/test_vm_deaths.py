# SPDX-License-Identifier: Apache-2.0
"""Whoever dies at whichever step of what is done to a VM: nothing is lost, nothing is left half done.

The table is `tests.faults.vm_steps`; some of it runs with every check, the whole with `make faults` (FULL=1).
"""

import os
from collections.abc import Iterator

import pytest

from tests.faults.vm_deaths import VmWorld
from tests.faults.vm_steps import QUICK, Case, cases, late_cases
from tests.support.needs import needs_program, needs_root

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(180),
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-img", "sudo", "unshare", "nsenter"),
]

_WHOLE = bool(os.environ.get("VDSM_MP_FAULTS_STRIDE"))


@pytest.fixture(scope="module")
def world() -> Iterator[VmWorld]:
    with VmWorld.open() as world:
        yield world


@pytest.mark.parametrize("case", [*cases(), *late_cases()] if _WHOLE else QUICK, ids=str)
def test_a_death_at_a_step_leaves_a_whole_vm(world: VmWorld, case: Case) -> None:
    world.run(case)
