# SPDX-License-Identifier: Apache-2.0
"""A libvirtd of one's own: its own mounts, network, process ids and host name, below one temporary directory (`root`).

    with PrivateLibvirtd.start() as libvirtd:
        libvirt.open(libvirtd.uri)

Reached from outside by `qemu+unix:///system?socket=…`, without authentication, by root and by members of group kvm.
QEMU runs as libvirt-qemu:kvm, as an installed host has it, and by plain emulation. Nothing outlives the test, not
even when the test is killed with -9: the process id namespace ends with it, and every QEMU with the namespace.
Needs root, libvirt-daemon, qemu-system-x86 and util-linux.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.eventually import eventually

_CONFIG = """
unix_sock_group = "kvm"
unix_sock_rw_perms = "0770"
unix_sock_ro_perms = "0777"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "{host_uuid}"
log_outputs = "3:file:{root}/log/libvirtd.log"
{more}
"""

_LISTEN = """
listen_tls = 0
listen_tcp = 1
auth_tcp = "none"
listen_addr = "0.0.0.0"
"""

_QEMU_CONFIG = """
user = "libvirt-qemu"
group = "kvm"
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = []
namespaces = []
remember_owner = 0
vnc_listen = "127.0.0.1"
"""

_ROOT = """
clear_emulator_capabilities = 0
"""

# Process 1 of the namespace: keeps it alive and collects orphaned QEMUs, which libvirt would take for living ones.
_INIT = """
mount --make-rprivate /
mkdir -p /run/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /etc/libvirt
mount --bind {root}/run /run/libvirt
mount --bind {root}/lib /var/lib/libvirt
mount --bind {root}/log /var/log/libvirt
mount --bind {root}/cache /var/cache/libvirt
mount --bind {root}/etc /etc/libvirt
mount --bind {root}/hosts /etc/hosts
if [ -c /dev/kvm ]; then
    # As udev has it. When root may open the device and QEMU may not, libvirt probes QEMU anew at every call.
    mknod -m 660 {root}/kvm c 10 232
    chgrp kvm {root}/kvm
    mount --bind {root}/kvm /dev/kvm
fi
ip link set lo up
hostname {name}
touch {root}/ready
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done
"""


# libvirtd 9.0 sometimes crashes when it comes back after connections it served were cut; a service manager starts it
# again, and so do we. Who ends it by another signal means it.
_DAEMON = """
while :; do
    libvirtd -f /etc/libvirt/libvirtd.conf -p /run/libvirt/libvirtd.pid "$@"
    ended=$?
    [ $ended = 139 ] || [ $ended = 134 ] || exit $ended
    echo "libvirtd crashed (status $ended); starting it again" >&2
done
"""


class PrivateLibvirtd:
    """See the module. `kill()`, `stop()`, `freeze()` and `thaw()` treat the daemon badly; guests are not touched."""

    def __init__(self, root: Path, name: str, more: str, listen: bool, qemu_is_root: bool) -> None:
        self.root = root
        self.name = name
        self._more = more + (_LISTEN if listen else "")
        self._listen = listen
        self._qemu_config = _QEMU_CONFIG if not qemu_is_root else _QEMU_CONFIG.replace("libvirt-qemu", "root") + _ROOT
        self._init: subprocess.Popen[bytes] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(
        cls, *, name: str = "test-host", more_config: str = "", listen: bool = False, qemu_is_root: bool = False
    ) -> Self:
        """Make one and wait until it answers. listen: on TCP too, for others that are `link`ed with it.

        qemu_is_root: post-copy wants that where the kernel gives userfaultfd to nobody else.
        """
        root = Path(tempfile.mkdtemp(prefix="lv-", dir="/tmp"))
        root.chmod(0o755)
        self = cls(root, name, more_config, listen, qemu_is_root)
        try:
            self._prepare()
            self.launch()
        except BaseException:
            self.close()
            raise
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def socket(self) -> Path:
        return self.root / "run" / "libvirt-sock"

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def pid(self) -> int:
        """The daemon's process id as we see it. ProcessLookupError when it does not run."""
        if self._daemon is None:
            raise ProcessLookupError("libvirtd is not started")
        pid = self._daemon.pid  # nsenter's; below it are the shell of _DAEMON and libvirtd
        try:
            for _ in range(2):
                pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        except (OSError, IndexError) as error:
            raise ProcessLookupError("libvirtd does not run") from error
        return pid

    def launch(self) -> None:
        """Start the daemon (again)."""
        assert self._init is not None
        self.socket.unlink(missing_ok=True)
        (self.root / "run" / "libvirtd.pid").unlink(missing_ok=True)
        namespaces = ["nsenter", "--target", str(self._inner_init), "--mount", "--net", "--uts", "--ipc", "--pid"]
        with (self.root / "log" / "out").open("ab") as out:
            self._daemon = subprocess.Popen(
                [
                    *_die_with_us(),
                    *namespaces,
                    "--",
                    "bash",
                    "-c",
                    _DAEMON,
                    "libvirtd",
                    *(["-l"] if self._listen else []),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        eventually(self._answers, within_s=30)

    def kill(self) -> None:
        """kill -9; guests go on."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """An orderly stop; guests go on."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @property
    def inner_pid(self) -> int:
        """A process that lives in its namespaces, as we see it."""
        return self._inner_init

    def qemu_pid(self, vm_name: str) -> int:
        """The QEMU of a VM, as we see it. ProcessLookupError when there is none."""
        for pid in self._inside():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if any(word.startswith(f"guest={vm_name},".encode()) for word in words):
                    return pid
        raise ProcessLookupError(f"no QEMU of {vm_name}")

    def virsh(self, *words: str) -> str:
        done = subprocess.run(
            ["virsh", "-q", "-c", self.uri, *words], check=False, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def link(self, other: "PrivateLibvirtd") -> tuple[str, str]:
        """A cable between the two; (our address, its address)."""
        addresses = ("10.78.0.1", "10.78.0.2")
        ends = (self._inner_init, other._inner_init)
        words = ["ip", "link", "add", "cable", "netns", str(ends[0]), "type", "veth", "peer", "cable"]
        subprocess.run([*words, "netns", str(ends[1])], check=True, timeout=10)
        names = "".join(f"{address} {end.name}\n" for address, end in zip(addresses, (self, other), strict=True))
        for end, pid, address in zip((self, other), ends, addresses, strict=True):
            inside = ["nsenter", "--target", str(pid), "--net", "ip"]
            subprocess.run([*inside, "address", "add", f"{address}/24", "dev", "cable"], check=True, timeout=10)
            subprocess.run([*inside, "link", "set", "cable", "up"], check=True, timeout=10)
            (end.root / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        return addresses

    def log(self) -> str:
        """What the daemon complained of."""
        found = [self.root / "log" / "libvirtd.log", self.root / "log" / "out"]
        return "\n".join(path.read_text(errors="replace") for path in found if path.exists())

    def add_bridge(self, name: str) -> None:
        """A bridge where its guests are; fine when it is there."""
        inside = ["nsenter", "--target", str(self._inner_init), "--net", "ip", "link"]
        if subprocess.run([*inside, "show", "dev", name], check=False, capture_output=True, timeout=10).returncode:
            subprocess.run([*inside, "add", "name", name, "type", "bridge"], check=True, timeout=10)
            subprocess.run([*inside, "set", "dev", name, "up"], check=True, timeout=10)

    def close(self) -> None:
        """End it with all its guests. Safe to repeat."""
        inside = self._inside() if self._init is not None else []
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError, AssertionError):
                os.kill(self._inner_init, signal.SIGKILL)
            self._init.kill()
            self._init.wait(10)
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait(10)
        eventually(lambda: not any(_alive(pid) for pid in inside), within_s=10)
        self._init = self._daemon = None
        _keep_capabilities_cache(self.root / "cache" / "qemu")
        shutil.rmtree(self.root, ignore_errors=True)

    # -- inside

    def _prepare(self) -> None:
        for folder in ("run", "lib", "log", "cache", "etc"):
            (self.root / folder).mkdir(mode=0o755)
        (self.root / "lib" / "qemu").mkdir(mode=0o751)
        shutil.chown(self.root / "lib" / "qemu", "libvirt-qemu", "kvm")
        config = _CONFIG.format(host_uuid=uuid.uuid4(), root=self.root, more=self._more)
        (self.root / "etc" / "libvirtd.conf").write_text(config)
        (self.root / "etc" / "qemu.conf").write_text(self._qemu_config)
        with contextlib.suppress(FileNotFoundError):
            shutil.copytree("/etc/libvirt/nwfilter", self.root / "etc" / "nwfilter")
        _share_capabilities_cache(self.root / "cache" / "qemu")
        # libvirt asks for its own name often; without this line each time waits for a name server.
        (self.root / "hosts").write_text(f"127.0.0.1 localhost {self.name}\n::1 localhost\n")
        script = _INIT.format(root=self.root, name=self.name)
        self._init = subprocess.Popen(
            [*_die_with_us(), "unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child",
             "--mount-proc", "bash", "-ec", script],
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        eventually((self.root / "ready").exists, within_s=10)

    @property
    def _inner_init(self) -> int:
        assert self._init is not None
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
        try:
            return int(children.read_text().split()[0])
        except (OSError, IndexError) as error:
            raise ProcessLookupError("the namespace is gone") from error

    def _inside(self) -> list[int]:
        """Every process of the namespace."""
        with contextlib.suppress(OSError, ProcessLookupError):
            ours = os.readlink(f"/proc/{self._inner_init}/ns/pid")
            return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _namespace(pid) == ours]
        return []

    def _answers(self) -> bool:
        assert self._daemon is not None
        if self._daemon.poll() is not None:
            raise RuntimeError(f"libvirtd ended with status {self._daemon.returncode}: {self.log()}")
        if not self.socket.exists():
            return False
        probe = ["virsh", "-q", "-c", self.uri, "version"]
        return subprocess.run(probe, capture_output=True, timeout=20, check=False).returncode == 0

    def _end(self, number: signal.Signals) -> None:
        assert self._daemon is not None
        os.kill(self.pid, number)
        self._daemon.wait(20)


def _die_with_us() -> list[str]:
    return ["setpriv", "--pdeathsig", "KILL", "--"]


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


_SHARED_CAPABILITIES = Path(tempfile.gettempdir()) / "vdsm-mp-test-qemu-capabilities"


def _share_capabilities_cache(cache: Path) -> None:
    """Probing QEMU takes seconds; libvirt's own cache of it, which it checks against QEMU's time, is used again."""
    with contextlib.suppress(FileNotFoundError):
        if _SHARED_CAPABILITIES.stat().st_uid == os.geteuid():
            shutil.copytree(_SHARED_CAPABILITIES, cache)


def _keep_capabilities_cache(cache: Path) -> None:
    """Remember what this daemon learnt about QEMU, for the next ones; the first test process to come wins."""
    if not _SHARED_CAPABILITIES.exists() and any(cache.glob("capabilities/*.xml")):
        fresh = Path(tempfile.mkdtemp(prefix=f"{_SHARED_CAPABILITIES.name}-"))
        shutil.copytree(cache, fresh, dirs_exist_ok=True)
        try:
            fresh.rename(_SHARED_CAPABILITIES)
        except OSError:
            shutil.rmtree(fresh)
