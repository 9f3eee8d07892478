# SPDX-License-Identifier: Apache-2.0
"""Processors of the host that one VM has alone: others leave them when it comes, and have them back when it goes."""

import os
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.needs import lacks, needs_program, needs_root
from tests.support.virt_room import VirtRoom
from tests.system.virt.conftest import Guest, NewGuest
from vdsm_mp.virt.cpusets import numbers

pytestmark = [pytest.mark.system, needs_root(), needs_program("libvirtd", "qemu-system-x86_64", "unshare", "nsenter")]

DEDICATED = "<ovirt-vm:cpuPolicy>dedicated</ovirt-vm:cpuPolicy>"


def pins(libvirtd: PrivateLibvirtd, guest: Guest, vcpu: int = 0) -> set[int]:
    return numbers(libvirtd.virsh("vcpupin", guest.name, str(vcpu)).split()[-1])


@pytest.fixture
def cpus() -> list[int]:
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        lacks("two processors")
    return found


def test_others_make_room_for_a_vm_that_has_a_processor_alone(
    room: VirtRoom, new_guest: NewGuest, folder: Path, libvirtd: PrivateLibvirtd, cpus: list[int]
) -> None:
    everybody, rest, alone = set(cpus), set(cpus[:-1]), cpus[-1]
    before = new_guest(room)
    assert pins(libvirtd, before) == everybody
    owner = new_guest(room, metadata=DEDICATED, cputune=f'<vcpupin vcpu="0" cpuset="{alone}"/>')
    eventually(lambda: pins(libvirtd, before) == rest, within_s=10)
    assert pins(libvirtd, owner) == {alone}
    after = new_guest(room)
    eventually(lambda: pins(libvirtd, after) == rest, within_s=10)
    manual = new_guest(room, cputune=f'<vcpupin vcpu="1" cpuset="{alone}"/>')
    eventually(lambda: pins(libvirtd, manual) == rest, within_s=10)
    assert pins(libvirtd, manual, 1) == {alone}, "what the engine pinned stays so"

    room.call("VM.setNumberOfCpus", vmID=before.vm_id, numberOfCpus=2)
    eventually(lambda: pins(libvirtd, before, 1) == rest, within_s=10)

    room.close()
    with VirtRoom(libvirtd.uri, folder) as next_life:
        next_life.call("VM.destroy", vmID=owner.vm_id, gracefulAttempts=0)
        for guest in (before, after, manual):
            eventually(lambda guest=guest: pins(libvirtd, guest) == everybody, within_s=10)
        assert pins(libvirtd, manual, 1) == {alone}
        for guest in (before, after, manual):
            next_life.call("VM.destroy", vmID=guest.vm_id, gracefulAttempts=0)
