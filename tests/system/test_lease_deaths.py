# SPDX-License-Identifier: Apache-2.0
"""A death at the n-th step of operations on leases, volumes that have one, and the role, under real sanlock: see
tests/faults/leases.py. A few steps in a quick run, all of them with VDSM_MP_FAULTS_STRIDE=1."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import faultscript
from tests.support.needs import needs_program, needs_root

_STRIDE = int(os.environ.get("VDSM_MP_FAULTS_STRIDE", "0"))

pytestmark = [
    pytest.mark.system,
    needs_root(),
    needs_program("sanlock", "mkfs.ext4", "losetup", "qemu-img"),
    pytest.mark.timeout(3600 if _STRIDE else 300),
]

_ALL = ("add lease", "remove lease", "rebuild leases", "snapshot", "delete volume", "bitmap", "role", "switch")
#: {(scenario, fault): distance of the steps that are tried}; each takes seconds.
_QUICK = {("add lease", "kill"): 80}
_STRIDES = {(name, fault): _STRIDE for name in _ALL for fault in ("kill", "child")} if _STRIDE else _QUICK


@pytest.fixture
def place() -> Iterator[Path]:
    """A short name, for a socket."""
    made = Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize(("scenario", "fault"), sorted(_STRIDES))
def test_a_death_at_any_step_leaves_leases_in_order(place: Path, scenario: str, fault: str) -> None:
    found = faultscript.run("leases", scenario, place, _STRIDES[scenario, fault], fault)
    assert found["deaths"] >= 1, found
