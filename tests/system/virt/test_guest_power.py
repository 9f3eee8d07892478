# SPDX-License-Identifier: Apache-2.0
"""A Linux guest that its agent reboots and shuts down.

With a guest of its own: a balloon that another test has set takes memory from what a guest boots with, though it was
given more by plugging.
"""

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


def test_the_agent_reboots_its_guest_and_the_vm_stays(life: Life) -> None:
    pid, boots = life.guest.libvirtd.qemu_pid(f"vm-{life.vm_id[:8]}"), life.guest.said.count("GUEST: ready")
    life.vm("shutdown", delay="0", message="", timeout="60", force=False, reboot=True)
    eventually(lambda: life.stats["status"] == "RebootInProgress", within_s=60, every_s=0.1)
    eventually(lambda: life.guest.said.count("GUEST: ready") == boots + 1, within_s=90, every_s=0.3)
    assert "GUEST: shutdown -h -r" in life.guest.said
    eventually(lambda: life.guest.agent("guest-fsfreeze-status") == "thawed", within_s=60, every_s=0.3)
    assert float(life.guest.run("cat /proc/uptime").split()[0]) < 90
    # Not only a minute after it: its agent is there.
    eventually(lambda: life.stats["status"] == "Up", within_s=5, every_s=0.1)
    assert life.guest.libvirtd.qemu_pid(f"vm-{life.vm_id[:8]}") == pid


def test_the_agent_shuts_its_guest_down(life: Life) -> None:
    life.vm("shutdown", delay="0", message="", timeout="60", force=False)
    down = sequences.wait_for_status(life.ask, life.vm_id, "Down")
    assert (down["exitCode"], down["exitReason"]) == (0, 7)
    assert "GUEST: shutdown -h -P" in life.guest.said
    life.vm("destroy")
