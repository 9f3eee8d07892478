# SPDX-License-Identifier: Apache-2.0
"""A plain Debian 12 in namespaces of its own, without an init and without a network: commands run in it as root.

The packages are those of `systemd_root`: nothing is fetched twice. Everything in it ends with its first process.
"""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.eventually import eventually
from tests.testbed import build, systemd_root
from tests.testbed.channel import Result

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOUNTS = (
    "mount -t sysfs sysfs /sys; mount -t tmpfs tmpfs /run; mkdir -p /run/lock /dev/pts; "
    "mount -t devpts devpts /dev/pts; ip link set lo up; hostname bare; "
    # It reaps what others leave, as an init does.
    "exec bash -c 'while :; do sleep 5; done'"
)


class BareRoot:
    """with BareRoot(folder, packages) as host: host.run("…"). What is put into `host.shared` is seen as /testbed."""

    name = "bare"

    def __init__(self, folder: Path, packages: tuple[str, ...]) -> None:
        self.root, self.shared = folder / "root", folder / "testbed"
        self._packages = packages
        self._holder: subprocess.Popen[bytes] | None = None
        self._init = 0

    def __enter__(self) -> Self:
        self.shared.mkdir()
        self.root.mkdir()
        build.call("tar", "-C", self.root, "-xf", systemd_root.packages(self._packages))
        (self.root / "usr/sbin/policy-rc.d").unlink(missing_ok=True)
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        (self.root / "testbed").mkdir()
        # As an administrator of a container must have it: libvirt cannot make a /dev of each guest's own here.
        with (self.root / "etc/libvirt/qemu.conf").open("a") as file:
            file.write("namespaces = []")
        argv = ["unshare", "--pid", "--fork", "--mount", "--net", "--uts", "--ipc", "--kill-child"]
        shell = (
            f"mount --bind {self.shared} {self.root}/testbed && exec chroot {self.root} sh -c {shlex.quote(_MOUNTS)}"
        )
        self._holder = subprocess.Popen(
            [*argv, f"--mount-proc={self.root}/proc", "sh", "-c", shell], start_new_session=True
        )
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        eventually(lambda: children.read_text().strip() != "", within_s=30)
        self._init = int(children.read_text().split()[0])
        eventually(lambda: Path(f"/proc/{self._init}/cmdline").read_bytes().startswith(b"bash"), within_s=30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._holder is not None
        os.kill(self._init, signal.SIGKILL)
        self._holder.wait(30)
        shutil.rmtree(self.root)

    def run(self, command: str, timeout: float | None = 300, env: Mapping[str, str] | None = None) -> Result:
        started = time.monotonic()
        enter = ["nsenter", "--target", str(self._init), "--all", "--root", "--wd"]
        done = subprocess.run(
            [*enter, "setsid", "sh", "-c", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False,
            env={"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", **(env or {})},
        )  # fmt: skip
        return Result(done.returncode, done.stdout.decode(errors="replace"), time.monotonic() - started)
