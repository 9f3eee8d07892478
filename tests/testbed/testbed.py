# SPDX-License-Identifier: Apache-2.0
"""Throw-away hosts with a full kernel: start, run commands as root, end.

    with Testbed(hosts=2, disks=["1G"], project="…") as bed:
        result = bed.hosts[0].run("vgcreate vg /dev/testbed/disk1", timeout=60)
        result.status, result.output

Backends: "uml" (user-mode Linux, a process, up in two seconds) and "qemu" (Debian's
kernel under TCG, resumed from a saved state). See README.md.
"""

import base64
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.testbed import build

HERE = Path(__file__).resolve().parent
SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class TestbedError(Exception):
    """A host could not be made, started or reached."""

    __test__ = False


@dataclasses.dataclass
class Result:
    status: int
    output: str
    seconds: float


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


def size_bytes(text: str) -> int:
    return int(text[:-1]) * SIZES[text[-1].upper()] if text[-1].upper() in SIZES else int(text)


def sparse(path: Path, size: str) -> None:
    with path.open("wb") as f:
        f.truncate(size_bytes(size))


class Channel:
    """The agent's line: one JSON object a line, answers handed to whoever waits."""

    def __init__(self, sock: socket.socket):
        self.sock = sock
        self.ready = threading.Event()
        self.closed = threading.Event()
        self.next_id = 0
        self.waiting = {}
        self.lock = threading.Lock()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        buffer = b""
        while True:
            try:
                data = self.sock.recv(65536)
            except OSError:
                data = b""
            if not data:
                self.sock.close()
                break
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # what the kernel printed before the agent had the line
                if "ready" in message or "hello" in message:
                    self.ready.set()
                elif (waiter := self.waiting.get(message.get("id"))) is not None:
                    waiter(message)
        self.closed.set()
        for waiter in list(self.waiting.values()):
            waiter({"gone": True})

    def send(self, message: dict):
        with self.lock:
            self.sock.sendall((json.dumps(message) + "\n").encode())

    def run(self, argv, timeout=None, env=None, cwd=None, on_output=None) -> Result:
        return self.request({"argv": argv, "timeout": timeout, "env": env or {}, "cwd": cwd}, timeout, on_output)

    def request(self, message, timeout=None, on_output=None) -> Result:
        with self.lock:
            self.next_id += 1
            ident = self.next_id
        done = threading.Event()
        output, status = [], []

        def answer(message):
            if "out" in message:
                data = base64.b64decode(message["out"])
                output.append(data)
                if on_output:
                    on_output(data)
            else:
                status.append(message.get("exit"))
                done.set()

        self.waiting[ident] = answer
        start = time.monotonic()
        self.send({"id": ident, **message})
        # The agent ends the command; should the host itself hang, this does.
        if not done.wait(None if timeout is None else timeout + 15):
            status.append(124)
        self.waiting.pop(ident, None)
        if status[0] is None:
            raise TestbedError("the host went away")
        return Result(status[0], b"".join(output).decode(errors="replace"), time.monotonic() - start)


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
