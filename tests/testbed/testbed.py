# SPDX-License-Identifier: Apache-2.0
# SPDX-License-Identifier: Apache-2.0
"""Throw-away hosts with a full kernel: start, run commands as root, end.

    with Testbed(hosts=2, disks=["1G"], project="…") as bed:
        result = bed.hosts[0].run("vgcreate vg /dev/testbed/disk1", timeout=60)
        result.status, result.output

Backends: "uml" (user-mode Linux, a process, up in two seconds) and "qemu" (Debian's
kernel under TCG, resumed from a saved state). See README.md.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.testbed import build
from tests.testbed.channel import TestbedError
from tests.testbed.host import Host, sparse
from tests.testbed.qemu import Hardware, QemuHost
from tests.testbed.uml import UmlHost

HERE = Path(__file__).resolve().parent


class Testbed:
    __test__ = False  # not a test, whatever pytest makes of its name

    def __init__(
        self,
        hosts=1,
        backend="uml",
        memory=None,
        cpus=2,
        disks=(),
        shared_disks=(),
        nics=1,
        project=None,
        project_mode="ro",
        init="tiny",
        resume=True,
        verbose=False,
        keep=False,
        start_timeout=180,
        save_to=None,
        built=None,
        hardware: Hardware | None = None,
    ):
        self.built, self.hardware = built, hardware
        self.count, self.backend, self.disks, self.nics = hosts, backend, list(disks), nics
        self.memory = memory or 1024
        self.cpus, self.init, self.verbose, self.keep = cpus, init, verbose, keep
        self.resume = resume and backend == "qemu" and save_to is None and hardware is None
        self.save_to = save_to
        self.project = Path(project).resolve() if project else None
        self.project_mode = project_mode
        self.start_timeout = start_timeout
        self.shared_sizes = list(shared_disks)
        self.processes = []
        self.hosts: list[Host] = []

    def saved_state(self) -> Path:
        folder = self.built / f"state-{self.init}-{self.memory}M-{self.cpus}cpu"
        with (self.built / "state.lock").open("w") as lock:  # one saves, the others wait for it
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "device-state").exists():
                save_state(self, folder)
        return folder

    def start(self):
        self.built = self.built or build.build()
        # Short: a unix socket's path has 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="tb-", dir=os.environ.get("TESTBED_RUN_DIR") or None))
        (self.folder / "testbed").mkdir(mode=0o777)
        self.shared = []
        for n, size in enumerate(self.shared_sizes, 1):
            path = self.folder / f"shared{n}"
            sparse(path, size)
            self.shared.append(path)
        for lan in range(1, self.nics + 1):
            folder = self.folder / f"lan{lan}"
            self.processes.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        HERE / "lan.py",
                        folder,
                        str(max(8, self.count)),
                        f"{self.folder}/testbed/cut{lan - 1}",
                    ],
                    start_new_session=True,
                )
            )
            while not (folder / f"q{max(8, self.count)}").exists():
                time.sleep(0.01)
        kind = UmlHost if self.backend == "uml" else QemuHost
        start = time.monotonic()
        self.hosts = [kind(self, i + 1) for i in range(self.count)]
        for host in self.hosts:
            host.start()
        for host in self.hosts:
            host.wait_ready(self.start_timeout)
        if self.save_to is None:
            for host in self.hosts:
                if hasattr(host, "plug"):
                    host.plug()
                host.identify()
        self.start_seconds = time.monotonic() - start
        return self

    def stop(self):
        for host in self.hosts:
            host.kill()
        for process in self.processes:
            process.kill()
            process.wait()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.keep = self.keep or bool(os.environ.get("TESTBED_KEEP"))
            if hasattr(self, "folder"):
                self.stop()
            raise

    def __exit__(self, *exc):
        self.stop()

    def cut(self, lan: int, text: str):
        """Who does not hear whom on LAN 0, 1, …: see lan.py."""
        (self.folder / f"testbed/cut{lan}").write_text(text)
        time.sleep(0.6)  # it looks twice a second


def save_state(bed: Testbed, folder: Path) -> None:
    """Boot once, stop when the agent is ready, keep memory, device state and disk."""
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    part.mkdir(parents=True)
    template = Testbed(1, "qemu", bed.memory, bed.cpus, init=bed.init, nics=0, save_to=part, start_timeout=300)
    with template:
        host = template.hosts[0]
        # Load what every test loads anyway: a resumed host then has it at once.
        result = host.run(
            "modprobe -a 9p 9pnet_virtio virtio_net overlay dm-mod; udevadm settle; sync; "
            "echo 3 >/proc/sys/vm/drop_caches; sync",
            timeout=120,
        )
        if result.status:
            raise TestbedError(result.output)
        host.qmp("stop")
        host.qmp("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        host.qmp("migrate", uri=f"exec:cat >{part}/device-state")
        host.qmp.wait_migrated()
        host.qmp("quit")
        host.process.wait()
        shutil.move(host.folder / "root.qcow2", part / "root.qcow2")
    part.rename(folder)
