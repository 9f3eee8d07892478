# SPDX-License-Identifier: Apache-2.0
"""May the agent and the guests use a place? Asked when a server is connected; the looking is an I/O child's."""

import grp
import pwd
import uuid

from vdsm_mp.api.errors_storage import ServerAccessDenied, ServerConnectionFailed, StorageAccessFailed
from vdsm_mp.api.ports import Children
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.storage.file_facts import FileStat

#: Whoever runs guests; the first that exists on this host.
_QEMU_USERS = ("qemu", "libvirt-qemu")


def check_access(children: Children, path: str) -> None:
    """The agent's user may read, write and search the directory; whoever runs guests may read and search it.

    Raises: ServerConnectionFailed (it is not there), ServerAccessDenied.
    """
    io = DomainIO(children, f"check-{uuid.uuid4()}", path, deadline_s=30)
    try:
        access, found = io.access(), io.stat()
    except StorageAccessFailed as e:
        raise ServerConnectionFailed(path, e.reason) from e
    finally:
        io.close()
    missing = [right for right, there in access.items() if not there]
    if missing:
        raise ServerAccessDenied(path, f"no permission to {', '.join(missing)}")
    user = qemu_user()
    if user is not None and not may_read(found, *user):
        raise ServerAccessDenied(path, "the user that runs guests may not read and search it")


def qemu_user() -> tuple[int, set[int]] | None:
    """(uid, gids) of whoever runs guests on this host."""
    for name in _QEMU_USERS:
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return user.pw_uid, {user.pw_gid, *(g.gr_gid for g in grp.getgrall() if name in g.gr_mem)}
    return None


def may_read(found: FileStat, uid: int, gids: set[int]) -> bool:
    """r-x by the permission bits, which is all that can be told without being that user."""
    if found.uid == uid:
        bits = found.mode >> 6
    elif found.gid in gids:
        bits = found.mode >> 3
    else:
        bits = found.mode
    return bits & 0o5 == 0o5
