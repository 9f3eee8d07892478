# SPDX-License-Identifier: Apache-2.0
"""The network room in the network namespace of some process, with root's real helper.

with NetworkSide(libvirtd.inner_init, folder) as side:
    side.do("mirror", {"red": ["vnet0"]})
"""

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vdsm_mp.priv import install

_CHECKOUT = Path(__file__).resolve().parents[2]


class NetworkSide:
    """See `netns_worker` for what it can do."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._lock = threading.Lock()
        self._inside = ["nsenter", "--target", str(pid), "--net", "--"]
        install.install(folder / "libexec", user="root", repository=str(folder))
        argv = [*self._inside, sys.executable, "-m", "tests.support.netns_worker", str(folder), "0"]
        self._worker = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_CHECKOUT)
        assert self._worker.stdout is not None and self._worker.stdout.readline().strip() == '"started"'

    def do(self, name: str, *arguments: Any) -> Any:
        assert self._worker.stdin is not None and self._worker.stdout is not None
        with self._lock:
            self._worker.stdin.write(json.dumps([name, arguments]) + "\n")
            self._worker.stdin.flush()
            return json.loads(self._worker.stdout.readline())["result"]

    def run(self, *argv: str) -> str:
        return subprocess.run([*self._inside, *argv], check=True, capture_output=True, text=True, timeout=20).stdout

    def copies(self, bridge: str) -> set[str]:
        """Cards that get what passes a bridge, by what the kernel says."""
        found = []
        for direction in ("ingress", "egress"):
            words = self.run("tc", "filter", "show", "dev", bridge, direction).split()
            found.append({words[at + 1].rstrip(")") for at, word in enumerate(words) if word == "device"})
        assert found[0] == found[1], found
        return found[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.communicate(timeout=20)
