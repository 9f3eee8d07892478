# SPDX-License-Identifier: Apache-2.0
"""What a guest calls its disks: found by serial numbers that hardware cuts off, and part of the devices' hash."""

import pytest
from msgspec.structs import replace

from vdsm_mp.common import xml
from vdsm_mp.virt import domxml_parse, guestdisks
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import Devices, Drive, VmRecord

SERIAL = "28bd0a5d-6f0e-4b5c-9a1e-0123456789ab"
DRIVE = Drive(name="vda", device="disk", serial=SERIAL)
DOMAIN = f'<domain><devices><disk device="disk"><target dev="vda"/><serial>{SERIAL}</serial></disk></devices></domain>'


@pytest.mark.parametrize(
    ("serial", "found"),
    [
        (SERIAL[:20], {"vda": "/dev/sda"}),
        (f"0QEMU_QEMU_HARDDISK_{SERIAL}", {"vda": "/dev/sda"}),
        (SERIAL[:19], {}),
        ("other", {}),
    ],
    ids=["virtio", "scsi", "too short", "another"],
)
def test_a_disk_is_known_by_what_its_bus_leaves_of_its_serial_number(serial: str, found: dict[str, str]) -> None:
    record = VmRecord(vm_id="x", name="x", devices=Devices(drives=(DRIVE,)))
    assert guestdisks.names(record, {serial: {"name": "/dev/sda"}}) == found


@pytest.mark.parametrize("told", [None, {}, {"name": ""}, {"name": 1}, "x"])
def test_nonsense_of_a_guest_names_no_disk(told: object) -> None:
    record = VmRecord(vm_id="x", name="x", devices=Devices(drives=(DRIVE, replace(DRIVE, name="vdb", serial=""))))
    assert guestdisks.names(record, {SERIAL: told, "": {"name": "/dev/x"}}) == {}


def test_the_hash_changes_with_the_name_and_is_the_same_as_long_as_it_stays() -> None:
    domain, empty = xml.parse(DOMAIN), Metadata()
    named = empty.with_device({"devtype": "disk", "name": "vda"}, {"guestName": "/dev/vda"})
    renamed = empty.with_device({"devtype": "disk", "name": "vda"}, {"guestName": "/dev/vdb"})
    hashes = [domxml_parse.devices(domain, metadata).hash for metadata in (empty, named, renamed, named)]
    assert len(set(hashes)) == 3
    assert hashes[1] == hashes[3]
