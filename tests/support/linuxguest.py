# SPDX-License-Identifier: Apache-2.0
"""A small Linux guest with qemu-guest-agent: Debian's cloud kernel, an initramfs of busybox, modules and the agent.

Built once per machine, beside the demo's guest; boots by emulation in seconds in 192 MiB. `run` runs a command in it.
"""

import base64
import fcntl
import hashlib
import json
import re
import shutil
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demonstration import guest as demo
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.virt_room import vm_xml

_HERE = Path(__file__).parent
_INIT, _SHUTDOWN = _HERE / "linuxguest-init.sh", _HERE / "linuxguest-shutdown.sh"
_AGENT = Path("/usr/sbin/qemu-ga")
_MODULES = (
    "virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_balloon", "virtio_scsi", "sd_mod",
    "crc32c_generic", "ext4", "button", "evdev", "efivarfs",
)  # fmt: skip
_RELEASE = 'NAME="Test Linux"\nID=testlinux\nVERSION_ID="7"\nVERSION="7 (seven)"\nPRETTY_NAME="Test Linux 7"\n'
_CMDLINE = "console=ttyS0 quiet mitigations=off tsc=unstable no_timer_check random.trust_cpu=on panic=-1"
MEMORY_MIB = 192


@dataclass(frozen=True)
class LinuxImage:
    """A kernel and an initramfs that everybody may read."""

    kernel: Path
    initrd: Path

    @property
    def boot(self) -> str:
        """What an <os> boots it by."""
        return f"<kernel>{self.kernel}</kernel><initrd>{self.initrd}</initrd><cmdline>{_CMDLINE}</cmdline>"


def build() -> LinuxImage:
    """The guest of this machine. Safe to call from several processes. Raises: Failure."""
    log = demo.CACHE / "linuxguest.log"
    demo.CACHE.mkdir(parents=True, exist_ok=True)
    for folder in (demo.CACHE.parent, demo.CACHE):
        folder.chmod(0o755)
    with open(demo.CACHE / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        package = demo.kernel_package(log)
        parts = (_INIT.read_bytes(), _SHUTDOWN.read_bytes(), _AGENT.read_bytes(), Path(__file__).read_bytes())
        digest = hashlib.sha256(b"".join(parts) + package.encode()).hexdigest()[:12]
        made = LinuxImage(demo.CACHE / f"linux-{digest}.kernel", demo.CACHE / f"linux-{digest}.initrd")
        if not (made.kernel.exists() and made.initrd.exists()):
            image, modules = demo.kernel_files(package, log)
            with tempfile.TemporaryDirectory(prefix="linuxguest-") as folder:
                _fill(Path(folder), modules)
                demo.pack(Path(folder), made.initrd)
            shutil.copy(image, made.kernel)
        for path in (made.kernel, made.initrd):
            path.chmod(0o644)
    return made


def _fill(root: Path, modules: Path) -> None:
    for folder in ("bin", "sbin", "usr/sbin", "modules", "dev", "proc", "sys", "tmp", "etc", "run", "var/run"):
        (root / folder).mkdir(parents=True)
    shutil.copy(shutil.which("busybox", path="/bin:/usr/bin") or "busybox", root / "bin/busybox")
    shutil.copy(_INIT, root / "init")
    shutil.copy(_SHUTDOWN, root / "sbin/shutdown")
    for script in ("init", "sbin/shutdown"):
        (root / script).chmod(0o755)
    libraries = subprocess.run(["ldd", str(_AGENT)], capture_output=True, text=True, check=True, timeout=10).stdout
    for path in (str(_AGENT), *re.findall(r"(/\S+) \(0x", libraries)):
        (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path.lstrip("/"))
    demo.add_modules(root, modules, _MODULES)
    (root / "etc/os-release").write_text(_RELEASE)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nalice:x:1000:1000:Alice:/:/bin/sh\n")
    # One user is logged in: type USER_PROCESS, pid, line, id, user, host, exit, session, time, address.
    login = struct.pack(
        "<hxxi32s4s32s256s2hiii4i20x", 7, 1, b"tty1", b"1", b"alice", b"", 0, 0, 0, 1_700_000_000, *[0] * 5
    )
    (root / "var/run/utmp").write_bytes(login)


def file_system(path: Path, mib: int = 16) -> None:
    """An empty ext4 file system, on a new file or on what a volume's file is."""
    with path.open("ab") as file:
        file.truncate(mib << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", str(path)], check=True, timeout=30)


def linux_xml(vm_id: str, image: LinuxImage, serial: Path, *, disk: dict[str, str], devices: str = "") -> str:
    """A VM of it, with places for memory and processors to come. disk: ids of its data disk, which becomes /dev/vda."""
    memory = MEMORY_MIB * 1024
    ids = "".join(f"<ovirt-vm:{key}>{value}</ovirt-vm:{key}>" for key, value in disk.items())
    data = (
        '<disk type="file" device="disk" snapshot="no"><target dev="vda" bus="virtio"/><source file="/predicted"/>'
        f'<driver name="qemu" type="raw"/><serial>{disk["imageID"]}</serial></disk>'
        '<channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>'
        '<memballoon model="virtio"><stats period="5"/></memballoon>'
    )
    metadata = f'<ovirt-vm:device devtype="disk" name="vda">{ids}</ovirt-vm:device>'
    text = vm_xml(vm_id, serial=serial, devices=data + devices, metadata=metadata, memory_mib=MEMORY_MIB)
    text = text.replace(
        '<os><type arch="x86_64" machine="pc">hvm</type>',
        f'<os><type arch="x86_64" machine="pc">hvm</type>{image.boot}',
    )
    text = text.replace("<memory>", f'<maxMemory slots="4">{4 * memory}</maxMemory><memory>', 1)
    numa = f'<numa><cell id="0" cpus="0-3" memory="{memory}"/></numa>'
    return text.replace('<cpu mode="host-passthrough"/>', f'<cpu mode="host-passthrough">{numa}</cpu>')


@dataclass(frozen=True)
class LinuxGuest:
    """One that runs."""

    libvirtd: PrivateLibvirtd
    vm_id: str
    serial: Path

    def agent(self, command: str, **arguments: Any) -> Any:
        """A command of the guest agent, past ours."""
        words: str = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
        return json.loads(self.libvirtd.virsh("qemu-agent-command", "--timeout", "10", self.vm_id, words))["return"]

    def run(self, script: str) -> str:
        """What a shell in the guest prints."""
        started = self.agent("guest-exec", **{"path": "/bin/sh", "arg": ["-c", script], "capture-output": True})
        until = time.monotonic() + 20
        while not (state := self.agent("guest-exec-status", pid=started["pid"]))["exited"]:
            assert time.monotonic() < until, f"{script!r} goes on in the guest"
        return base64.b64decode(state.get("out-data", "")).decode()

    def leave(self, script: str) -> None:
        """Let a shell in the guest work on, without an answer."""
        self.agent("guest-exec", path="/bin/sh", arg=["-c", script])

    def sees(self, script: str, what: str, *, within_s: float = 20) -> None:
        """Wait until the script prints it."""
        eventually(lambda: what in self.run(script), within_s=within_s, every_s=0.3)

    @property
    def said(self) -> str:
        return self.serial.read_text(errors="replace") if self.serial.exists() else ""
