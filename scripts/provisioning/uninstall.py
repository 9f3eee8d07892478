# SPDX-License-Identifier: Apache-2.0
"""The way back of `install`: what it has put on the host goes, and other programs' files become what they were."""

import hashlib
import shutil
from pathlib import Path

from provisioning import install, libvirt, package, services, stop
from provisioning.foreign import Ledger
from provisioning.say import Failure, run

#: dpkg's word for a host that has the package; what is there then is the package's.
_PACKAGE = Path("/var/lib/dpkg/info/vdsm-mp.list")
_POSTRM = install.ROOT / "debian/vdsm-mp.postrm"


def refuse_beside_package() -> None:
    """Raises Failure where the Debian package is installed: its files are dpkg's."""
    if _PACKAGE.exists() and install.COMMAND.exists() and not install.REMEMBERED.exists():
        raise Failure("the Debian package vdsm-mp is installed on this host: apt remove vdsm-mp first")


def take_away() -> list[str]:
    """After `scripts/down`: the agent stops, and all but what a purge takes goes. Returns notes. Raises Failure."""
    stop.ensure_stopped(lambda: _ask("stop"))
    _ask("remove")
    _units()
    notes = _configuration()
    _foreign_programs()
    for path in (install.LIBEXEC, install.PREFIX):
        shutil.rmtree(path, ignore_errors=True)
    install.SUDOERS.unlink(missing_ok=True)
    libvirt.remove_drop_ins(install.UNITS)
    notes += libvirt.give_back(Ledger())
    run(["sh", _POSTRM, "remove"], why="giving libvirt's sockets back")
    return notes


def purge() -> None:
    """Configuration, state and logs, by the very lines of the package; what only a tree has put there, besides."""
    run(["sh", _POSTRM, "purge"], why="removing configuration, state and logs")
    for folder in (services.LOGS, services.STARTED.parent):
        shutil.rmtree(folder, ignore_errors=True)


def _ask(word: str) -> None:
    """A supervisord that runs, be it the host's own, which would name the programs for as long as it lives."""
    stop.supervisorctl(install.SUPERVISORCTL, word, *package.PROGRAMS)


def _units() -> None:
    if services.systemd() and install.UNIT.exists():
        run(["systemctl", "disable", "--now", install.UNIT.name], why="stopping the agent's unit", check=False)


def _configuration() -> list[str]:
    """Files that nobody has changed go; changed ones stay, but the section that would start what is gone."""
    notes = []
    folders = (install.SUPERVISOR_CONF.parent, install.SUPERVISORD_CONF.parent) if install.ours() else ()
    for name, digest in install.remembered().items():
        path = Path(name)
        if name.startswith("/etc/vdsm/") or not path.exists():
            continue  # a purge takes those
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest and path != install.SUPERVISOR_CONF:
            notes.append(f"{path} was changed on this host and stays")
            continue
        path.unlink()
    install.REMEMBERED.unlink(missing_ok=True)
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if services.systemd():
        run(["systemctl", "daemon-reload"], why="telling systemd that the unit is gone")
    return notes


def _foreign_programs() -> None:
    """Links into our environment from the folder of everybody's programs."""
    for link in (install.COMMAND, install.SUPERVISORCTL):
        if link.is_symlink() and str(link.readlink()).startswith(str(install.PREFIX)):
            link.unlink()
