# SPDX-License-Identifier: Apache-2.0
"""libvirtd lets group libvirt in without polkit, and QEMU run where there is no udev. Undone by `give_back`."""

import grp
import os
import shutil
from pathlib import Path

from provisioning import services
from provisioning.foreign import Ledger
from provisioning.say import Failure, run, say

LIBVIRTD_CONF = Path("/etc/libvirt/libvirtd.conf")
LIBVIRTD_SECTION = """\
# The agent runs as user vdsm, a member of group libvirt, and must not need an agent of polkit to be let in.
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "libvirt"
unix_sock_ro_perms = "0770"
unix_sock_rw_perms = "0770"
"""
QEMU_CONF = Path("/etc/libvirt/qemu.conf")
QEMU_SECTION = """\
# No udev here: a container or a change of root. There libvirt's private /dev of each guest may lack its terminals.
namespaces = []
"""
#: Where systemd makes the sockets, it is systemd that must know who may use them.
SOCKET_DROP_IN = "[Socket]\nSocketMode=0660\nSocketGroup=libvirt\n"
SOCKET_UNITS = ("libvirtd.socket", "libvirtd-ro.socket")
#: The agent defines it in libvirt for cards of VMs (vdsm_mp/virt); libvirt keeps it in this file.
FILTER = Path("/etc/libvirt/nwfilter/vdsm-no-mac-spoofing.xml")
_SOCKETS = (Path("/run/libvirt/libvirt-sock"), Path("/run/libvirt/libvirt-sock-ro"))


def let_in(notes: list[str], ledger: Ledger) -> None:
    """Write the sections. systemd's drop-ins of `SOCKET_UNITS` must be there before."""
    if services.systemd():
        run(["systemctl", "daemon-reload"], why="telling systemd about the sockets")
        # The sockets that listen already were made for everybody: who may open them must be settled before nobody is
        # asked for a password any more.
        for path in _SOCKETS:
            if path.exists():
                os.chown(path, 0, grp.getgrnam("libvirt").gr_gid)
                path.chmod(0o660)
    changed = [LIBVIRTD_CONF] if ledger.section(LIBVIRTD_CONF, LIBVIRTD_SECTION) else []
    if not Path("/run/udev/control").exists() and ledger.section(QEMU_CONF, QEMU_SECTION):
        changed += [QEMU_CONF]
    _take(changed, notes)


def give_back(ledger: Ledger) -> list[str]:
    """Take back all that the ledger knows; libvirtd reads its own words again. Returns notes."""
    notes: list[str] = []
    changed = ledger.put_back()
    _take([path for path in changed if path in (LIBVIRTD_CONF, QEMU_CONF)], notes)
    return notes


def forget_filter() -> str | None:
    """Have libvirt forget it, while there is a libvirtd to be asked. Returns a note when it stays."""
    if not FILTER.exists():
        return None
    said = _say(["virsh", "-q", "-c", "qemu:///system", "nwfilter-undefine", FILTER.stem], 60)
    if not FILTER.exists():
        return None
    # libvirt knows best: it refuses while a guest's card has it, and is not asked behind its back.
    return f"libvirt keeps its filter {FILTER.stem} ({' '.join(said.split())})"


def _take(changed: list[Path], notes: list[str]) -> None:
    """Have a libvirtd that runs read its files. Guests are not its children's children: they go on."""
    if not changed or not _SOCKETS[0].exists():
        return
    names = " and ".join(map(str, changed))
    if not services.systemd():
        notes.append(f"{names} changed: a libvirtd that runs already takes it at its next start")
        return
    say(f"restarting libvirtd if it runs: {names} changed; guests go on")
    if said := _say(["systemctl", "try-restart", "libvirtd.service"], 180):
        notes.append(f"libvirtd did not start again ({' '.join(said.split())}): journalctl -u libvirtd tells why")


def _say(argv: list[str], timeout_s: float) -> str:
    """What it printed, or why it was not done in time: neither keeps a host from being cleaned up."""
    try:
        return run(argv, why="changing libvirt", check=False, timeout_s=timeout_s)
    except Failure as failure:
        return str(failure)


def drop_ins(folder: Path) -> None:
    """Write systemd's drop-ins below /etc/systemd/system or, in a package, below /lib/systemd/system."""
    for unit in SOCKET_UNITS:
        path = folder / f"{unit}.d/vdsm-mp.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SOCKET_DROP_IN)
        path.chmod(0o644)


def remove_drop_ins(folder: Path) -> None:
    for unit in SOCKET_UNITS:
        path = folder / f"{unit}.d/vdsm-mp.conf"
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            shutil.rmtree(path.parent)
