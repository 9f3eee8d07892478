# SPDX-License-Identifier: Apache-2.0
"""The host's nameservers in /etc/resolv.conf. Root side, standard library only.

Search domains, options and comments stay. A file that is a link belongs to a program (systemd-resolved, resolvconf),
which would take its content back: that is refused and told.
"""

import contextlib
import errno
import ipaddress
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vdsm_mp.priv.child import Refused
from vdsm_mp.priv.context import Context

_FILE = Path("/etc/resolv.conf")
_LIMIT = 64 * 1024


def _set(context: Context, p: Mapping[str, Any]) -> None:
    servers = [server for server in p["servers"].split(",") if server]
    try:
        for server in servers:
            ipaddress.ip_address(server)
    except ValueError as error:
        raise Refused(str(error)) from error
    write(_FILE, servers)


def write(path: Path, servers: list[str]) -> None:
    """Raises: Refused, OSError."""
    if path.is_symlink():
        raise Refused(f"{path} is a link to {path.readlink()}, whose owner decides on nameservers")
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LIMIT:
            raise Refused(f"{path} is too large")
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    kept = [line for line in text.splitlines() if line.split()[:1] != ["nameserver"]]
    data = "".join(f"{line}\n" for line in [*kept, *(f"nameserver {server}" for server in servers)])
    _replace(path, data.encode("utf-8", errors="surrogateescape"))


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.vdsm")
    fresh.unlink(missing_ok=True)
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o644)
            file.write(data)
            file.flush()
            os.fsync(fd)
        fresh.replace(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        # Mounted over, as in a container: only its content can change.
        path.write_bytes(data)
    finally:
        fresh.unlink(missing_ok=True)


HANDLERS: Mapping[str, Callable[[Context, Mapping[str, Any]], None]] = {"nameservers-set": _set}
