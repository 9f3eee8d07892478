# SPDX-License-Identifier: Apache-2.0
"""A snapshot beside which a disk goes: all of its disks or none."""

import uuid
import xml.etree.ElementTree as ET
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vdsm_mp.api.errors_virt import SnapshotFailed
from vdsm_mp.virt.records import Drive, VolumeIds
from vdsm_mp.virt.snapshot import _snapshot
from vdsm_mp.virt.snapshot_record import Terms


def test_a_disk_that_goes_while_its_volume_is_prepared_is_named() -> None:
    asked: list[VolumeIds] = []
    noted: list[dict[str, Any]] = []
    ready = SimpleNamespace(path="/x", format="cow", block=False, chain=[])
    live = ET.fromstring('<domain><devices><disk><target dev="sda"/></disk></devices></domain>')
    devices = SimpleNamespace(
        vms=SimpleNamespace(find=lambda vm_id: None),
        keeper=SimpleNamespace(remember=lambda vm_id, **values: noted.append(values)),
        drives=SimpleNamespace(prepare=lambda ids: (asked.append(ids), ready)[1]),
        live=lambda vm_id: (None, live),
    )
    hooks = SimpleNamespace(volume_prepared=lambda record, ids, prepared, failed: prepared)
    old, new = ([VolumeIds(*(str(uuid.uuid4()) for _ in range(4))) for _ in range(2)] for _ in range(2))
    drives = [Drive(name, "disk", ids=ids) for name, ids in zip(("sda", "sdb"), old, strict=True)]
    terms = Terms("job", began_mono=0.0, timeout_s=1800.0, freeze_s=8, frozen=True)
    wanted = list(zip(drives, new, strict=True))
    with pytest.raises(SnapshotFailed, match="sdb went"):
        _snapshot(cast(Any, devices), cast(Any, hooks), "x", terms, wanted, None)
    assert asked == [*new, *old]  # what the VM goes on with is prepared anew
    assert noted == [{"snapshot_job": None}]
