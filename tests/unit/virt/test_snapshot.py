# SPDX-License-Identifier: Apache-2.0
"""A snapshot beside which something goes: a disk, libvirtd, or whoever asked for it."""

import json
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from tests.support.background import HeldBackground
from tests.support.libvirt_refusal import refusal
from vdsm_mp.api.errors_virt import LibvirtUnavailable, SnapshotFailed
from vdsm_mp.tasks.jobs import Jobs
from vdsm_mp.virt.keeping import with_devices
from vdsm_mp.virt.memorysnapshot import Memory
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.patience import Again
from vdsm_mp.virt.records import Drive, VmRecord, VolumeIds
from vdsm_mp.virt.snapshot import _snapshot, finish_snapshot
from vdsm_mp.virt.snapshot_record import KEY, Terms


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


class Vm:
    """A VM with one disk and an agent, whose libvirtd dies over its snapshot, and goes on with it when it is back.

    `events`: what happens, in order. `memory`: the file of its memory.
    """

    def __init__(self, folder: Path, *, made: bool = True) -> None:
        self.events: list[str] = []
        self.old, self.new, memory, parameters = (VolumeIds(*(str(uuid.uuid4()) for _ in range(4))) for _ in range(4))
        self.memory, self.handle = folder / memory.volume_id, (memory, parameters)
        self.folder, self.made = folder, made
        self.away = self.dies_over_freeze = False
        self.leaf = self.old.volume_id
        names = dict(zip(("poolID", "domainID", "imageID", "volumeID"), self.ids(self.old), strict=True))
        metadata = Metadata().with_device({"devtype": "disk", "name": "sda"}, names)
        self.record = with_devices(VmRecord(vm_id="x", name="x", metadata=metadata), self.live("x")[1])
        self.devices = cast(
            Any,
            SimpleNamespace(
                vms=SimpleNamespace(find=lambda vm_id: self.record, get=lambda vm_id: self.record),
                keeper=SimpleNamespace(
                    take_turn=self.take_turn, remember=self.remember, remember_device=lambda *args: None
                ),
                drives=SimpleNamespace(prepare=self.prepare, teardown=lambda ids: self.events.append("given back")),
                connection=None,
                turns=SimpleNamespace(turn=self.turn),
                changed=lambda vm_id: None,
                live=self.live,
            ),
        )
        self.hooks = cast(Any, SimpleNamespace(volume_prepared=lambda record, ids, prepared, failed: prepared))

    @staticmethod
    def ids(ids: VolumeIds) -> tuple[str, ...]:
        return ids.pool_id, ids.sd_id, ids.image_id, ids.volume_id

    def live(self, vm_id: str) -> tuple[Any, ET.Element]:
        disk = f'<disk device="disk"><target dev="sda"/><source file="/x/{self.leaf}"/></disk>'
        return self, ET.fromstring(f"<domain><devices>{disk}</devices></domain>")

    def prepare(self, ids: VolumeIds) -> Any:
        path = self.folder / ids.volume_id
        path.touch()
        return SimpleNamespace(path=str(path), format="cow", block=False, chain=[])

    def remember(self, vm_id: str, **values: Any) -> None:
        metadata = self.record.metadata.with_values(**values)
        self.record = with_devices(VmRecord(vm_id="x", name="x", metadata=metadata), self.live("x")[1])

    def backupGetXMLDesc(self, flags: int) -> str:
        return ""

    def XMLDesc(self, flags: int) -> str:
        return ET.tostring(self.live("x")[1], "unicode")

    def snapshotCreateXML(self, text: str, flags: int) -> None:
        self.die()

    def die(self) -> None:
        self.away = True
        raise refusal(libvirt.VIR_ERR_INTERNAL_ERROR, "end of file", domain=libvirt.VIR_FROM_RPC)

    def take_turn(self, vm_id: str) -> None:
        self.away = False
        self.events.append("decided")
        if self.made:
            self.memory.write_bytes(bytes(5000))
            self.leaf = self.new.volume_id

    @contextmanager
    def turn(self, connection: Any, vm_id: str, answer_s: int) -> Iterator["Vm"]:
        if self.away:
            self.away = False  # it is back the next time
            raise LibvirtUnavailable("end of file")
        yield self

    def fsFreeze(self) -> int:
        self.events.append("frozen")
        if self.dies_over_freeze:
            self.die()
        return 1

    def fsThaw(self) -> int:
        self.events.append("thawed")
        return 1

    def terms(self, memory: tuple[VolumeIds, ...] = ()) -> Terms:
        return Terms("job", began_mono=0.0, timeout_s=1800.0, freeze_s=8, frozen=False, memory=memory)

    def snapshot(self, memory: Memory | None) -> None:
        terms = self.terms(memory.volumes if memory is not None else ())
        wanted = [(Drive("sda", "disk", ids=self.old), self.new)]
        _snapshot(self.devices, self.hooks, "x", terms, wanted, memory)

    def memory_snapshot(self) -> None:
        memory, parameters = (self.ids(ids) for ids in self.handle)
        # One domain and pool for both.
        handle = ",".join((memory[1], memory[0], *memory[2:], *parameters[2:]))
        self.snapshot(Memory(self.devices, "x", handle, 60.0))


def test_the_guest_is_thawed_when_libvirtd_died_over_its_snapshot(tmp_path: Path) -> None:
    vm = Vm(tmp_path)
    vm.snapshot(None)
    assert vm.events == ["frozen", "thawed", "decided"]


def test_the_guest_is_thawed_when_libvirtd_died_over_its_freeze(tmp_path: Path) -> None:
    vm = Vm(tmp_path, made=False)
    vm.dies_over_freeze = True
    with pytest.raises(LibvirtUnavailable):
        vm.snapshot(None)
    assert vm.events[:2] == ["frozen", "thawed"]


def test_memory_is_whole_and_storages_when_libvirt_is_done_with_it(tmp_path: Path) -> None:
    vm = Vm(tmp_path)
    vm.memory_snapshot()
    assert vm.events == ["decided", "given back", "given back"]
    assert vm.memory.stat().st_size == 8192


def test_memory_of_a_snapshot_that_never_came_is_given_back_when_that_is_known(tmp_path: Path) -> None:
    vm = Vm(tmp_path, made=False)
    with pytest.raises(LibvirtUnavailable):
        vm.memory_snapshot()
    assert vm.events[:3] == ["decided", "given back", "given back"]
    assert vm.record.metadata.get(KEY) is None


def test_memory_that_a_dead_worker_left_is_made_whole(tmp_path: Path) -> None:
    vm = Vm(tmp_path)
    params = {
        key: dict(zip(("poolID", "domainID", "imageID", "volumeID"), vm.ids(ids), strict=True))
        for key, ids in zip(("dst", "dstparams"), vm.handle, strict=True)
    }
    new = {"sda": {"volumeID": vm.new.volume_id}}
    vm.remember("x", **{KEY: json.dumps({"jobUUID": "job", "memoryParams": params, "newDrives": new})})
    background = HeldBackground()
    jobs = Jobs(background, cast(Any, SimpleNamespace(publish=lambda event: None)), "virt")
    finish_snapshot(vm.devices, jobs, Again(background), "x")
    background.run_all()
    assert vm.events == ["decided", "given back", "given back"]
    assert vm.memory.stat().st_size == 8192
    assert jobs.infos(["job"])["job"]["status"] == "done"
