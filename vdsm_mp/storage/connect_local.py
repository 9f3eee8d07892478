# SPDX-License-Identifier: Apache-2.0
"""Connect, disconnect and check a local directory: a link below the repository, nothing mounted, no root needed."""

import contextlib
import os
import uuid
from pathlib import Path

from vdsm_mp.api.errors_storage import ServerConnectionFailed, ServerParametersInvalid
from vdsm_mp.api.ports import Children
from vdsm_mp.storage.access import check_access
from vdsm_mp.storage.connections import Server, make_directory
from vdsm_mp.storage.mount import escape, normalize


class LocalConnector:
    def __init__(self, mnt_dir: str, children: Children) -> None:
        self._mnt_dir = mnt_dir
        self._children = children

    def root_of(self, server: Server) -> str:
        path = normalize(server.connection)
        if not path.startswith("/") or path == "/":
            raise ServerParametersInvalid(server.connection, "not an absolute path of a directory")
        return f"{self._mnt_dir}/{escape(path)}"

    def connect(self, server: Server, root: str) -> None:
        path = normalize(server.connection)
        check_access(self._children, path)
        make_directory(self._mnt_dir)
        if os.path.islink(root) and os.readlink(root) == path:  # noqa: PTH114, PTH115 -- the link, not what it names
            return
        replace_link(path, root, self._mnt_dir)

    def disconnect(self, server: Server, root: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            Path(root).unlink()


def replace_link(target: str, link: str, aside_dir: str) -> None:
    """A symbolic link that is never absent: made under another name in `aside_dir` and renamed over the old one."""
    aside = f"{aside_dir}/{uuid.uuid4()}"
    try:
        Path(aside).symlink_to(target)
        Path(aside).rename(link)
    except OSError as e:
        with contextlib.suppress(FileNotFoundError):
            Path(aside).unlink()
        raise ServerConnectionFailed(link, e.strerror or str(e)) from e
