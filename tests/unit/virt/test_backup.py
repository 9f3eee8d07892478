# SPDX-License-Identifier: Apache-2.0
"""Backups that begin while something else fails: no guest stays frozen, and no backup runs that was told as failed."""

import contextlib
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
from vdsm_mp.api.errors_virt import BackupFailed, LibvirtUnavailable, NoSuchBackup, VmNotResponding
from vdsm_mp.api.vm_backup import StartBackup
from vdsm_mp.virt import patience
from vdsm_mp.virt.backup import Backups, _running, start_backup
from vdsm_mp.virt.backup_files import BackupFiles
from vdsm_mp.virt.backup_freeze import Freezes
from vdsm_mp.virt.keeping import with_devices
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.patience import Again
from vdsm_mp.virt.records import VmRecord

VM_ID = str(uuid.uuid4())
VOLUME = {key: str(uuid.uuid4()) for key in ("poolID", "domainID", "imageID", "volumeID")}
LIVE = '<domain><devices><disk device="disk"><target dev="sda"/></disk></devices></domain>'


class Vm:
    """A VM with one disk and an agent, its domain, and all that a backup works with. `freezes_end`, `thaws`: how the
    next ones end.
    """

    def __init__(self, folder: Path) -> None:
        metadata = Metadata().with_device({"devtype": "disk", "name": "sda"}, VOLUME)
        self.record = with_devices(VmRecord(vm_id=VM_ID, name="x", metadata=metadata), ET.fromstring(LIVE))
        self.frozen = False
        self.noted_at_freeze: list[bool] = []
        self.freezes_end: list[Exception] = []
        self.thaws: list[Exception] = []
        self.backup: str | None = None
        self.tells: list[Exception] = []
        self.checkpoints: set[str] = set()
        self.deletions: list[Exception] = []
        self.background = HeldBackground()
        tools = SimpleNamespace(
            vms=SimpleNamespace(running=lambda vm_id, what: self.record, get=lambda vm_id: self.record),
            keeper=SimpleNamespace(take_turn=self.take_turn, remember=self.remember),
            connection=SimpleNamespace(domain=lambda vm_id: self),
            turns=SimpleNamespace(turn=self.turn),
        )
        again = Again(self.background)
        self.freezes = Freezes(cast(Any, tools), again)
        files = BackupFiles(folder / "run", folder / "scratch")
        self.backups = Backups(cast(Any, tools), self.freezes, files, again)
        self.hangs: list[Exception] = []

    def take_turn(self, vm_id: str) -> None:
        if self.hangs:
            raise self.hangs[0]

    @property
    def noted(self) -> bool:
        return self.record.metadata.flag("backup_freeze")

    @contextmanager
    def turn(self, connection: Any, vm_id: str, answer_s: int) -> Iterator["Vm"]:
        yield self

    def remember(self, vm_id: str, **values: Any) -> None:
        metadata = self.record.metadata.with_values(**values)
        self.record = with_devices(VmRecord(vm_id=VM_ID, name="x", metadata=metadata), ET.fromstring(LIVE))

    def fsFreeze(self) -> int:
        self.noted_at_freeze.append(self.noted)
        self.frozen = True
        if self.freezes_end:
            raise self.freezes_end.pop(0)
        return 1

    def fsThaw(self) -> int:
        if self.thaws:
            raise self.thaws.pop(0)
        self.frozen = False
        return 1

    def blockInfo(self, name: str) -> list[int]:
        return [1 << 20, 0, 0]

    def backupBegin(self, request: str, checkpoint: str | None, flags: int) -> None:
        self.backup = request
        if checkpoint is not None:
            self.checkpoints.add(ET.fromstring(checkpoint).findtext("name", ""))

    def backupGetXMLDesc(self, flags: int) -> str:
        if self.backup is None:
            raise refusal(libvirt.VIR_ERR_NO_DOMAIN_BACKUP)
        if self.tells:
            raise self.tells.pop(0)
        return self.backup

    def abortJob(self) -> None:
        self.backup = None

    def checkpointLookupByName(self, name: str) -> Any:
        return SimpleNamespace(delete=lambda: self.delete(name))

    def delete(self, checkpoint: str) -> None:
        if self.deletions:
            raise self.deletions.pop(0)
        self.checkpoints.remove(checkpoint)

    def start(self, to: str = "") -> str:
        backup_id = str(uuid.uuid4())
        disks = [VOLUME | {"scratch_disk": {"path": "/scratch", "type": "file"}}]
        start_backup(
            self.backups,
            StartBackup(vm_id=VM_ID, config={"backup_id": backup_id, "disks": disks, "to_checkpoint_id": to}),
        )
        return backup_id


@pytest.mark.parametrize("code", [libvirt.VIR_ERR_AGENT_UNRESPONSIVE, libvirt.VIR_ERR_INTERNAL_ERROR])
def test_an_agent_that_does_not_thaw_is_asked_again_and_the_backup_goes_on(tmp_path: Path, code: int) -> None:
    vm = Vm(tmp_path)
    vm.thaws = [refusal(code)]
    backup_id = vm.start()
    assert vm.noted_at_freeze == [True]
    assert _running(vm.backups, VM_ID, vm, backup_id) is not None
    assert (vm.frozen, vm.noted) == (True, True)
    vm.background.run_all()
    assert (vm.frozen, vm.noted) == (False, False)


@pytest.mark.parametrize("consistent", [False, True])
def test_a_freeze_whose_answer_was_lost_is_thawed(tmp_path: Path, consistent: bool) -> None:
    vm = Vm(tmp_path)
    vm.freezes_end = [LibvirtUnavailable("end of file")]
    with contextlib.suppress(BackupFailed), vm.freezes.frozen(VM_ID, consistent=consistent):
        assert not consistent
    assert (vm.frozen, vm.noted) == (False, False)


def test_what_a_dead_worker_froze_is_thawed_by_the_next_one(tmp_path: Path) -> None:
    vm = Vm(tmp_path)
    with vm.freezes.frozen(VM_ID, consistent=True):
        noted = vm.record
    vm.freezes.look(VM_ID)
    assert vm.background.waiting == []
    vm.record, vm.frozen = noted, True
    vm.freezes.look(VM_ID)
    assert vm.frozen  # nobody waits for an agent
    vm.background.run_all()
    assert (vm.frozen, vm.noted) == (False, False)


def test_a_guest_is_not_thawed_under_the_backup_that_begins(tmp_path: Path) -> None:
    vm = Vm(tmp_path)
    with vm.freezes.frozen(VM_ID, consistent=True):
        vm.freezes.look(VM_ID)
        vm.background.run_all()
        assert vm.frozen
    assert (vm.frozen, vm.noted) == (False, False)


def test_a_backup_that_runs_but_cannot_be_told_of_is_ended(tmp_path: Path) -> None:
    vm = Vm(tmp_path)
    vm.tells = [refusal(libvirt.VIR_ERR_INTERNAL_ERROR)]
    with pytest.raises(BackupFailed):
        vm.start()
    assert vm.backup is None
    with pytest.raises(NoSuchBackup):
        _running(vm.backups, VM_ID, vm, str(uuid.uuid4()))


def test_the_checkpoint_of_a_backup_that_is_ended_goes_though_libvirt_was_away_at_first(tmp_path: Path) -> None:
    vm = Vm(tmp_path)
    vm.tells, vm.deletions = [refusal(libvirt.VIR_ERR_INTERNAL_ERROR)], [refusal(libvirt.VIR_ERR_OPERATION_TIMEOUT)]
    with pytest.raises(BackupFailed):
        vm.start(str(uuid.uuid4()))
    assert (vm.backup, vm.checkpoints, vm.deletions) == (None, set(), [])


def test_a_start_that_stays_undecided_costs_no_thread_and_is_taken_back_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "DECIDES_S", 0.3)
    vm = Vm(tmp_path)
    vm.tells, vm.hangs = [refusal(libvirt.VIR_ERR_OPERATION_TIMEOUT)], [VmNotResponding("it hangs")]
    to = str(uuid.uuid4())
    with pytest.raises(VmNotResponding):
        vm.start(to)
    assert vm.backup is not None and vm.checkpoints == {to}
    vm.hangs = [LibvirtUnavailable("end of file")]
    vm.background.waiting.pop(0)[1]()
    assert vm.backup is not None
    vm.hangs = []
    vm.background.run_all()
    assert (vm.backup, vm.checkpoints) == (None, set())
