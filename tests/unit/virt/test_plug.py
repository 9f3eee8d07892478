# SPDX-License-Identifier: Apache-2.0
"""What a plug takes for plugged already, when a device came or went beside it."""

import uuid
import xml.etree.ElementTree as ET
from types import SimpleNamespace
from typing import Any, cast

from tests.support.background import HeldBackground
from vdsm_mp.api.errors_virt import HotunplugDiskFailed
from vdsm_mp.virt.keeping import with_devices
from vdsm_mp.virt.leftovers import Leftovers
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.patience import Again
from vdsm_mp.virt.plug import Plugger, Removals
from vdsm_mp.virt.records import VmRecord, VolumeIds

VOLUME = {key: str(uuid.uuid4()) for key in ("poolID", "domainID", "imageID", "volumeID")}
SDA, SDB = (f'<disk><target dev="{name}"/></disk>' for name in ("sda", "sdb"))
CARD = '<interface><mac address="56:6F:00:00:00:01"/></interface>'


def domain(*devices: str) -> ET.Element:
    return ET.fromstring(f"<domain><devices>{''.join(devices)}</devices></domain>")


def plugged(known: ET.Element, live: ET.Element) -> tuple[list[str], list[str]]:
    """(disks, cards) that `to_plug` tells, of a VM that is known so and is so."""
    record = with_devices(VmRecord(vm_id="x", name="x"), known)
    vms = SimpleNamespace(running=lambda vm_id, what: record, get=lambda vm_id: record)
    keeper = SimpleNamespace(refresh=lambda vm_id: with_devices(record, live), take_turn=lambda vm_id: None)
    devices = SimpleNamespace(vms=vms, keeper=keeper, live=lambda vm_id: (None, live))
    found = Plugger(cast(Any, devices), Removals(), cast(Any, None)).to_plug("x", "plug a disk").devices
    return [drive.name for drive in found.drives], [card.mac for card in found.nics]


def test_what_a_dead_worker_plugged_is_known_before_the_next_plug() -> None:
    assert plugged(domain(SDA), domain(SDA, SDB))[0] == ["sda", "sdb"]
    assert plugged(domain(SDA), domain(SDA, CARD))[1] == ["56:6f:00:00:00:01"]


def test_what_has_just_left_counts_as_plugged_until_it_is_given_back() -> None:
    assert plugged(domain(SDA, SDB), domain(SDA))[0] == ["sda", "sdb"]


class Guest:
    """Lets its device go just when nobody waits any more: libvirt has told how the VM is, then that it went."""

    def __init__(self) -> None:
        self.removals = Removals()
        devices = SimpleNamespace(connection=SimpleNamespace(domain=lambda vm_id: self), live=self.live)
        self.plugger = Plugger(cast(Any, devices), self.removals, cast(Any, None), unplug_s=0)
        self.live_xml = domain('<disk><target dev="sda"/><alias name="ua-1"/></disk>')
        self.disk = next(self.live_xml.iter("disk"))
        self.waited_for: list[bool] = []

    def detachDeviceFlags(self, text: str, flags: int) -> None:
        return

    def live(self, vm_id: str) -> tuple[Any, ET.Element]:
        self.waited_for.append(self.removals.gone(vm_id, "ua-1"))
        return self, self.live_xml


def test_a_device_that_goes_in_the_last_moment_has_gone() -> None:
    guest = Guest()
    guest.plugger._detach("x", guest.disk, HotunplugDiskFailed)
    assert guest.plugger.release("x", {"sda": guest.disk}) == ["sda"]
    assert guest.waited_for == [True, True]
    assert not guest.removals.gone("x", "ua-1")


def test_what_is_noted_and_about_to_be_plugged_is_not_taken_for_a_dead_workers() -> None:
    """A hook of the host may take its time between the two."""
    metadata = Metadata().with_device({"devtype": "disk", "name": "sdb"}, VOLUME)
    records = [with_devices(VmRecord(vm_id="x", name="x", metadata=metadata), domain(SDA))]
    given_back: list[VolumeIds] = []

    def remember(vm_id: str, identity: dict[str, str], data: Any) -> None:
        now = records[-1].metadata.with_device(identity, data)
        records.append(with_devices(VmRecord(vm_id="x", name="x", metadata=now), domain(SDA)))

    devices = SimpleNamespace(
        vms=SimpleNamespace(get=lambda vm_id: records[-1], find=lambda vm_id: records[-1]),
        keeper=SimpleNamespace(take_turn=lambda vm_id: None, remember_device=remember),
        drives=SimpleNamespace(teardown=given_back.append),
        transients=SimpleNamespace(remove=lambda vm_id, ids: None),
        live=lambda vm_id: (None, domain(SDA)),
    )
    plugger = Plugger(cast(Any, devices), Removals(), cast(Any, None))
    remains = Leftovers(cast(Any, devices), Again(HeldBackground()), plugger.is_coming)
    with plugger.remembered("x", {"devtype": "disk", "name": "sdc"}, VOLUME):
        remains.clear("x")
        assert [name["name"] for name, _ in records[-1].metadata.all_devices()] == ["sdc"]
    assert [ids.volume_id for ids in given_back] == [VOLUME["volumeID"]]
    remains.clear("x")
    assert records[-1].metadata.all_devices() == []
