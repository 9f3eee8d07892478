# SPDX-License-Identifier: Apache-2.0
"""The clock of a Linux guest: told when the guest sets it, and set by its agent when the guest stood still.

With a guest of its own: one whose clock jumps is no ground for other tests.
"""

import time

import pytest

from demonstration import sequences
from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.system.virt.test_guest import Life, life

__all__ = ["life"]

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(180),
    needs_root(),
    needs_program("libvirtd", "qemu-system-x86_64", "qemu-ga", "busybox", "cpio", "unshare", "nsenter"),
]


def test_a_guest_that_stood_still_gets_the_right_time(life: Life) -> None:
    def is_right() -> bool:
        return abs(int(life.guest.run("date +%s")) - time.time()) < 30

    life.guest.run("date -s @1000000000")
    assert not is_right()
    life.vm("pause")
    life.vm("cont")
    eventually(is_right, within_s=30, every_s=0.5)


def test_the_offset_of_a_clock_that_the_guest_has_set_is_told(life: Life) -> None:
    wanted = 1_000_000_000
    try:
        life.guest.run(f"date -s @{wanted}; hwclock -w -u")
        eventually(lambda: abs(int(life.stats["timeOffset"]) - (wanted - time.time())) < 60, within_s=10)
    finally:
        life.guest.run(f"date -s @{int(time.time())}; hwclock -w -u")
    eventually(lambda: abs(int(life.stats["timeOffset"])) < 60, within_s=10)


def test_a_guest_that_slept_wakes_with_the_right_time(life: Life) -> None:
    life.guest.run("date -s @1000000000")
    memory, parameters = (
        sequences.Disk(life.disk.storage, size_bytes=size, form=sequences.RAW) for size in (256 << 20, 1 << 20)
    )
    for disk, name in ((memory, "memory"), (parameters, "parameters")):
        sequences.create_disk(life.ask, disk, name)
    ids = memory.ids()
    handle = [ids["domainID"], ids["poolID"], memory.image_id, memory.volume_id, parameters.image_id]
    life.vm("hibernate", hibernationVolHandle=",".join([*handle, parameters.volume_id]))
    description = life.xml
    sequences.wait_for_status(life.ask, life.vm_id, "Down")
    life.vm("destroy")
    wish = {"vmId": life.vm_id, "xml": description, "memoryDumpVolume": ids, "memoryConfVolume": parameters.ids()}
    life.vm("create", vmParams=wish)
    sequences.wait_for_status(life.ask, life.vm_id, "Powering up", "Up")
    eventually(lambda: abs(int(life.guest.run("date +%s")) - time.time()) < 30, within_s=60, every_s=0.5)
