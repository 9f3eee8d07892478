# SPDX-License-Identifier: Apache-2.0
"""What NFS and POSIX connections share: mounting through root, checking what was mounted, unmounting.

Never touches the mount in this process: mounting is root's, looking is an I/O child's, and what is mounted is read
from /proc. The mount point is named by its remote path; root derives the same name itself.
"""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from vdsm_mp.api.errors import DeadlineExceeded, PrivilegedFailed
from vdsm_mp.api.errors_storage import MountFailed, ServerDisconnectFailed
from vdsm_mp.api.ports import Children, Root
from vdsm_mp.common.errors import Error, Unavailable
from vdsm_mp.storage.access import check_access
from vdsm_mp.storage.connections import make_directory
from vdsm_mp.storage.mount import mounts_below

_log = logging.getLogger("storage.connect")

MOUNT_DEADLINE_S = 120.0
#: A server that is alive unmounts at once.
UMOUNT_DEADLINE_S = 15.0


class Mounter:
    def __init__(self, mnt_dir: str, children: Children, root: Root) -> None:
        self._mnt_dir = mnt_dir
        self._children = children
        self._root = root

    def mount(self, target: str, source: str, do: Callable[[Root], object], *, gluster: bool = False) -> None:
        """Have `source` at `target`; there already is fine. do: the mount itself.

        Raises: MountFailed, ServerAccessDenied, ServerConnectionFailed; what was mounted here is unmounted then.
        """
        there = mounts_below(self._mnt_dir).get(target)
        if there is not None:
            if there.source.rstrip("/") != source.rstrip("/"):
                raise MountFailed(source, f"{target} holds {there.source}")
            check_access(self._children, target)
            return
        make_directory(target)
        try:
            do(self._root)
        except PrivilegedFailed as e:
            self._remove_point(target)
            raise MountFailed(source, str(e)) from e
        except (DeadlineExceeded, Unavailable) as e:  # it may be mounted, and nobody would ask to unmount it
            self._undo(target, source, gluster)
            raise MountFailed(source, str(e)) from e
        try:
            check_access(self._children, target)
        except Error:
            self._undo(target, source, gluster)
            raise

    def unmount(self, target: str, name: str, *, gluster: bool = False) -> None:
        """Undo mount; not mounted is fine. name: the remote path. Raises: ServerDisconnectFailed."""
        if target in mounts_below(self._mnt_dir):
            try:
                self._root.do("umount", remote=name, gluster=gluster, deadline_s=UMOUNT_DEADLINE_S)
            except DeadlineExceeded:
                # The server does not answer. What still waits for it keeps the mount until the kernel lets go.
                _log.warning("%s: the server does not answer, it is detached", target)
                self._detach(name, gluster)
            except PrivilegedFailed as e:
                raise ServerDisconnectFailed(name, str(e)) from e
        self._remove_point(target)

    def _detach(self, name: str, gluster: bool) -> None:
        try:
            self._root.do("umount-detach", remote=name, gluster=gluster, deadline_s=UMOUNT_DEADLINE_S)
        except (PrivilegedFailed, DeadlineExceeded) as e:
            raise ServerDisconnectFailed(name, str(e)) from e

    def _undo(self, target: str, name: str, gluster: bool) -> None:
        try:
            self.unmount(target, name, gluster=gluster)
        except Error as e:
            _log.warning("%s stays mounted: %s", target, e)

    def _remove_point(self, target: str) -> None:
        with contextlib.suppress(OSError):  # not empty, or in use by the next connect: it does no harm
            Path(target).rmdir()
