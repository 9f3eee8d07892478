# SPDX-License-Identifier: Apache-2.0
"""qemu-nbd servers of this host: one process and one socket below the run directory for each.

A server is no child of ours for long: it goes into a session of its own, so that a backup which reads from it survives
a restart of the agent. What is left of it are its socket and pid file, by which any later worker finds and ends it.
"""

import json
import logging
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from vdsm_mp.common import command
from vdsm_mp.common.command import CommandFailed

_log = logging.getLogger("storage.nbd")

START_S = 10.0
_STOP_S = 10.0
_PID = re.compile(r"[1-9][0-9]{0,9}\s*")


class Export(msgspec.Struct, frozen=True):
    """layers: [(path, format)] of the chain, base first; only those are exported."""

    layers: Sequence[tuple[str, str]]
    readonly: bool
    discard: bool
    detect_zeroes: bool
    bitmap: str | None


class NbdServers:
    """run_dir: where VDSM and its neighbours look."""

    def __init__(self, run_dir: str) -> None:
        self._dir = Path(run_dir) / "nbd"

    def socket(self, server_id: str) -> Path:
        return self._dir / f"{server_id}.sock"

    def start(self, server_id: str, export: Export) -> str:
        """Returns the address for clients. Starting what runs already is fine. Raises: CommandFailed."""
        if self._pid(server_id) is None:
            self._dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            self.socket(server_id).unlink(missing_ok=True)
            command.run(self._argv(server_id, export), deadline_s=START_S)
            # Group kvm may connect: that is who backs up.
            self.socket(server_id).chmod(0o660)
        return f"nbd:unix:{self.socket(server_id)}"

    def stop(self, server_id: str) -> None:
        """Idempotent; unknown ids are fine. Raises: CommandFailed (it does not end)."""
        pid = self._pid(server_id)
        if pid is not None:
            _end(pid)
        for path in (self.socket(server_id), self._pid_file(server_id)):
            path.unlink(missing_ok=True)

    def running(self) -> list[str]:
        return [path.stem for path in self._dir.glob("*.sock") if self._pid(path.stem) is not None]

    def _pid_file(self, server_id: str) -> Path:
        return self._dir / f"{server_id}.pid"

    def _pid(self, server_id: str) -> int | None:
        """Of the running server. The number alone proves nothing: the program must name our socket."""
        try:
            text = self._pid_file(server_id).read_text()
            if not _PID.fullmatch(text):
                return None
            words = Path(f"/proc/{int(text)}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return None
        return int(text) if os.fsencode(f"--socket={self.socket(server_id)}") in words else None

    def _argv(self, server_id: str, export: Export) -> list[str]:
        node: dict[str, object] | None = None
        top = len(export.layers) - 1
        for n, (path, fmt) in enumerate(export.layers):
            writes = n == top and not export.readonly
            below = node
            file = {"driver": "file", "filename": path, "cache": {"direct": True}, "read-only": not writes}
            node = {"driver": fmt, "file": file, "cache": {"direct": True}, "read-only": not writes}
            if fmt == "qcow2":
                node["backing"] = below
            if n == top and export.discard:
                node["discard"] = "unmap"
            if n == top and export.detect_zeroes:
                node["detect-zeroes"] = "unmap" if export.discard else "on"
        argv = [
            # Out of our session, and of the death signal that programs otherwise have from us.
            *("qemu-nbd", "--fork", f"--pid-file={self._pid_file(server_id)}"),
            f"--socket={self.socket(server_id)}",
            *("--persistent", "--shared=8", "--export-name="),
        ]
        if export.readonly:
            argv.append("--read-only")
        if export.bitmap:
            argv.append(f"--bitmap={export.bitmap}")
        return [*argv, "json:" + json.dumps(node)]


def _end(pid: int) -> None:
    """Raises: CommandFailed."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(fd, number)
            until = time.monotonic() + _STOP_S
            while time.monotonic() < until:
                if not Path(f"/proc/{pid}").exists() or _is_zombie(pid):
                    return
                time.sleep(0.01)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)
    raise CommandFailed("qemu-nbd", -signal.SIGKILL, f"process {pid} does not end")


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
