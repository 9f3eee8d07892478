# SPDX-License-Identifier: Apache-2.0
"""Hosts that are a process: user-mode Linux."""

import os
import socket
import subprocess

from tests.testbed.channel import Channel
from tests.testbed.host import Host


class UmlHost(Host):
    """The kernel as a process. Disks are /dev/ubd*, shares are hostfs."""

    def start(self):
        bed, built = self.bed, self.bed.built
        outside, inside = socket.socketpair()
        argv = [
            str(built / "linux.uml"),
            f"mem={bed.memory}M",
            f"umid={self.name}",
            f"uml_dir={self.folder}",
            f"ubd0={self.folder}/root.cow,{built}/root.img",
            "root=/dev/ubda",
            "rw",
            "rootfstype=ext4",
            "con=null",
            "con0=null,fd:1",
            "ssl=null",
            f"ssl0=fd:{inside.fileno()},fd:{inside.fileno()}",
            "testbed.uml",
            "console=tty0",
            "quiet" if not bed.verbose else "",
            "panic=1",
            "random.trust_cpu=1",
            "no_hash_pointers",
        ]
        argv.append("init=/usr/lib/testbed/init" if bed.init == "tiny" else "init=/sbin/init")
        if bed.init == "systemd":
            argv += ["systemd.mask=systemd-udev-settle.service", "systemd.show_status=0"]
        links = {}
        for n, path in enumerate(self.disks, 1):
            argv.append(f"ubd{n}={path}")
            links[f"disk{n}"] = f"/dev/ubd{chr(97 + n)}"
        for n, path in enumerate(bed.shared, 1):
            k = len(self.disks) + n
            argv.append(f"ubd{k}c={path}")  # c: shared, no lock on the file
            links[f"shared{n}"] = f"/dev/ubd{chr(97 + k)}"
        self.links = links
        for nic in range(1, bed.nics + 1):
            argv.append(f"vec{nic - 1}:transport=bess,dst={self.sock(nic, 'q')},mac={self.mac(nic)},depth=128,gro=0")
        # The guest's memory is a sparse file in $TMPDIR: a tmpfs, not the disk.
        env = {**os.environ, "TMPDIR": "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(self.folder)}
        with (self.folder / "console.log").open("wb") as log:
            self.process = subprocess.Popen(
                [a for a in argv if a],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[inside.fileno()],
                env=env,
                start_new_session=True,
                cwd=self.folder,
                preexec_fn=self.pin,  # noqa: PLW1509 -- one system call, before the program is run
            )
        inside.close()
        self.channel = Channel(outside)

    def pin(self):
        """On one CPU: the kernel and its processes hand over to each other, and waking
        another CPU for that costs four times as much (measured in a nested VM)."""
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[(self.index - 1) % len(cpus)]})

    def share(self, name, folder):
        return "hostfs", "none", str(folder)

    def disk_devices(self):
        return self.links
