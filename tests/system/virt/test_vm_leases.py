# SPDX-License-Identifier: Apache-2.0
"""Leases of a running VM. This libvirtd has no lock manager: shown is that the device and its place are right."""

import uuid

import pytest

from tests.support import decode
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom
from tests.system.virt.conftest import NewGuest
from vdsm_mp.api.errors_virt import HotplugLeaseFailed, HotunplugLeaseFailed

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]


def test_leases_are_there_from_the_start_and_come_and_go(
    room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd
) -> None:
    first, second, space = (str(uuid.uuid4()) for _ in range(3))
    room.storage.leases.update({first: ("/rhev/xleases", 3 << 20), second: ("/rhev/xleases", 4 << 20)})
    place = f'<target path="LEASE-PATH:{first}:{space}" offset="LEASE-OFFSET:{first}:{space}"/>'
    guest = new_guest(room, devices=f"<lease><key>{first}</key><lockspace>{space}</lockspace>{place}</lease>")
    assert "<target path='/rhev/xleases' offset='3145728'/>" in libvirtd.virsh("dumpxml", guest.name)

    lease, before = {"sd_id": space, "lease_id": second, "type": "lease"}, room.stats(guest.vm_id)["hash"]
    decode.check_vm_definition(room.call("VM.hotplugLease", vmID=guest.vm_id, lease=lease))
    live = libvirtd.virsh("dumpxml", guest.name)
    assert f"<key>{second}</key>" in live
    assert "offset='4194304'" in live
    assert room.stats(guest.vm_id)["hash"] != before
    with pytest.raises(HotplugLeaseFailed, match="already"):
        room.call("VM.hotplugLease", vmID=guest.vm_id, lease=lease)
    decode.check_vm_definition(room.call("VM.hotunplugLease", vmID=guest.vm_id, lease=lease))
    assert f"<key>{second}</key>" not in libvirtd.virsh("dumpxml", guest.name)
    with pytest.raises(HotunplugLeaseFailed):
        room.call("VM.hotunplugLease", vmID=guest.vm_id, lease=lease)
    unknown = {"sd_id": space, "lease_id": str(uuid.uuid4())}
    with pytest.raises(HotplugLeaseFailed, match=unknown["lease_id"]):
        room.call("VM.hotplugLease", vmID=guest.vm_id, lease=unknown)
