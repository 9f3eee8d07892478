# SPDX-License-Identifier: Apache-2.0
"""A plain Debian 12 with systemd becomes a host of the agent by our provisioning, and is one after a reboot, too, until
nothing of the agent is left by `scripts/uninstall --purge`.

The provisioning itself runs in the throw-away host, without a network; see `systemd_root`.
"""

import json
import sys
from pathlib import Path

import pytest

from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.testbed import systemd_root
from tests.testbed.asks import must
from tests.testbed.host import Host
from tests.testbed.testbed import Testbed

pytestmark = [
    needs_root(),
    needs_program("mmdebstrap", "mke2fs"),
    pytest.mark.timeout(2400),
]

UNITS = ("libvirtd.service", "virtlogd.socket", "sanlock.service", "vdsm-mp.service")
_START = "import sys; sys.path.insert(0, '/project/scripts'); from provisioning import agent; agent.ensure_running()"
#: Files and folders of the agent. Not libvirt's logs of guests, nor user vdsm, who stays.
_OURS = "find / -xdev -path /project -prune -o -name '*vdsm*' -print; ls -d /run/vdsm* 2>/dev/null"


def said(host: Host, command: str, timeout_s: float = 120) -> str:
    result = host.run(command, timeout=timeout_s)
    print(f"$ {command}\n{result.output}", file=sys.stderr)
    return result.output


def ready(host: Host) -> bool:
    """Whether all workers are. Not whether nothing is wrong: in user-mode Linux the agent is slow to answer itself."""
    result = host.run("vdsm-mp status --json", timeout=60)
    if result.status == 2:
        return False
    status = json.loads(result.output)
    print(status["problems"], file=sys.stderr)
    return all(worker["state"] == "ready" for worker in status["house"]["workers"].values())


def reboot(host: Host) -> None:
    """Off by systemd, and on again with the same disk."""
    host.run("systemctl poweroff --no-block", timeout=60)
    assert host.process is not None
    host.process.wait(180)
    host.start()
    host.wait_ready(300)
    host.identify()


def test_a_plain_host_with_systemd_runs_the_agent_and_has_it_back_after_a_reboot() -> None:
    root = Path(__file__).parents[2]
    with Testbed(project=str(root), init="systemd", memory=2048, start_timeout=300, built=systemd_root.built()) as bed:
        [host] = bed.hosts
        must(host.run("cd /project && scripts/provision", timeout=1200, env=systemd_root.PIP))
        must(host.run(["/usr/bin/python3", "-B", "-c", _START], timeout=300))
        for unit in UNITS:
            assert said(host, f"systemctl is-active {unit}").strip() == "active", unit
        eventually(lambda: ready(host), within_s=120, every_s=3)
        assert "virt         ready" in said(host, "supervisorctl vdsm status")
        assert "vdsm-mp.service" in said(host, "cat /proc/$(supervisorctl pid vdsm)/cgroup")

        must(host.run("supervisorctl stop vdsm", timeout=120))
        assert host.run("vdsm-mp status", timeout=60).status == 2
        must(host.run("mv /var/lib/vdsm /var/lib/gone", timeout=60))
        host.run("supervisorctl start vdsm", timeout=120)
        eventually(lambda: "EXITED" in said(host, "supervisorctl status vdsm"), within_s=60, every_s=1)
        # --merge: the host was given another machine id after journald had begun.
        assert "/var/lib/vdsm does not exist" in said(host, "journalctl --merge -t vdsm-mp --no-pager")
        must(host.run("mv /var/lib/gone /var/lib/vdsm && supervisorctl start vdsm", timeout=120))
        eventually(lambda: ready(host), within_s=120, every_s=3)

        before = said(host, "cat /proc/sys/kernel/random/boot_id")
        reboot(host)
        assert said(host, "cat /proc/sys/kernel/random/boot_id") != before
        eventually(lambda: ready(host), within_s=300, every_s=3)
        assert said(host, "systemctl is-active vdsm-mp.service").strip() == "active"
        assert "/etc/libvirt/nwfilter/vdsm" in said(host, _OURS)
        must(host.run("/project/scripts/down", timeout=300))
        assert host.run("vdsm-mp status", timeout=60).status == 2
        must(host.run("/project/scripts/uninstall --purge", timeout=300))
        assert said(host, _OURS) == ""
