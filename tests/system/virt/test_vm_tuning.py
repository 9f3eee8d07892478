# SPDX-License-Identifier: Apache-2.0
"""Limits of a running VM: applied at once, told back, kept in its definition."""

import pytest

from tests.support import decode
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import VirtRoom
from tests.system.virt.conftest import NewGuest
from vdsm_mp.api.errors_virt import IoTuneFailed

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]


def test_a_policy_is_applied_stored_and_told(room: VirtRoom, new_guest: NewGuest, libvirtd: PrivateLibvirtd) -> None:
    guest = new_guest(room)
    limits = {"total_bytes_sec": "1048576", "total_iops_sec": 0}
    policy = {"vcpuLimit": "50", "ioTune": [{**guest.disk, "guaranteed": {}, "maximum": limits}]}
    decode.check_status(room.call("VM.updateVmPolicy", vmID=guest.vm_id, params=policy))

    (stored,) = room.call("VM.getIoTunePolicy", vmID=guest.vm_id)
    assert (stored["name"], stored["maximum"]["total_bytes_sec"]) == ("hda", 1048576)
    (current,) = room.call("VM.getIoTune", vmID=guest.vm_id)
    assert current["ioTune"]["total_bytes_sec"] == 1048576
    assert room.call("Host.getAllVmIoTunePolicies") == {guest.vm_id: {"policy": [stored], "current_values": [current]}}
    stats = decode.check_vm_stats(room.stats(guest.vm_id), running=True)
    assert (stats["vcpuUserLimit"], stats["ioTune"]) == ("50", [current])
    assert "vcpuLimit>50<" in libvirtd.virsh("dumpxml", "--inactive", guest.name)

    tunable = {"name": "hda", "ioTune": {"read_iops_sec": 100}}
    decode.check_status(room.call("VM.setIoTune", vmID=guest.vm_id, tunables=[tunable]))
    assert room.stats(guest.vm_id)["ioTune"][0]["ioTune"]["read_iops_sec"] == 100
    for wrong in (
        {"name": "hdz", "ioTune": {}}, {"name": "hda"},
        {"name": "hda", "ioTune": {"read_iops_sec": "many"}}, {"name": "hda", "ioTune": {"read_iops_sec": "9" * 30}},
    ):  # fmt: skip
        with pytest.raises(IoTuneFailed):
            room.call("VM.setIoTune", vmID=guest.vm_id, tunables=[wrong])
