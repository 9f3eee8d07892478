# SPDX-License-Identifier: Apache-2.0
"""A `Root` port for tests that run as root themselves: the storage operations, done at once."""

import subprocess
from typing import Any

from vdsm_mp.api.errors import DeadlineExceeded, PrivilegedFailed
from vdsm_mp.storage.mount import escape


class DirectRoot:
    """mnt_dir: where mount points are. Remembers what was asked."""

    def __init__(self, mnt_dir: str) -> None:
        self._mnt_dir = mnt_dir
        self.asked: list[str] = []

    def do(self, operation: str, /, *, deadline_s: float = 30.0, **params: Any) -> Any:
        self.asked.append(operation)
        target = f"{self._mnt_dir}/{escape(params['remote'])}"
        options = params.get("options") or "defaults"
        argv = {
            "mount-posix": ["mount", "-t", params.get("vfs_type", ""), "-o", options, params["remote"], target],
            "mount-nfs": ["mount", "-t", "nfs", "-o", options, params["remote"], target],
            "umount": ["umount", target],
            "umount-detach": ["umount", "-f", "-l", target],
        }[operation]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=deadline_s, check=False)
        except subprocess.TimeoutExpired:
            raise DeadlineExceeded(operation, deadline_s) from None
        if done.returncode:
            raise PrivilegedFailed(operation, done.stderr.strip())
        return None
