# SPDX-License-Identifier: Apache-2.0
"""Connect volumes of gluster: the same mount as a POSIX connection of that file system, after a look at the volume.

With gluster's program on this host, a volume with a number of replicas that nobody should trust guests to is refused,
and the other servers that have it are told to the client as those to ask when the named one is away, unless the engine
named some. Without the program, or when no server answers, it is mounted as asked: the mount itself will tell.
"""

import logging
import re
from collections.abc import Collection

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors import DeadlineExceeded, PrivilegedFailed
from vdsm_mp.api.errors_storage import GlusterReplicaRefused, MountTypeInvalid, ServerParametersInvalid
from vdsm_mp.api.ports import Root
from vdsm_mp.common import xml
from vdsm_mp.storage.connect_mounted import Mounter
from vdsm_mp.storage.connect_posix import GLUSTER, PosixConnector, options_of, source_of
from vdsm_mp.storage.connections import Server
from vdsm_mp.storage.mount import mounts_below

_log = logging.getLogger("storage.connect")

_VOLUME = re.compile(r"\A(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9._,-]*):/[^/]+(/[^/]+)*\Z")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*\Z")
_BACKUPS = ("backup-volfile-servers", "backupvolfile-server")
_LOOK_S = 25.0


class Volume(msgspec.Struct, frozen=True):
    """servers: that have bricks of it, in their order, each once."""

    type: str
    replicas: int
    servers: tuple[str, ...]


class GlusterConnector:
    """A storage domain's own type."""

    def __init__(self, mnt_dir: str, mounter: Mounter, root: Root, replica_counts: Collection[int]) -> None:
        """replica_counts: that are let through."""
        self._mnt_dir = mnt_dir
        self._posix = PosixConnector(mnt_dir, mounter)
        self._root = root
        self._replica_counts = replica_counts

    def root_of(self, server: Server) -> str:
        return self._posix.root_of(_typed(server))

    def connect(self, server: Server, root: str) -> None:
        """Raises: GlusterReplicaRefused (480), what a POSIX connection raises; nothing is mounted then."""
        source = source_of(server)
        if server.vfs_type not in ("", GLUSTER):
            raise MountTypeInvalid(source, f"{server.vfs_type!r} is not {GLUSTER}")
        if not _VOLUME.match(source):
            raise ServerParametersInvalid(server.connection, "not SERVER:/VOLUME")
        options = options_of(server.mnt_options, source)
        if root not in mounts_below(self._mnt_dir):
            volume = self._look(source)
            if volume is not None:
                self._check(source, volume)
                options += backup_option(source, options, volume)
        self._posix.connect(replace(_typed(server), mnt_options=",".join(options)), root)

    def disconnect(self, server: Server, root: str) -> None:
        self._posix.disconnect(_typed(server), root)

    def _look(self, source: str) -> Volume | None:
        """None: it cannot be told."""
        try:
            found = self._root.do("gluster-volume", remote=source, deadline_s=_LOOK_S)
        except (PrivilegedFailed, DeadlineExceeded) as e:
            _log.warning("%s: what the volume is cannot be told: %s", source, e)
            return None
        if not found["installed"]:
            _log.warning("%s: gluster's program is not installed: replicas and backup servers are not known", source)
            return None
        named = source.rpartition(":/")[2].partition("/")[0]
        for answer in found["answers"]:
            volume = volume_of(answer, named)
            if volume is not None:
                return volume
        _log.warning("%s: no server tells what the volume is", source)
        return None

    def _check(self, source: str, volume: Volume) -> None:
        if "disperse" in volume.type.lower():
            _log.warning("%s is a dispersed volume; replicated ones are made for guests", source)
        elif volume.replicas not in self._replica_counts:
            allowed = ", ".join(str(count) for count in sorted(self._replica_counts))
            raise GlusterReplicaRefused(source, f"the volume has {volume.replicas} replicas; allowed: {allowed}")


def volume_of(answer: str, name: str) -> Volume | None:
    """From the XML of `gluster volume info`; None when it says nothing of that volume."""
    try:
        root = xml.parse(answer)
        for found in root.iter("volume"):
            if found.findtext("name") == name:
                bricks = [(brick.findtext("name") or "").rpartition(":/")[0] for brick in found.iter("brick")]
                return Volume(
                    type=found.findtext("typeStr") or "",
                    replicas=int(found.findtext("replicaCount") or ""),
                    servers=tuple(dict.fromkeys(host for host in bricks if host)),
                )
    except (xml.BadXml, ValueError) as e:
        _log.warning("what gluster says of volume %s is not understood: %s", name, e)
    return None


def backup_option(source: str, options: Collection[str], volume: Volume) -> list[str]:
    """The mount option, if there is something to say that was not said."""
    if any(option.partition("=")[0] in _BACKUPS for option in options):
        return []
    named = source.rpartition(":/")[0]
    others = [host for host in volume.servers if host != named and _HOST.match(host)]
    return [f"{_BACKUPS[0]}={':'.join(others)}"] if others else []


def _typed(server: Server) -> Server:
    return replace(server, vfs_type=GLUSTER)
