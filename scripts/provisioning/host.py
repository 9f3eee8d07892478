# SPDX-License-Identifier: Apache-2.0
"""What a host of the agent has besides the files of the program: its folders, and an identity for engines."""

import grp
import os
import pwd
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioning.say import Failure, say

VDSM_ID = Path("/etc/vdsm/vdsm.id")


@dataclass(frozen=True)
class Directory:
    path: str
    mode: int
    owner: str = "vdsm"
    group: str = "kvm"


DIRECTORIES = (
    Directory("/etc/vdsm", 0o755, "root", "root"),
    Directory("/etc/vdsm/vdsm.conf.d", 0o755, "root", "root"),
    Directory("/rhev", 0o755, "root", "root"),
    Directory("/rhev/data-center", 0o755),
    Directory("/rhev/data-center/mnt", 0o755),
    Directory("/var/log/vdsm", 0o755),
    Directory("/var/lib/vdsm", 0o755),
    Directory("/var/lib/vdsm/transient", 0o750),
    Directory("/run/vdsm", 0o755),
    Directory("/run/vdsm/storage", 0o755),
    Directory("/run/vdsm-mp", 0o755),
    Directory("/usr/libexec/vdsm/hooks", 0o755, "root", "root"),
)


def directories(wanted: Sequence[Directory] = DIRECTORIES) -> None:
    """Make what is missing, and give each its owner and mode. Nothing below them is touched.

    Some lie in folders of the agent's user, who must not be able to have other things given to it: a link stays as it
    is there, and so does what it leads to.
    """
    for directory in wanted:
        path = Path(directory.path)
        if path.is_symlink() and path.parent.stat().st_uid != 0:
            say(f"note: {path} is a link: what it leads to keeps its owner and mode")
            continue
        path.mkdir(parents=True, exist_ok=True)
        _give(path, directory)


def _give(path: Path, directory: Directory) -> None:
    link = 0 if path.parent.stat().st_uid == 0 else os.O_NOFOLLOW
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | link)
    except OSError as error:
        raise Failure(f"{path} cannot be given to {directory.owner}: {error.strerror}") from error
    try:
        os.fchown(fd, pwd.getpwnam(directory.owner).pw_uid, grp.getgrnam(directory.group).gr_gid)
        os.fchmod(fd, directory.mode)
    finally:
        os.close(fd)


def tmpfiles() -> str:
    """For systemd-tmpfiles: what lies below /run is gone after a reboot."""
    below_run = [d for d in DIRECTORIES if d.path.startswith("/run/")]
    return "".join(f"d {d.path} {d.mode:04o} {d.owner} {d.group} -\n" for d in below_run)


def identity() -> None:
    """The host's identity for the engine: the machine's UUID where it has one, else a random one, for ever."""
    if VDSM_ID.exists() and VDSM_ID.read_text().strip():
        return
    asked = subprocess.run(["dmidecode", "-s", "system-uuid"], capture_output=True, text=True, check=False)
    lines = [line for line in asked.stdout.splitlines() if line and not line.startswith("#")]
    try:
        found = uuid.UUID(lines[-1].strip())
    except (IndexError, ValueError):
        found = uuid.uuid4()
    if found.int in (0, 2**128 - 1):
        found = uuid.uuid4()
    VDSM_ID.write_text(f"{found}\n")
    VDSM_ID.chmod(0o644)
