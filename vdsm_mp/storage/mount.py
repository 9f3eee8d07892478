# SPDX-License-Identifier: Apache-2.0
"""Names of mount points, and what is mounted. Reads /proc only: nothing here touches a mount, so nothing can hang."""

import re
from pathlib import Path

import msgspec

from vdsm_mp.api.errors_storage import ServerParametersInvalid

_MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(msgspec.Struct, frozen=True):
    target: str
    source: str
    fs_type: str


def normalize(remote: str) -> str:
    """The one spelling of a remote path: "server:/a//b/" -> "server:/a/b"; the root stays "/".

    The host part (a port too, an IPv6 address stays in its brackets) is left alone.
    Raises: ServerParametersInvalid (empty, NUL, "..", line ends).
    """
    if not remote or "\0" in remote or any(ord(c) < 32 for c in remote):
        raise ServerParametersInvalid(repr(remote), "not a path")
    host, path = _split(remote)
    if ".." in path.split("/"):
        raise ServerParametersInvalid(remote, "'..' is not allowed")
    path = re.sub(r"/{2,}", "/", path)
    if len(path) > 1:
        path = path.rstrip("/")
    return f"{host}{path}"


def _split(remote: str) -> tuple[str, str]:
    """("host:" or "host:port:" or "", path)."""
    found = re.match(r"((?:\[[^\]]*\]|[^/\[\]:]+):(?:\d+:)?)(/.*)?\Z", remote, re.DOTALL)
    if found and not remote.startswith("/"):
        return found[1], found[2] or ""
    return "", remote


def escape(remote: str) -> str:
    """The directory name for a normalized remote path."""
    return remote.replace("_", "__").replace("/", "_")


def mounts_below(directory: str) -> dict[str, Mount]:
    """{mount point: Mount} of everything mounted below `directory`; the last mount on a point counts."""
    found: dict[str, Mount] = {}
    prefix = directory.rstrip("/") + "/"
    for line in _MOUNTINFO.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        target = _plain(before.split(" ")[4])
        if target.startswith(prefix):
            fs_type, source = after.split(" ")[:2]
            found[target] = Mount(target, _plain(source), fs_type)
    return found


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda m: chr(int(m[1], 8)), text)
