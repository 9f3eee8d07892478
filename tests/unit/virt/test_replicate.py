# SPDX-License-Identifier: Apache-2.0
"""A replication that cannot begin: what was prepared for it is given back, nothing goes on, and the next one may."""

import contextlib
import threading
import uuid
import xml.etree.ElementTree as ET
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from tests.support.background import HeldBackground
from tests.support.libvirt_refusal import refusal
from vdsm_mp.api.errors_virt import LibvirtUnavailable, ReplicaFailed
from vdsm_mp.virt.keeping import with_devices
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import VmRecord, VolumeIds
from vdsm_mp.virt.replicate import Replications

VOLUME = {key: str(uuid.uuid4()) for key in ("poolID", "domainID", "imageID", "volumeID")}
TARGET = VolumeIds(VOLUME["poolID"], str(uuid.uuid4()), VOLUME["imageID"], VOLUME["volumeID"])
DISK = '<domain><devices><disk><target dev="sda"/></disk></devices></domain>'


class Vm:
    """A VM with one disk that is not there any more when it is to be copied; all that a replication works with."""

    def __init__(self) -> None:
        metadata = Metadata().with_device({"devtype": "disk", "name": "sda"}, VOLUME)
        self.record = with_devices(VmRecord(vm_id="x", name="x", metadata=metadata), ET.fromstring(DISK))
        self.given_back: list[VolumeIds] = []
        self.tools = SimpleNamespace(
            vms=SimpleNamespace(get=lambda vm_id: self.record),
            keeper=SimpleNamespace(take_turn=lambda vm_id: None, remember_device=self.remember_device),
            connection=SimpleNamespace(domain=lambda vm_id: self),
            drives=SimpleNamespace(
                prepare=lambda ids: SimpleNamespace(path="/x", format="raw", block=False, chain=[]),
                teardown=self.given_back.append,
            ),
            live=lambda vm_id: (self, ET.fromstring("<domain><devices/></domain>")),
        )

    def remember_device(self, vm_id: str, identity: dict[str, str], data: dict[str, Any] | None) -> None:
        metadata = self.record.metadata.with_device(identity, data)
        self.record = with_devices(VmRecord(vm_id="x", name="x", metadata=metadata), ET.fromstring(DISK))

    def blockCopy(self, *args: Any) -> None:
        raise refusal(libvirt.VIR_ERR_INVALID_ARG, "invalid argument: disk 'sda' not found in domain")


def test_a_disk_that_has_gone_is_not_looked_for_without_end() -> None:
    vm, background = Vm(), HeldBackground()
    hooks = SimpleNamespace(volume_prepared=lambda record, ids, ready, failed: ready)
    replications = Replications(cast(Any, vm.tools), cast(Any, hooks), cast(Any, background))
    with pytest.raises(ReplicaFailed):
        replications.start(vm.record, vm.record.devices.drives[0], TARGET)
    assert background.waiting == []
    assert vm.given_back == [TARGET]
    assert "diskReplicate" not in vm.record.metadata.device(devtype="disk", name="sda")


class Mirrored(Vm):
    """One whose disk stays, and is copied while libvirt is there."""

    def __init__(self) -> None:
        super().__init__()
        self.away = True
        self.mirrored = False
        self.meanwhile = lambda: None
        self.tools.keeper.take_turn = self.take_turn
        self.tools.live = lambda vm_id: (self, ET.fromstring(self.xml()))
        self.tools.changed = lambda vm_id: None

    def xml(self) -> str:
        return DISK.replace("</disk>", '<mirror ready="yes"/></disk>' if self.mirrored else "</disk>")

    def take_turn(self, vm_id: str) -> None:
        if self.away:
            raise LibvirtUnavailable("libvirtd is away")
        self.meanwhile()

    def blockCopy(self, *args: Any) -> None:
        if self.away:
            raise refusal(libvirt.VIR_ERR_INTERNAL_ERROR, "client socket is closed")
        self.mirrored = True

    def blockJobAbort(self, *args: Any) -> None:
        self.mirrored = False


def test_a_mirror_that_begins_while_a_failed_one_is_undone_is_not_undone_with_it() -> None:
    vm, background = Mirrored(), HeldBackground()
    hooks = SimpleNamespace(volume_prepared=lambda record, ids, ready, failed: ready)
    replications = Replications(cast(Any, vm.tools), cast(Any, hooks), cast(Any, background))
    drive = vm.record.devices.drives[0]
    with pytest.raises(ReplicaFailed):
        replications.start(vm.record, drive, TARGET)
    vm.away = False

    def engine() -> None:
        with contextlib.suppress(ReplicaFailed):
            replications.finish(vm.record, drive, pivot=False)
        replications.start(vm.record, drive, TARGET)
        began.set()

    began, asks = threading.Event(), threading.Thread(target=engine, daemon=True)

    def meanwhile() -> None:
        asks.start()
        began.wait(0.3)  # it may, or waits until this is over

    vm.meanwhile = meanwhile
    background.run_all()
    assert began.wait(10)
    assert vm.mirrored
    assert vm.record.metadata.device(devtype="disk", name="sda")["diskReplicate"] == TARGET.named()
