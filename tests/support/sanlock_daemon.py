# SPDX-License-Identifier: Apache-2.0
"""A private sanlock daemon without a watchdog: own run directory, unprivileged, seen by this process and its children
through the environment."""

import os
import subprocess
from pathlib import Path

from tests.support.eventually import eventually


class SanlockDaemon:
    """run_dir: must be short, a socket's path has 107 characters. Ends with `stop`."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._before = {name: os.environ.get(name) for name in ("SANLOCK_RUN_DIR", "SANLOCK_PRIVILEGED")}
        os.environ["SANLOCK_RUN_DIR"] = str(run_dir)
        os.environ["SANLOCK_PRIVILEGED"] = "0"
        with (run_dir / "stderr").open("w") as log:
            self._process = subprocess.Popen(
                ["/usr/sbin/sanlock", "daemon", "-D", "-w", "0", "-e", "this-host"],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        eventually((run_dir / "sanlock.sock").exists)

    def stop(self) -> None:
        self._process.kill()  # it ignores SIGTERM while it has a lockspace
        self._process.wait(10)
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
