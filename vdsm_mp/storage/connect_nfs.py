# SPDX-License-Identifier: Apache-2.0
"""Connect, disconnect and check NFS exports.

Soft mounts with short timeouts: a dead server ends as an error within half a minute instead of a process that
nothing can end. `nosharecache`, so that one export's trouble is not another's.
"""

import re

from vdsm_mp.api.errors_storage import ServerParametersInvalid
from vdsm_mp.api.ports import Root
from vdsm_mp.storage.connect_mounted import MOUNT_DEADLINE_S, Mounter
from vdsm_mp.storage.connect_posix import options_of
from vdsm_mp.storage.connections import Server
from vdsm_mp.storage.mount import escape, normalize

_REMOTE = re.compile(r"\A(\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.-]{1,15})?\]|[A-Za-z0-9][A-Za-z0-9._-]*):/")
_VERSION = re.compile(r"\A([34])(?:\.([0-2]))?\Z")
_LOCK_OPTIONS = {"lock", "nolock"}
#: Mount options that say what the connection says elsewhere.
_VERSION_OPTIONS = {"vers", "nfsvers", "minorversion"}


class NfsConnector:
    def __init__(self, mnt_dir: str, mounter: Mounter) -> None:
        self._mnt_dir = mnt_dir
        self._mounter = mounter

    def root_of(self, server: Server) -> str:
        return f"{self._mnt_dir}/{escape(remote_of(server))}"

    def connect(self, server: Server, root: str) -> None:
        remote = remote_of(server)
        options = ",".join(nfs_options(server))

        def do(helper: Root) -> object:
            return helper.do("mount-nfs", remote=remote, options=options, deadline_s=MOUNT_DEADLINE_S)

        self._mounter.mount(root, remote, do)

    def disconnect(self, server: Server, root: str) -> None:
        self._mounter.unmount(root, remote_of(server))


def remote_of(server: Server) -> str:
    """SERVER:/PATH. Raises: ServerParametersInvalid."""
    remote = normalize(server.connection)
    if not _REMOTE.match(remote):
        raise ServerParametersInvalid(server.connection, "not SERVER:/PATH")
    return remote


def nfs_options(server: Server) -> list[str]:
    """Mount options. Raises: ServerParametersInvalid."""
    extra = options_of(server.mnt_options, server.connection)
    options = ["soft", "nosharecache", f"timeo={_number(server, server.timeout or '100', 'timeout')}"]
    options.append(f"retrans={_number(server, server.retrans or '3', 'retrans')}")
    version = server.protocol_version.strip().lower()
    major = ""
    if version not in ("", "auto"):
        found = _VERSION.match(version)
        if found is None:
            raise ServerParametersInvalid(server.connection, f"NFS version {version!r} is not known")
        if twice := _VERSION_OPTIONS.intersection(option.partition("=")[0] for option in extra):
            raise ServerParametersInvalid(server.connection, f"{twice.pop()} and version {version} are both given")
        major = found[1]
        options.append(f"nfsvers={major}")
        if found[2] is not None:
            options.append(f"minorversion={found[2]}")
    # Locks of files go over a protocol of their own in version 3, which sanlock does not need and firewalls block.
    if major in ("", "3") and not _LOCK_OPTIONS.intersection(extra):
        options.append("nolock")
    return options + extra


def _number(server: Server, text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ServerParametersInvalid(server.connection, f"{what} {text!r} is not a number")
    return int(text)
