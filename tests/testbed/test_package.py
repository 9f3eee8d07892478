# SPDX-License-Identifier: Apache-2.0
"""The Debian package on a plain Debian 12 without a network, while two guests run: under systemd, and without an init.

Installed, upgraded, downgraded, removed, installed again and purged: neither a guest of the agent's nor one that it
knows nothing of is disturbed, and at the end every file is what it was before, but for those that name the user.
"""

import json
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.bootsector import write_boot_disk
from tests.support.eventually import eventually
from tests.support.needs import needs_program, needs_root
from tests.support.virt_room import vm_xml
from tests.testbed import systemd_root
from tests.testbed.asks import must
from tests.testbed.bare_root import BareRoot
from tests.testbed.channel import Result
from tests.testbed.testbed import Testbed

pytestmark = [
    needs_root(),
    needs_program("mmdebstrap", "mke2fs", "dpkg-buildpackage", "dh"),
    pytest.mark.timeout(3600),
]

_ROOT = Path(__file__).parents[2]
_OLDER, _NEWER = "0.1.0", "0.2.0"
_GUESTS = Path("/var/lib/guests")
#: Where storage is mounted; a purge leaves whatever lies there.
_STORAGE = Path("/rhev/data-center/mnt")
#: Left by a purge while a guest or a mount still uses what lies there; guests with transient disks would lose them.
_KEPT = {"/var/lib/vdsm", "/var/lib/vdsm/transient", "/var/lib/vdsm/storage"}
#: Written by whoever runs, whenever it runs; and accounts, which are left so that numbers are not given to others.
_RESTLESS = (
    "/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/project", "/testbed", "/wheels", "/var/log", "/var/cache",
    "/var/tmp", "/rhev", "/var/lib/apt", "/var/lib/dpkg", "/var/lib/guests", "/var/lib/systemd", "/var/lib/libvirt",
    "/etc/passwd*", "/etc/group*", "/etc/shadow*", "/etc/gshadow*", "/etc/subuid*", "/etc/subgid*", "/etc/.pwd.lock",
    "/etc/libvirt/qemu/*.xml",
)  # fmt: skip


class Host(Protocol):
    """Where commands run as root."""

    name: str

    def run(self, command: str, timeout: float | None = 300, env: Mapping[str, str] | None = None) -> Result: ...


@dataclass(frozen=True)
class Guest:
    """One that boots from 512 bytes and counts on its serial port."""

    name: str
    folder: Path = _GUESTS

    @property
    def disk(self) -> Path:
        return self.folder / f"{self.name}.img"

    @property
    def serial(self) -> Path:
        return _GUESTS / f"{self.name}.serial"

    def process(self, host: Host) -> str:
        """Its number and its birth in ticks: both stay as long as it is the same process."""
        return said(host, f"cut -d' ' -f1,22 /proc/$(cat /run/libvirt/qemu/{self.name}.pid)/stat").strip()

    def ticks(self, host: Host) -> int:
        found = re.findall(r"TICK ([0-9a-f]{8})\r?\n", said(host, f"tail -c 200 {self.serial}"))
        return int(found[-1], 16) if found else 0


def said(host: Host, command: str, timeout_s: float = 120) -> str:
    result = host.run(command, timeout=timeout_s)
    print(f"[{host.name}] $ {command}\n{result.output[-3000:]}", file=sys.stderr)
    return result.output


def done(host: Host, command: str, timeout_s: float = 600) -> str:
    result = host.run(command, timeout=timeout_s, env={"DEBIAN_FRONTEND": "noninteractive"})
    print(f"[{host.name}] $ {command} ({result.seconds:.0f} s)\n{result.output[-3000:]}", file=sys.stderr)
    must(result)
    return result.output


def serves(host: Host, version: str) -> bool:
    """All workers are ready, of this program, and the door answers over TLS."""
    asked = host.run("vdsm-mp status --json", timeout=60)
    if asked.status == 2:
        return False
    status = json.loads(asked.output)
    print(status["problems"], file=sys.stderr)
    return (
        status["house"] is not None
        and all(worker["state"] == "ready" for worker in status["house"]["workers"].values())
        and "another program" not in str(status["problems"])
        and said(host, "vdsm-mp --version").strip() == f"vdsm-mp {version}"
        and said(host, "vdsm-mp call Host.ping2 --host localhost").strip() == "true"
    )


def files(host: Host) -> dict[str, str]:
    """{path: kind, mode, owner, size, time, where a link leads} of the whole disk; of folders no size and no time."""
    prune = " -o ".join(f"-path '{path}'" for path in _RESTLESS)
    find = f"find / -xdev \\( {prune} \\) -prune -o"
    command = f"{find} -type d -printf '%p|d %m %U:%G\\n' -o -printf '%p|%y %m %U:%G %s %T@ %l\\n'"
    result = host.run(command, timeout=300)
    must(result)
    found = dict(line.split("|", 1) for line in result.output.splitlines())
    sums = host.run("find /etc -type f -exec sha256sum {} +", timeout=300)
    must(sums)
    for line in sums.output.splitlines():
        digest, path = line.split(maxsplit=1)
        if path in found:
            found[path] += f" {digest}"
    return found


def differences(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    names = before.keys() | after.keys()
    return {n: (before.get(n), after.get(n)) for n in sorted(names) if before.get(n) != after.get(n)}


def mounts(host: Host) -> list[str]:
    return sorted(line.split()[1] for line in said(host, "cat /proc/mounts").splitlines())


class Scene:
    """The host and what must not change in it."""

    def __init__(self, host: Host, shared: Path, *, systemd: bool) -> None:
        self.host, self.shared, self.systemd = host, shared, systemd
        self.guests: dict[Guest, tuple[str, int]] = {}

    def start_daemons(self) -> None:
        if self.systemd:
            for unit in ("libvirtd.socket", "virtlogd.socket", "supervisor.service", "sanlock.service"):
                done(self.host, f"systemctl start {unit}")
            return
        done(self.host, "mkdir -p /run/libvirt /run/sanlock && chown sanlock:sanlock /run/sanlock")
        done(self.host, "virtlogd -d && libvirtd -d && sanlock daemon -w 0 -U sanlock -G sanlock")
        done(self.host, "service supervisor start")

    def libvirtd_reads_its_files(self) -> None:
        """systemd's is restarted by the package; another one its administrator must restart, as the notes say."""
        if not self.systemd:
            done(self.host, "kill $(cat /run/libvirtd.pid) && while pgrep -x libvirtd; do sleep 0.2; done; libvirtd -d")

    def watch(self, guest: Guest) -> None:
        # The agent answers before QEMU runs, which libvirt alone took 95 s for in a host on a machine at load 27.
        eventually(lambda: guest.ticks(self.host) > 1, within_s=600, every_s=1)
        self.guests[guest] = (guest.process(self.host), guest.ticks(self.host))

    def undisturbed(self) -> None:
        """Every guest is the process that it was, has not booted again, and counts on."""
        for guest, (process, ticks) in self.guests.items():
            assert guest.process(self.host) == process, guest
            assert said(self.host, f"grep -c HELLO {guest.serial}").strip() == "1", guest
            eventually(lambda guest=guest, ticks=ticks: guest.ticks(self.host) > ticks, within_s=60, every_s=1)
            self.guests[guest] = (process, guest.ticks(self.host))

    def apt(self, words: str) -> None:
        done(self.host, f"apt-get -q -y -o Dpkg::Options::=--force-unsafe-io {words}")
        self.undisturbed()


def bystander(scene: Scene) -> Guest:
    """A guest that was there before the agent, defined by somebody else."""
    guest = Guest("bystander")
    (scene.shared / "bystander.xml").write_text(
        f"<domain type='qemu'><name>{guest.name}</name><memory unit='MiB'>16</memory>"
        "<os><type machine='pc'>hvm</type></os>"
        f"<devices><disk type='file' device='disk'><source file='{guest.disk}'/><target dev='hda' bus='ide'/></disk>"
        f"<serial type='file'><source path='{guest.serial}'/></serial></devices></domain>"
    )
    done(scene.host, f"cp /testbed/boot.img {guest.disk} && virsh create /testbed/bystander.xml")
    scene.watch(guest)
    return guest


def own(scene: Scene) -> Guest:
    """A guest of the agent's, started as an engine does."""
    vm_id = str(uuid.uuid4())
    guest = Guest(f"vm-{vm_id[:8]}", _STORAGE)
    disk = f'<disk type="file" device="disk"><source file="{guest.disk}"/><target dev="hda" bus="ide"/></disk>'
    xml = vm_xml(vm_id, serial=guest.serial, devices=disk)
    (scene.shared / "vm.json").write_text(json.dumps({"vmID": vm_id, "vmParams": {"vmId": vm_id, "xml": xml}}))
    done(scene.host, f"cp /testbed/boot.img {guest.disk} && chown vdsm:kvm {guest.disk} && chmod 660 {guest.disk}")
    done(scene.host, "vdsm-mp call VM.create --params - </testbed/vm.json")
    scene.watch(guest)
    return guest


def lists(host: Host, guest: Guest) -> bool:
    return guest.name in said(host, "vdsm-mp call Host.getAllVmStats")


def gone(host: Host) -> None:
    """No process of the agent is left, and its program neither."""
    assert said(host, "ps -o pid=,args= -u vdsm").strip() == ""
    assert said(host, "pgrep -af 'vdsm-mp|helper-(virt|storage|network)' | grep -v testbed").strip() == ""
    assert said(host, "ls -d /opt/vdsm-mp /usr/bin/vdsm-mp /usr/libexec/vdsm-mp /usr/share/vdsm-mp 2>/dev/null") == ""


def debian() -> tuple[str, ...]:
    """What the package depends on is there: apt needs no network."""
    return (*systemd_root.provisioned("HOST_PACKAGES"), "supervisor")


def package(version: str, folder: Path) -> str:
    argv = ["/usr/bin/python3", "-B", _ROOT / "scripts/deb", "--no-install", "--version", version, "--output", folder]
    subprocess.run([str(word) for word in argv], check=True, timeout=1800)
    return f"/testbed/vdsm-mp_{version}_amd64.deb"


def play(scene: Scene, older: str, newer: str) -> None:
    host = scene.host
    write_boot_disk(scene.shared / "boot.img")
    scene.start_daemons()
    done(host, f"mkdir -p {_GUESTS}")
    bystander(scene)
    before, mounted = files(host), mounts(host)
    socket = "stat -c '%a %U:%G' /run/libvirt/libvirt-sock"
    socket_before = said(host, socket)

    scene.apt(f"install {older}")
    scene.libvirtd_reads_its_files()
    eventually(lambda: serves(host, _OLDER), within_s=180, every_s=3)
    assert said(host, socket).strip() in ("660 root:libvirt", "770 root:libvirt")
    assert said(host, "stat -c '%a %u:%g' /etc/sudoers.d/50_vdsm").strip() == "440 0:0"
    guest = own(scene)
    done(host, "echo '# kept' >>/etc/vdsm/vdsm.conf")

    scene.apt(f"install {newer}")
    eventually(lambda: serves(host, _NEWER) and lists(host, guest), within_s=180, every_s=3)
    scene.apt(f"install --allow-downgrades {older}")
    eventually(lambda: serves(host, _OLDER) and lists(host, guest), within_s=180, every_s=3)

    scene.apt("remove vdsm-mp")
    scene.libvirtd_reads_its_files()
    gone(host)
    changed = {name: both for name, both in differences(before, files(host)).items() if name in before}
    assert changed == {}, f"files of others are what they were, but for {changed}"
    assert said(host, socket) == socket_before
    assert "vdsm" not in said(host, "supervisorctl status")
    assert "# kept" in said(host, "cat /etc/vdsm/vdsm.conf")

    scene.apt(f"install {newer}")
    scene.libvirtd_reads_its_files()
    eventually(lambda: serves(host, _NEWER) and lists(host, guest), within_s=180, every_s=3)
    assert "# kept" in said(host, "cat /etc/vdsm/vdsm.conf")
    done(host, "supervisorctl stop vdsm")
    scene.apt(f"install --reinstall {newer}")
    assert "STOPPED" in said(host, "supervisorctl status vdsm"), "one that is stopped stays so"

    scene.apt("purge vdsm-mp")
    scene.libvirtd_reads_its_files()
    gone(host)
    left = differences(before, files(host))
    assert left.keys() <= _KEPT, f"nothing is left, but for {left}"
    assert said(host, f"find {_STORAGE} -type f").split() == [str(guest.disk)], "data stays"
    assert mounts(host) == mounted
    assert said(host, "ls -d /run/vdsm-mp 2>/dev/null") == ""
    assert said(host, "id -u vdsm").strip() == "36", "its number is not given to others"
    scene.undisturbed()
    for one in scene.guests:
        done(host, f"virsh destroy {one.name}")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The folder with both versions, and how apt is to be told of each."""
    folder = tmp_path_factory.mktemp("packages")
    return folder, package(_OLDER, folder), package(_NEWER, folder)


def put(packages: tuple[Path, str, str], shared: Path) -> tuple[str, str]:
    folder, older, newer = packages
    for path in folder.glob("*.deb"):
        shutil.copy(path, shared)
    return older, newer


def test_a_package_comes_and_goes_beside_guests_without_an_init(
    packages: tuple[Path, str, str], tmp_path: Path
) -> None:
    with BareRoot(tmp_path, debian()) as host:
        play(Scene(host, host.shared, systemd=False), *put(packages, host.shared))


def test_a_package_comes_and_goes_beside_guests_under_systemd(packages: tuple[Path, str, str]) -> None:
    built = systemd_root.built(debian())
    with Testbed(project=str(_ROOT), init="systemd", memory=2048, start_timeout=300, built=built) as bed:
        shared = Path(bed.folder) / "testbed"
        play(Scene(bed.hosts[0], shared, systemd=True), *put(packages, shared))
