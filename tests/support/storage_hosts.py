# SPDX-License-Identifier: Apache-2.0
"""Hosts that share storage: whole houses of which only storage and the door work, each with a sanlock of its own, over
file systems on loop devices that all of them mount. Needs root.

    with storage_hosts(devices=3) as (hosts, devices): …
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.loopdevice import MIB, ext4_on_loop
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.mount import escape

_SANLOCK = ["/usr/sbin/sanlock", "daemon", "-D", "-w", "0", "-U", "vdsm", "-G", "kvm", "-e"]


class StorageHost:
    """One host. Its leases take a tenth of the time that they take in life (1 s I/O timeout)."""

    def __init__(self, host_id: int, place: Path, table: str) -> None:
        self.host_id = host_id
        self._run_dir = place / f"s{host_id}"
        self._run_dir.mkdir()
        shutil.chown(self._run_dir, "vdsm", "kvm")
        self._env = {"SANLOCK_RUN_DIR": str(self._run_dir), "SANLOCK_PRIVILEGED": "0"}
        self._sanlock: subprocess.Popen[bytes] | None = None
        options: dict[str, dict[str, object]] = {"sanlock": {"io_timeout": 1}, "irs": {"sd_health_check_delay": 1}}
        self.house = RunningHouse(options, tls=False, table=table, libvirt_uri="test:///default")
        self.house.environment = self._env

    @property
    def repository(self) -> Path:
        return self.house.root / "repo"

    def mount_of(self, device: str) -> Path:
        return self.repository / "mnt" / escape(device)

    def begin(self) -> None:
        self.begin_sanlock()
        self.house.begin()

    def begin_sanlock(self) -> None:
        user = pwd.getpwnam("vdsm")
        (self._run_dir / "sanlock.sock").unlink(missing_ok=True)
        with (self._run_dir / "stderr").open("a") as log:
            self._sanlock = subprocess.Popen(
                [*_SANLOCK, f"host-{self.host_id}"],
                env={**os.environ, **self._env},
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[user.pw_gid],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        eventually((self._run_dir / "sanlock.sock").exists)

    def kill_sanlock(self) -> None:
        assert self._sanlock is not None
        self._sanlock.kill()
        self._sanlock.wait(10)

    def crash(self) -> None:
        """As a power cut: everything of the host at once, mounts excepted."""
        assert self.house.process is not None
        pids = self.house.all_pids()
        self.kill_sanlock()
        for pid in (self.house.process.pid, *pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.house.process.wait(10)

    def call(self, verb: str, /, **params: Any) -> Any:
        return self.house.call(verb, params)

    def server(self, verb: str, device: str) -> int:
        row = {"id": device, "connection": device, "vfs_type": "ext4"}
        [found] = self.call(f"StoragePool.{verb}", storagepoolID=BLANK, domainType=6, connectionParams=[row])
        return int(found["status"])

    def stop(self) -> None:
        mounts = list((self.repository / "mnt").glob("*"))
        with contextlib.suppress(FileNotFoundError):
            mounted = [path for path in mounts if os.path.ismount(path)]
        if self._sanlock is not None:
            self.kill_sanlock()
        if self.house.process is not None and self.house.process.poll() is None:
            self.house.terminate()
        for path in mounted:
            subprocess.run(["umount", path], check=True)
        self.house.stop()


@contextlib.contextmanager
def storage_hosts(
    *, devices: int, hosts: int = 2, table: str = "tests.support.storage_table"
) -> Iterator[tuple[list[StorageHost], list[str]]]:
    """The hosts, running, and the devices, each with an empty file system that user vdsm owns. table: of workers."""
    with contextlib.ExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="sh-", dir="/tmp"))
        place.chmod(0o755)
        stack.callback(shutil.rmtree, place)
        user = pwd.getpwnam("vdsm")
        owner = f"{user.pw_uid}:{user.pw_gid}"
        disks = [place / f"disk{number}" for number in range(devices)]
        made = [stack.enter_context(ext4_on_loop(disk, 192 * MIB, owner)) for disk in disks]
        running = []
        for host_id in range(1, hosts + 1):
            host = StorageHost(host_id, place, table)
            stack.callback(host.stop)
            host.begin()
            running.append(host)
        for host in running:
            host.house.wait_ready()
        yield running, made
