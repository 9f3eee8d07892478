# SPDX-License-Identifier: Apache-2.0
"""Hosts with Debian's kernel in QEMU without KVM: resumed from a saved state, or booted when their hardware differs."""

import dataclasses
import json
import socket
import subprocess
import threading
import time
from pathlib import Path

from tests.testbed.channel import Channel, TestbedError
from tests.testbed.host import Host


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Of qemu hosts that are not like the others; they are booted, because saved states know only the others.

    devices: more words for QEMU, "{folder}" in them is the host's own. modules: words for the kernel. folders: of the
    machine, seen in the host under the same paths, read-only.
    """

    machine: str = "q35"
    devices: tuple[str, ...] = ()
    kernel: str = ""
    folders: tuple[str, ...] = ()


class QemuHost(Host):
    """Debian's kernel in QEMU without KVM. Disks are virtio, shares are 9p."""

    def base_argv(self) -> list[str]:
        bed = self.bed
        return [
            "qemu-system-x86_64",
            "-name",
            self.name,
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-machine",
            f"{bed.hardware.machine if bed.hardware else 'pc'},accel=tcg,memory-backend=ram,hpet=off",
            "-cpu",
            "max",
            "-smp",
            str(bed.cpus),
            "-m",
            f"{bed.memory}M",
            "-serial",
            f"file:{self.folder}/console.log",
            "-qmp",
            f"unix:{self.folder}/qmp,server=on,wait=off",
            "-device",
            "virtio-rng-pci",
            "-device",
            "virtio-serial-pci,id=vser",
            "-chardev",
            f"socket,id=agent,path={self.folder}/agent,server=on,wait=off",
            "-device",
            "virtserialport,bus=vser.0,chardev=agent,name=testbed.agent",
            "-device",
            "i6300esb,id=wdt",
            "-action",
            "watchdog=reset",
            "-fsdev",
            f"local,id=testbed,path={bed.folder}/testbed,security_model=none",
            "-device",
            "virtio-9p-pci,fsdev=testbed,mount_tag=testbed",
            "-fsdev",
            f"local,id=project,path={bed.project or bed.folder / 'testbed'},security_model=none"
            + (",readonly=on" if bed.project_mode != "rw" else ""),
            "-device",
            "virtio-9p-pci,fsdev=project,mount_tag=project",
            *self.more_argv(),
        ]

    def more_argv(self) -> list[str]:
        hardware = self.bed.hardware
        if hardware is None:
            return []
        words = [word.format(folder=self.folder) for word in hardware.devices]
        for n, folder in enumerate(hardware.folders):
            words += [
                *("-fsdev", f"local,id=folder{n},path={folder},security_model=none,readonly=on"),
                *("-device", f"virtio-9p-pci,fsdev=folder{n},mount_tag=folder{n}"),
            ]
        return words

    qmp: "Qmp | None" = None

    def start(self):
        bed, built = self.bed, self.bed.built
        state = bed.saved_state() if bed.resume else None
        root = self.folder / "root.qcow2"
        backing = (state / "root.qcow2", "qcow2") if state else (built / "root.img", "raw")
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing[0], "-F", backing[1], root], check=True
        )
        argv = self.base_argv()
        memory = f"memory-backend-file,id=ram,size={bed.memory}M,mem-path="
        if state:
            # The saved memory is mapped privately: pages are read when touched, nothing is copied.
            argv += ["-object", f"{memory}{state}/ram,share=off", "-incoming", "defer"]
        elif bed.save_to:
            argv += ["-object", f"{memory}{bed.save_to}/ram,share=on"]
        else:
            argv += ["-object", f"memory-backend-ram,id=ram,size={bed.memory}M"]
        # No locks on the shared files below: user-mode hosts lock the image in a way QEMU refuses.
        unlocked = "".join(f",{'backing.' * depth}file.locking=off" for depth in range(1, 3 if state else 2))
        argv += [
            "-drive",
            f"file={root},if=none,id=root,format=qcow2,cache=unsafe,discard=unmap{unlocked}",
            "-device",
            f"virtio-blk-pci,drive=root,bus={'pcie' if bed.hardware else 'pci'}.0,addr=0x10",
        ]
        init = "/usr/lib/testbed/init" if bed.init == "tiny" else "/sbin/init"
        argv += [
            "-kernel",
            f"{built}/vmlinuz",
            "-initrd",
            f"{built}/initrd.testbed",
            "-append",
            f"root=/dev/vda rw init={init} console=ttyS0 quiet panic=1 net.ifnames=0 mitigations=off tsc=unstable "
            "random.trust_cpu=1 nowatchdog audit=0 systemd.show_status=0 no_timer_check "
            + (bed.hardware.kernel if bed.hardware else ""),
        ]
        with (self.folder / "qemu.log").open("wb") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self.qmp = Qmp(self.connect("qmp"))
        except OSError:
            self.process.wait(5)
            raise TestbedError(f"QEMU ended: {(self.folder / 'qemu.log').read_text()}") from None
        self.channel = Channel(self.connect("agent"))
        if state:
            self.qmp("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
            self.qmp("migrate-incoming", uri=f"exec:cat {state}/device-state")
            self.qmp.wait_migrated()
            self.qmp("cont")
            threading.Thread(target=self.knock, daemon=True).start()

    def kill(self):
        super().kill()
        if self.channel:
            # Its reader closes the socket when it has read to the end.
            self.channel.closed.wait(5)
        if self.qmp:
            self.qmp.close()

    def knock(self):
        """A resumed agent said its `ready` long ago: ask."""
        while not self.channel.ready.wait(0.2) and not self.channel.closed.is_set():
            self.channel.send({"hello": 1})

    def plug(self):
        """Disks and network cards come after the start: a resumed host has none in its state."""
        for n, path in [*enumerate(self.disks, 1)]:
            self.plug_disk(f"disk{n}", path)
        for n, path in enumerate(self.bed.shared, 1):
            self.plug_disk(f"shared{n}", path, shared=True)
        for nic in range(1, self.bed.nics + 1):
            self.qmp(
                "netdev_add",
                type="dgram",
                id=f"n{nic}",
                local={"type": "unix", "path": self.sock(nic, "h")},
                remote={"type": "unix", "path": self.sock(nic, "p")},
            )
            self.qmp("device_add", driver="virtio-net-pci", netdev=f"n{nic}", mac=self.mac(nic), id=f"nic{nic}")

    def plug_disk(self, name: str, path: Path, shared=False):
        self.qmp(
            "blockdev-add",
            **{
                "driver": "raw",
                "node-name": name,
                "file": {"driver": "file", "filename": str(path), "locking": "off" if shared else "auto"},
            },
        )
        self.qmp(
            "device_add",
            **{"driver": "virtio-blk-pci", "drive": name, "id": f"dev-{name}", "serial": name, "share-rw": shared},
        )

    def connect(self, name: str) -> socket.socket:
        path = self.folder / name
        end = time.monotonic() + 30
        while time.monotonic() < end:
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(str(path))
                return s
            except OSError:
                s.close()
                if self.process.poll() is not None:
                    raise TestbedError(f"QEMU ended: {(self.folder / 'qemu.log').read_text()}") from None
                time.sleep(0.02)
        raise TestbedError(f"no {path}")

    def share(self, name, folder):
        cache = "mmap" if name == "project" else "none"
        return "9p", name, f"trans=virtio,version=9p2000.L,msize=524288,cache={cache}"

    def disk_devices(self):
        return {
            **{f"disk{n + 1}": None for n in range(len(self.disks))},
            **{f"shared{n + 1}": None for n in range(len(self.bed.shared))},
        }


class Qmp:
    def __init__(self, sock: socket.socket):
        self.file = sock.makefile("rwb")
        sock.close()  # when the file is
        self.read()
        self("qmp_capabilities")

    def read(self):
        line = self.file.readline()
        if not line:
            raise TestbedError("QEMU closed its monitor")
        return json.loads(line)

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self.file.flush()
        while True:
            answer = self.read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise TestbedError(f"{command}: {answer['error']['desc']}")

    def close(self):
        self.file.close()

    def wait_migrated(self, seconds: float = 60):
        end = time.monotonic() + seconds
        while (status := self("query-migrate").get("status")) != "completed":
            if status == "failed" or time.monotonic() > end:
                raise TestbedError(f"saved state not loaded: {status}")
            time.sleep(0.01)
