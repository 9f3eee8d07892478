# SPDX-License-Identifier: Apache-2.0
"""A replication that cannot begin: what was prepared for it is given back, and nothing goes on."""

import uuid
import xml.etree.ElementTree as ET
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from tests.support.background import HeldBackground
from tests.support.libvirt_refusal import refusal
from vdsm_mp.api.errors_virt import ReplicaFailed
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
            keeper=SimpleNamespace(
                await_turn=lambda vm_id: None, take_turn=lambda vm_id: None, remember_device=self.remember_device
            ),
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
