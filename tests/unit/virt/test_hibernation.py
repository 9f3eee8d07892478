# SPDX-License-Identifier: Apache-2.0
"""The end of a sleep that comes late: its VM may have been destroyed and woken meanwhile, which it must not disturb."""

import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from msgspec.structs import replace

from tests.support.background import HeldBackground
from tests.support.eventually import eventually
from vdsm_mp.api.internal import PreparedDrive
from vdsm_mp.virt import asleep
from vdsm_mp.virt.hibernation import Hibernations
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import VmRecord, VolumeIds
from vdsm_mp.virt.registry import Vms

VM_ID = str(uuid.uuid4())
POOL_ID, SD_ID = str(uuid.uuid4()), str(uuid.uuid4())
MEMORY, PARAMETERS = (VolumeIds(POOL_ID, SD_ID, str(uuid.uuid4()), str(uuid.uuid4())) for _ in range(2))
HANDLE = ",".join(
    [MEMORY.sd_id, MEMORY.pool_id, MEMORY.image_id, MEMORY.volume_id, PARAMETERS.image_id, PARAMETERS.volume_id]
)


class Room:
    """A VM that runs, and all that puts it to sleep."""

    def __init__(self, folder: Path) -> None:
        self.vms = Vms(cast(Any, SimpleNamespace(publish=lambda event: None)))
        self.vms.become_known()
        self.vms.add(_record(VmStatus.UP))
        self.folder = folder
        self.given_back: list[VolumeIds] = []
        self.hooks = SimpleNamespace(before=lambda point, record: None, after=lambda point, record: None)
        #: Comes between the look whether it is needed and the end of that.
        self.meanwhile: Callable[[], None] = lambda: None
        drives = SimpleNamespace(prepare=self.prepare, teardown=self.teardown)
        self.hibernations = Hibernations(
            cast(Any, SimpleNamespace(domain=lambda vm_id: self)), self.vms, cast(Any, self), cast(Any, drives),
            cast(Any, HeldBackground()), cast(Any, self.hooks),
        )  # fmt: skip

    def prepare(self, ids: VolumeIds) -> PreparedDrive:
        path = self.folder / ids.volume_id
        path.touch()
        return PreparedDrive(
            path=str(path), format="raw", block=False, apparent_size_bytes=0, true_size_bytes=0, capacity_bytes=0,
            chain=[],
        )  # fmt: skip

    def teardown(self, ids: VolumeIds, *, unless: Callable[[], bool]) -> None:
        self.meanwhile()
        if not unless():
            self.given_back.append(ids)

    def remember(self, vm_id: str, **values: Any) -> None:
        self.vms.change(vm_id, lambda record: replace(record, metadata=record.metadata.with_values(**values)))

    def backupGetXMLDesc(self, flags: int) -> str:
        return ""

    def XMLDesc(self, flags: int) -> str:
        return "<domain/>"

    def saveFlags(self, path: str, xml: None, flags: int) -> None:
        """libvirt's event of it comes first, and an engine is fast."""
        self.vms.forget(VM_ID)
        self.vms.add(_record(VmStatus.RESTORING, MEMORY))


def _record(status: VmStatus, *memory: VolumeIds) -> VmRecord:
    record = VmRecord(vm_id=VM_ID, name="x", metadata=asleep.noted(Metadata(), *memory))
    return record.with_life(replace(record.life, status=status))


def test_a_sleep_that_ends_late_leaves_its_vm_alone_that_was_woken_meanwhile(tmp_path: Path) -> None:
    room = Room(tmp_path)
    room.hibernations.begin(VM_ID, HANDLE)
    eventually(lambda: PARAMETERS in room.given_back)
    assert room.given_back == [PARAMETERS]
    woken = room.vms.find(VM_ID)
    assert woken.life.status is VmStatus.RESTORING
    assert asleep.held(woken.metadata) == [MEMORY]


def test_a_wake_that_begins_when_the_memory_is_about_to_be_given_back_keeps_it(tmp_path: Path) -> None:
    room = Room(tmp_path)

    def wake() -> None:
        room.meanwhile = lambda: None
        room.vms.forget(VM_ID)
        room.vms.add(_record(VmStatus.RESTORING, MEMORY))

    cast(Any, room).saveFlags = lambda path, xml, flags: None
    room.meanwhile = wake
    room.hibernations.begin(VM_ID, HANDLE)
    eventually(lambda: PARAMETERS in room.given_back)
    assert room.given_back == [PARAMETERS]
    assert asleep.held(room.vms.find(VM_ID).metadata) == [MEMORY]


def test_a_sleep_that_ends_gives_both_volumes_back_and_its_note(tmp_path: Path) -> None:
    room = Room(tmp_path)
    cast(Any, room).saveFlags = lambda path, xml, flags: None
    room.hibernations.begin(VM_ID, HANDLE)
    eventually(lambda: not asleep.held(room.vms.find(VM_ID).metadata) and len(room.given_back) == 2)
    assert room.given_back == [MEMORY, PARAMETERS]
    assert room.vms.find(VM_ID).life.status is VmStatus.DOWN
