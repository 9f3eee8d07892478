# SPDX-License-Identifier: Apache-2.0
"""Which storage servers this host is connected to, on whose behalf, and where each is mounted. Knows no domains.

A connection of the engine (an id) uses a mount; several ids may share one. The mount is undone with its last id.
After a restart of this process the table is empty but mounts and links are there: connecting finds them ("already
there"), and `roots` lists them for looking up domains all the same.
"""

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from vdsm_mp.api.errors_storage import ServerConnectionFailed, ServerParametersInvalid
from vdsm_mp.common.errors import Error
from vdsm_mp.common.oneatatime import OneAtATime
from vdsm_mp.storage.domain_format import DomainType
from vdsm_mp.storage.mount import mounts_below

_log = logging.getLogger("storage.connect")

#: A mount that hangs is given up before.
TURN_S = 150.0


class Server(msgspec.Struct, frozen=True):
    """One row of connectStorageServer, cleaned. Empty text = not given."""

    id: str
    connection: str
    vfs_type: str = ""
    mnt_options: str = ""
    protocol_version: str = ""
    timeout: str = ""
    retrans: str = ""

    @staticmethod
    def of(row: Mapping[str, Any]) -> "Server":
        """Unknown keys are ignored; numbers are as good as text. Raises: ServerParametersInvalid."""

        def text(*names: str) -> str:
            value = next((row[name] for name in names if row.get(name) not in (None, "")), "")
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise ServerParametersInvalid(repr(value)[:80], f"{names[0]} is not text")
            return str(value)

        return Server(
            id=text("id"),
            connection=text("connection"),
            vfs_type=text("vfs_type", "vfsType"),
            mnt_options=text("mnt_options", "mntOptions"),
            protocol_version=text("protocol_version", "protocolversion"),
            timeout=text("timeout"),
            retrans=text("retrans"),
        )


class Connector(Protocol):
    """How one type of storage is connected; `connect_*.py`."""

    def root_of(self, server: Server) -> str:
        """The mount point or link of this connection below the repository. Raises: ServerParametersInvalid."""
        ...

    def connect(self, server: Server, root: str) -> None:
        """Make `root` usable; finding it usable already is fine. Raises: ServerConnectionFailed."""
        ...

    def disconnect(self, server: Server, root: str) -> None:
        """Undo connect; being undone already is fine. Raises: ServerConnectionFailed."""
        ...


class _Held(msgspec.Struct):
    kind: DomainType
    ids: set[str] = msgspec.field(default_factory=set)


class Connections:
    """The table. One root has one call at a time, whoever asks; a server that hangs keeps nobody from the others."""

    def __init__(self, mnt_dir: str, connectors: Mapping[DomainType, Connector]) -> None:
        self.mnt_dir = mnt_dir
        self._connectors = connectors
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._turns = OneAtATime()

    def turn(self, root: str) -> AbstractContextManager[None]:
        """The root is nobody else's meanwhile. Raises: ServerConnectionFailed (another call holds it too long)."""
        return self._turns.turn(
            root, TURN_S, lambda: ServerConnectionFailed(root, "an earlier call for it has not ended")
        )

    def root_of(self, kind: DomainType, server: Server) -> str:
        """Where it is, or would be, connected. Raises: ServerParametersInvalid."""
        return self._connector(kind).root_of(server)

    def connect(self, kind: DomainType, server: Server) -> str:
        """Returns the root. Idempotent for an id. Within its turn. Raises: ServerConnectionFailed and its kin."""
        connector = self._connector(kind)
        root = connector.root_of(server)
        connector.connect(server, root)
        with self._lock:
            self._held.setdefault(root, _Held(kind)).ids.add(server.id or root)
        return root

    def root_for(self, kind: DomainType, remote: str) -> str | None:
        """Where that remote path is connected, None when it is not. Raises: ServerParametersInvalid."""
        connector = self._connector(kind)
        # Who names only the path does not say which file system it is; one kind has a place of its own.
        wanted = [connector.root_of(Server(id="", connection=remote, vfs_type=vfs)) for vfs in ("", "glusterfs")]
        connected = self.roots()
        return next((root for root in wanted if root in connected), None)

    def root_to_leave(self, kind: DomainType, server: Server) -> str | None:
        """The root that `disconnect` of this server will undo; None while others use it."""
        root = self._connector(kind).root_of(server)
        with self._lock:
            held = self._held.get(root)
            others = held.ids - {server.id or root} if held else set()
        return None if others else root

    def disconnect(self, kind: DomainType, server: Server) -> None:
        """Forget the id and, with the last one, undo the mount. Within its turn.

        Raises: ServerConnectionFailed (still held then).
        """
        connector = self._connector(kind)
        root = connector.root_of(server)
        if self.root_to_leave(kind, server) is not None:
            connector.disconnect(server, root)
            with self._lock:
                self._held.pop(root, None)
        else:
            with self._lock:
                self._held[root].ids.discard(server.id or root)

    def roots(self) -> dict[str, DomainType | None]:
        """{root: type, None when only found on this host} of everything connected. Touches no storage."""
        found: dict[str, DomainType | None] = {}
        with self._lock:
            found.update((root, held.kind) for root, held in self._held.items())
        for root in mounts_below(self.mnt_dir):
            found.setdefault(root, None)
        for entry in _entries(self.mnt_dir):
            if entry.is_symlink() and entry.name.startswith("_"):
                found.setdefault(entry.path, DomainType.LOCALFS)
        return found

    def supports(self, kind: DomainType) -> bool:
        return kind in self._connectors

    def _connector(self, kind: DomainType) -> Connector:
        try:
            return self._connectors[kind]
        except KeyError:
            raise ServerParametersInvalid(kind.value, "this type of storage is not supported") from None


def _entries(directory: str) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as listing:
            return list(listing)
    except FileNotFoundError:
        return ()


def status_of(error: Error, server: Server) -> int:
    """The number of a connection that failed, for the list of statuses; the reason goes to the log."""
    _log.warning("connection %s (%s): %s", server.id, server.connection, error)
    return error.kept_code


def make_directory(path: str) -> None:
    """A mount point of our own. Raises: ServerConnectionFailed."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ServerConnectionFailed(path, e.strerror or str(e)) from e
