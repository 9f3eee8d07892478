# SPDX-License-Identifier: Apache-2.0
"""What a plug takes for plugged already, when a device came or went beside it."""

import xml.etree.ElementTree as ET
from types import SimpleNamespace
from typing import Any, cast

from vdsm_mp.virt.keeping import with_devices
from vdsm_mp.virt.plug import Plugger, Removals
from vdsm_mp.virt.records import VmRecord

SDA, SDB = (f'<disk><target dev="{name}"/></disk>' for name in ("sda", "sdb"))
CARD = '<interface><mac address="56:6F:00:00:00:01"/></interface>'


def domain(*devices: str) -> ET.Element:
    return ET.fromstring(f"<domain><devices>{''.join(devices)}</devices></domain>")


def plugged(known: ET.Element, live: ET.Element) -> tuple[list[str], list[str]]:
    """(disks, cards) that `to_plug` tells, of a VM that is known so and is so."""
    record = with_devices(VmRecord(vm_id="x", name="x"), known)
    vms = SimpleNamespace(running=lambda vm_id, what: record, get=lambda vm_id: record)
    keeper = SimpleNamespace(refresh=lambda vm_id: with_devices(record, live), await_turn=lambda vm_id: None)
    devices = SimpleNamespace(vms=vms, keeper=keeper, live=lambda vm_id: (None, live))
    found = Plugger(cast(Any, devices), Removals(), cast(Any, None)).to_plug("x", "plug a disk").devices
    return [drive.name for drive in found.drives], [card.mac for card in found.nics]


def test_what_a_dead_worker_plugged_is_known_before_the_next_plug() -> None:
    assert plugged(domain(SDA), domain(SDA, SDB))[0] == ["sda", "sdb"]
    assert plugged(domain(SDA), domain(SDA, CARD))[1] == ["56:6f:00:00:00:01"]


def test_what_has_just_left_counts_as_plugged_until_it_is_given_back() -> None:
    assert plugged(domain(SDA, SDB), domain(SDA))[0] == ["sda", "sdb"]
