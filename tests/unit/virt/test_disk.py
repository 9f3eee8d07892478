# SPDX-License-Identifier: Apache-2.0
"""Media that change while libvirt hangs or its caller dies: the volume that QEMU uses is never given back."""

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.background import HeldBackground
from vdsm_mp.api.errors_virt import VmNotResponding, VmUndecided
from vdsm_mp.common import xml
from vdsm_mp.virt import patience
from vdsm_mp.virt.disk import Changes
from vdsm_mp.virt.domxml_parse import volume_ids
from vdsm_mp.virt.keeping import with_devices
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import VmRecord, VolumeIds

CD = {"devtype": "disk", "name": "hdc"}


def names(ids: VolumeIds) -> dict[str, str]:
    return {"poolID": ids.pool_id, "domainID": ids.sd_id, "imageID": ids.image_id, "volumeID": ids.volume_id}


class Vm:
    """A VM with a CD, `first` of three, and all that a change of it works with.

    at_update: what happens when libvirt is asked. late: what libvirt has put in by the time that it is done.
    """

    def __init__(self) -> None:
        self.first, self.second, self.third = (VolumeIds(*(str(uuid.uuid4()) for _ in range(4))) for _ in range(3))
        self.inside = self.first
        self.late: VolumeIds | None = None
        self.hangs = False
        self.at_update: Callable[[VolumeIds], None] = self.put_in
        self.given_back: list[VolumeIds] = []
        self.background = HeldBackground()
        self.take(Metadata().with_device(CD, names(self.first)))
        devices = SimpleNamespace(
            vms=SimpleNamespace(
                running=lambda vm_id, what: self.record, find=lambda vm_id: self.record, get=lambda vm_id: self.record
            ),
            keeper=SimpleNamespace(take_turn=self.take_turn, remember_device=self.remember_device),
            drives=SimpleNamespace(
                prepare=lambda ids: SimpleNamespace(path=self.path(ids), format="raw", block=False, chain=[]),
                teardown=self.given_back.append,
                owe=self.given_back.append,
            ),
            live=self.live,
            update=self.update,
            changed=lambda vm_id: None,
        )
        hooks = SimpleNamespace(disk_prepared=lambda record, ids, prepared, failed: prepared)
        self.changes = Changes(cast(Any, devices), cast(Any, hooks), self.background)

    @staticmethod
    def path(ids: VolumeIds) -> str:
        return f"/x/{ids.image_id}/{ids.volume_id}"

    def live(self, vm_id: str) -> tuple[Any, ET.Element]:
        source = f'<source file="{self.path(self.inside)}"/>'
        disk = f'<disk type="file" device="cdrom">{source}<target dev="hdc" bus="ide"/></disk>'
        return self, ET.fromstring(f"<domain><devices>{disk}</devices></domain>")

    def take(self, metadata: Metadata) -> None:
        self.record = with_devices(VmRecord(vm_id="x", name="x", metadata=metadata), self.live("x")[1])

    def remember_device(self, vm_id: str, identity: dict[str, str], data: dict[str, Any] | None) -> None:
        self.take(self.record.metadata.with_device(identity, data))

    def take_turn(self, vm_id: str) -> None:
        if self.hangs:
            raise VmNotResponding("it hangs")
        if self.late is not None:
            self.inside, self.late = self.late, None

    def update(self, vm_id: str, dom: Any, disk: ET.Element, failed: Any, *, force: bool) -> None:
        path = xml.attributes(disk.find("source"))["file"]
        self.at_update(next(ids for ids in (self.first, self.second, self.third) if self.path(ids) == path))

    def put_in(self, ids: VolumeIds) -> None:
        self.inside = ids

    def left_unanswered(self, ids: VolumeIds) -> None:
        raise VmNotResponding("it hangs")

    def change(self, ids: VolumeIds) -> None:
        self.changes.change("x", names(ids), "cdrom")

    def dies_over(self, ids: VolumeIds) -> None:
        """A worker of before has noted that it changes the CD."""
        self.take(self.record.metadata.with_device(CD, names(self.inside) | {"change": names(ids)}))

    @property
    def noted(self) -> tuple[VolumeIds | None, bool]:
        """(what the metadata say is in it, is it changing)"""
        data = self.record.metadata.device(**CD)
        return volume_ids(data), "change" in data


def test_a_change_that_libvirt_left_unanswered_is_done_when_it_was() -> None:
    vm = Vm()
    vm.at_update, vm.late = vm.left_unanswered, vm.second
    vm.change(vm.second)
    assert vm.noted == (vm.second, False)
    assert vm.given_back == [vm.first]


@pytest.mark.parametrize("done", [True, False])
def test_a_change_that_stays_undecided_costs_no_thread_and_is_settled_later(
    done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "DECIDES_S", 0.3)
    vm = Vm()
    vm.at_update, vm.late, vm.hangs = vm.left_unanswered, vm.second if done else None, True
    with pytest.raises(VmUndecided):
        vm.change(vm.second)
    assert vm.given_back == [] and vm.noted == (vm.first, True)
    with pytest.raises(VmNotResponding):
        vm.change(vm.third)
    vm.hangs = False
    vm.background.run_all()
    assert vm.noted == (vm.second if done else vm.first, False)
    assert vm.given_back == [vm.third, vm.first if done else vm.second][1:]


def test_a_change_that_libvirt_left_unanswered_has_failed_when_it_was_not_done() -> None:
    vm = Vm()
    vm.at_update = vm.left_unanswered
    with pytest.raises(VmNotResponding):
        vm.change(vm.second)
    assert vm.noted == (vm.first, False)
    assert vm.given_back == [vm.second]


@pytest.mark.parametrize("done", [True, False])
def test_what_a_dead_worker_was_changing_is_judged_when_libvirt_is_done_with_it(done: bool) -> None:
    vm = Vm()
    vm.dies_over(vm.second)
    vm.late = vm.second if done else None
    vm.changes.look("x")
    assert vm.noted == (vm.first, True)  # nobody waits for it
    vm.background.run_all()
    assert vm.noted == (vm.second if done else vm.first, False)
    assert vm.given_back == [vm.first if done else vm.second]


def test_a_look_leaves_a_change_to_whoever_makes_it() -> None:
    vm = Vm()

    def reconnected_just_before(ids: VolumeIds) -> None:
        vm.changes.look("x")
        vm.background.run_all()
        assert vm.noted == (vm.first, True)
        vm.put_in(ids)

    vm.at_update = reconnected_just_before
    vm.change(vm.second)
    assert vm.noted == (vm.second, False)
    assert vm.given_back == [vm.first]


def test_a_change_begins_with_what_a_dead_worker_left() -> None:
    vm = Vm()
    vm.dies_over(vm.second)
    vm.late = vm.second
    vm.change(vm.third)
    assert vm.noted == (vm.third, False)
    assert vm.given_back == [vm.first, vm.second]
