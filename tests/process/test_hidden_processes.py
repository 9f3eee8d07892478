# SPDX-License-Identifier: Apache-2.0
"""Hosts whose /proc hides what others run: QEMUs that libvirt has forgotten are not found there, which is said."""

import grp
import subprocess
import sys

import pytest

from tests.support.house import program
from tests.support.needs import needs_program, needs_root

pytestmark = [needs_root(), needs_program("unshare", "setpriv")]

_LOOK = "from vdsm_mp.priv import qemu; print(qemu.hidden())"


@pytest.mark.parametrize("how", ["", "noaccess", "invisible", "exempt"])
def test_what_the_agents_user_cannot_see_is_said(how: str) -> None:
    options = {"": "hidepid=off", "exempt": f"hidepid=invisible,gid={grp.getgrnam('kvm').gr_gid}"}
    script = (
        f"mount -t proc -o {options.get(how, f'hidepid={how}')} proc /proc && "
        f"{sys.executable} -m vdsm_mp.cli.main check-host --all | grep processes; "
        f"setpriv --reuid=vdsm --regid=kvm --init-groups {sys.executable} -c '{_LOOK}'"
    )
    words = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script]
    done = subprocess.run(words, cwd=program(), capture_output=True, text=True, timeout=60, check=True)
    finding, hidden = done.stdout.splitlines()
    if how in ("", "exempt"):
        assert (finding.split()[0], hidden) == ("ok", "False")
    else:
        assert (finding.split()[0], hidden) == ("note", "True")
        assert f"hidepid={how}" in finding
