# SPDX-License-Identifier: Apache-2.0
"""What goes with a VM when it ends: its own files, and nothing of it stays in memory."""

import re
import uuid
from pathlib import Path

from vdsm_mp.virt.payload import Payloads
from vdsm_mp.virt.records import VolumeIds
from vdsm_mp.virt.transient import Transients


def test_overlays_go_with_their_vm_or_with_their_disk_alone(tmp_path: Path) -> None:
    vm_id, other, sd_id, first, second = (str(uuid.uuid4()) for _ in range(5))
    names = [f"{sd_id}-{first}.{vm_id}-1a", f"{sd_id}-{second}.{vm_id}-2b", f"{sd_id}-{first}.{other}-3c"]
    for name in names:
        (tmp_path / name).touch()
    overlays = Transients(tmp_path)
    overlays.remove(vm_id, VolumeIds(pool_id="", sd_id=sd_id, image_id="", volume_id=first))
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])
    overlays.remove(vm_id)
    overlays.remove(vm_id)
    assert [path.name for path in tmp_path.iterdir()] == names[2:]
    Transients(tmp_path / "none").remove(vm_id)


def test_vms_that_come_and_go_leave_no_patterns_behind(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        for _ in range(5):
            vm_id = str(uuid.uuid4())
            Payloads(folder).remove(vm_id)
            Transients(folder).remove(vm_id)
            assert not [key for key in re._cache if vm_id in str(key)]  # type: ignore[attr-defined]
