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


@pytest.fixture
def running(life: Life) -> Life:
    """Another test may have ended it."""
    if life.vm_id not in {entry["vmId"] for entry in life.ask("Host.getVMList")}:
        life.start()
    return life


def test_the_agent_reboots_its_guest_and_the_vm_stays(running: Life) -> None:
    pid, boots = running.guest.libvirtd.qemu_pid(f"vm-{running.vm_id[:8]}"), running.guest.said.count("GUEST: ready")
    running.vm("shutdown", delay="0", message="", timeout="60", force=False, reboot=True)
    eventually(lambda: running.stats["status"] == "RebootInProgress", within_s=60, every_s=0.1)
    eventually(lambda: running.guest.said.count("GUEST: ready") == boots + 1, within_s=90, every_s=0.3)
    assert "GUEST: shutdown -h -r" in running.guest.said
    eventually(lambda: running.guest.agent("guest-fsfreeze-status") == "thawed", within_s=60, every_s=0.3)
    assert float(running.guest.run("cat /proc/uptime").split()[0]) < 90
    # Not only a minute after it: its agent is there.
    eventually(lambda: running.stats["status"] == "Up", within_s=5, every_s=0.1)
    assert running.guest.libvirtd.qemu_pid(f"vm-{running.vm_id[:8]}") == pid


def test_the_agent_shuts_its_guest_down(running: Life) -> None:
    running.vm("shutdown", delay="0", message="", timeout="60", force=False)
    down = sequences.wait_for_status(running.ask, running.vm_id, "Down")
    assert (down["exitCode"], down["exitReason"]) == (0, 7)
    assert "GUEST: shutdown -h -P" in running.guest.said
    running.vm("destroy")
