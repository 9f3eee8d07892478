# SPDX-License-Identifier: Apache-2.0
"""A private sanlock daemon without a watchdog: own run directory, unprivileged, found by who has its environment."""

import os
import subprocess
from pathlib import Path

from tests.support.eventually import eventually


class SanlockDaemon:
    """run_dir: must be short, a socket's path has 107 characters. Ends with `stop`."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.environment = {"SANLOCK_RUN_DIR": str(run_dir), "SANLOCK_PRIVILEGED": "0"}
        with (run_dir / "stderr").open("w") as log:
            self._process = subprocess.Popen(
                ["/usr/sbin/sanlock", "daemon", "-D", "-w", "0", "-e", "this-host"],
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        eventually((run_dir / "sanlock.sock").exists)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._process.kill()  # it ignores SIGTERM while it has a lockspace
        self._process.wait(10)
