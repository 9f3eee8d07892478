# SPDX-License-Identifier: Apache-2.0
"""Connect, disconnect and check any file system the host can mount: a device, a cluster file system, a bind mount.

Volumes of gluster are mounted by gluster's own client, in a place of their own; see `connect_gluster.py`.
"""

import re

from vdsm_mp.api.errors_storage import MountTypeInvalid, ServerParametersInvalid
from vdsm_mp.api.ports import Root
from vdsm_mp.storage.connect_mounted import MOUNT_DEADLINE_S, Mounter
from vdsm_mp.storage.connections import Server
from vdsm_mp.storage.mount import escape, normalize

_VFS_TYPE = re.compile(r"\A[a-z0-9][a-z0-9_.-]{0,31}\Z")
#: One mount option as root will accept it: a word, perhaps with a value; no commas, blanks or control characters.
_OPTION = re.compile(r"\A[A-Za-z0-9_.-]+(=[A-Za-z0-9_./:@%+-]+)?\Z")

GLUSTER = "glusterfs"
#: Below the mount points, where other programs look for volumes of gluster.
GLUSTER_DIR = "glusterSD"


class PosixConnector:
    def __init__(self, mnt_dir: str, mounter: Mounter) -> None:
        self._mnt_dir = mnt_dir
        self._mounter = mounter

    def root_of(self, server: Server) -> str:
        below = f"{self._mnt_dir}/{GLUSTER_DIR}" if server.vfs_type == GLUSTER else self._mnt_dir
        return f"{below}/{escape(source_of(server))}"

    def connect(self, server: Server, root: str) -> None:
        source = source_of(server)
        if not _VFS_TYPE.match(server.vfs_type):
            raise MountTypeInvalid(source, f"{server.vfs_type!r} is not a type of file system")
        options = ",".join(options_of(server.mnt_options, source))

        def do(helper: Root) -> object:
            return helper.do(
                "mount-posix",
                remote=source,
                vfs_type=server.vfs_type,
                options=options,
                deadline_s=MOUNT_DEADLINE_S,
            )

        self._mounter.mount(root, source, do, gluster=server.vfs_type == GLUSTER)

    def disconnect(self, server: Server, root: str) -> None:
        self._mounter.unmount(root, source_of(server), gluster=server.vfs_type == GLUSTER)


def source_of(server: Server) -> str:
    """Raises: ServerParametersInvalid."""
    source = normalize(server.connection)
    if source.startswith("-"):
        raise ServerParametersInvalid(server.connection, "not a device or path")
    return source


def options_of(text: str, what: str) -> list[str]:
    """Mount options as a list. Raises: ServerParametersInvalid, naming the one that is not understood."""
    options = [option.strip() for option in text.split(",") if option.strip()]
    for option in options:
        if not _OPTION.match(option):
            raise ServerParametersInvalid(what, f"mount option {option!r} is not understood")
    return options
