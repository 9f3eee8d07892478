# SPDX-License-Identifier: Apache-2.0
"""What hosts of both kinds have in common: disks, the agent's line, and what a host is told of itself."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed.channel import Channel, Result, TestbedError

if TYPE_CHECKING:
    from tests.testbed.testbed import Testbed


SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size_bytes(text: str) -> int:
    return int(text[:-1]) * SIZES[text[-1].upper()] if text[-1].upper() in SIZES else int(text)


def sparse(path: Path, size: str) -> None:
    with path.open("wb") as f:
        f.truncate(size_bytes(size))


class Host:
    def __init__(self, bed: "Testbed", index: int):
        self.bed, self.index = bed, index
        self.name = f"host{index}"
        self.folder = bed.folder / self.name
        self.folder.mkdir()
        self.process: subprocess.Popen | None = None
        self.channel: Channel | None = None
        self.disks = []
        for n, size in enumerate(bed.disks, 1):
            path = self.folder / f"disk{n}"
            sparse(path, size)
            self.disks.append(path)

    def mac(self, nic: int) -> str:
        return f"52:54:00:77:{nic:02x}:{self.index:02x}"

    def sock(self, lan: int, which: str) -> str:
        return f"{self.bed.folder}/lan{lan}/{which}{self.index}"

    def wait_ready(self, seconds: float):
        end = time.monotonic() + seconds
        while not self.channel.ready.wait(0.05):
            if self.process.poll() is not None or self.channel.closed.is_set():
                raise TestbedError(
                    f"{self.name} ended while starting, see {self.folder}/console.log:\n{self.console()[-2000:]}"
                )
            if time.monotonic() > end:
                raise TestbedError(
                    f"{self.name} not up in {seconds} s, see {self.folder}/console.log:\n{self.console()[-2000:]}"
                )

    def console(self) -> str:
        path = self.folder / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def run(self, command, timeout: float | None = 300, env=None, cwd=None, on_output=None) -> Result:
        argv = ["/bin/bash", "-c", command] if isinstance(command, str) else [str(a) for a in command]
        env = {
            "TESTBED_INDEX": str(self.index),
            "TESTBED_HOSTS": str(self.bed.count),
            "TESTBED_BACKEND": self.bed.backend,
            "TESTBED_NAME": self.name,
            **(env or {}),
        }
        return self.channel.run(argv, timeout, env, cwd, on_output)

    def identify(self):
        """Name, addresses, disks, mounts: told to the running host, so that a resumed one can differ."""
        setup = {
            "name": self.name,
            "machine_id": f"{self.index:032x}",
            "time": time.time() if self.bed.backend == "qemu" else None,
            "nics": [
                {
                    "mac": self.mac(n),
                    "name": f"eth{n - 1}",
                    "address": f"10.77.{n - 1}.{self.index}",
                    "device": f"vec{n - 1}" if self.bed.backend == "uml" else None,
                }
                for n in range(1, self.bed.nics + 1)
            ],
            "disks": self.disk_devices(),
            "mounts": [],
        }
        readonly, noatime = 1, 1024
        mounts = setup["mounts"]
        if self.bed.project:
            kind, source, data = self.share("project", self.bed.project)
            if self.bed.project_mode == "overlay":
                mounts.append((source, "/run/project/lower", kind, readonly, data))
                mounts.append(
                    (
                        "overlay",
                        "/project",
                        "overlay",
                        0,
                        "lowerdir=/run/project/lower,upperdir=/run/project/upper,workdir=/run/project/work",
                    )
                )
            else:
                mounts.append(
                    (source, "/project", kind, noatime | (readonly if self.bed.project_mode == "ro" else 0), data)
                )
        for n, folder in enumerate(self.bed.hardware.folders if self.bed.hardware else ()):
            kind, source, data = self.share(f"folder{n}", Path(folder))
            mounts.append((source, folder, kind, noatime | readonly, data))
        kind, source, data = self.share("testbed", self.bed.folder / "testbed")
        mounts.append((source, "/testbed", kind, noatime, data))
        result = self.channel.request({"setup": setup}, self.bed.start_timeout)
        if result.status:
            raise TestbedError(f"{self.name}: {result.output}")

    def kill(self):
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
