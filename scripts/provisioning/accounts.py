# SPDX-License-Identifier: Apache-2.0
"""User `vdsm` and the groups around it. Shared storage carries these numbers on disk, hence the care."""

import grp
import pwd
import shutil
from pathlib import Path

from provisioning.say import Failure, run, say

USER, UID = "vdsm", 36
GROUP, GID = "kvm", 36
HOME = Path("/var/lib/vdsm")
#: Daemons' users that joined a group by us, "MEMBER GROUP" a line; a purge takes them out again.
JOINED = Path("/var/lib/vdsm-mp/joined")


def _group(name: str) -> grp.struct_group | None:
    try:
        return grp.getgrnam(name)
    except KeyError:
        return None


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def ensure() -> list[str]:
    """Make the user, its groups and memberships. Returns what an administrator should know, as sentences."""
    notes = []
    kvm = _group(GROUP)
    if kvm is None:
        taken = [g.gr_name for g in grp.getgrall() if g.gr_gid == GID]
        number = [] if taken else ["-g", str(GID)]
        say(f"creating group {GROUP}{'' if taken else f' ({GID})'}")
        run(["groupadd", "--system", *number, GROUP], why=f"creating group {GROUP}")
        kvm = _group(GROUP)
    assert kvm is not None
    if kvm.gr_gid != GID:
        notes.append(
            f"group {GROUP} has the number {kvm.gr_gid}, not {GID}: fine for storage of this host alone; for storage "
            f"shared with other hosts see 'The numbers 36:36' in docs/operations.md"
        )
    user = _user(USER)
    if user is None:
        taken_by = [u.pw_name for u in pwd.getpwall() if u.pw_uid == UID]
        if taken_by:
            raise Failure(f"user id {UID} belongs to {taken_by[0]}: user {USER} needs it, shared storage carries it")
        say(f"creating user {USER} ({UID}) in group {GROUP}")
        run(
            ["useradd", "--system", "-u", str(UID), "-g", GROUP, "-d", str(HOME), "-s", "/usr/sbin/nologin",
             "-c", "KVM host agent", USER],
            why=f"creating user {USER}",
        )  # fmt: skip
    elif user.pw_uid != UID:
        notes.append(
            f"user {USER} has the number {user.pw_uid}, not {UID}: shared storage written elsewhere is not ours"
        )
    HOME.mkdir(parents=True, exist_ok=True)
    if HOME.stat().st_uid == 0:
        shutil.chown(HOME, USER, GROUP)  # the agent's libraries keep files there
    # libvirt: its socket. sanlock: its socket. QEMU and sanlock read the images through group kvm.
    for member, group in ((USER, "libvirt"), (USER, "sanlock"), ("libvirt-qemu", GROUP), ("sanlock", GROUP)):
        if _join(member, group) and member != USER:
            JOINED.parent.mkdir(parents=True, exist_ok=True)
            with JOINED.open("a") as file:
                file.write(f"{member} {group}\n")
    return notes


def _join(member: str, group: str) -> bool:
    """True: it was none of them before."""
    user, entry = _user(member), _group(group)
    if user is None or entry is None:
        raise Failure(f"{member} cannot join group {group}: one of the two does not exist (package not installed?)")
    if user.pw_gid == entry.gr_gid or member in entry.gr_mem:
        return False
    run(["usermod", "-a", "-G", group, member], why=f"adding {member} to group {group}")
    return True
