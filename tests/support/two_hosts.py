# SPDX-License-Identifier: Apache-2.0
"""Two whole houses, each with a libvirtd of its own and a cable between them: VMs can move from one to the other.

Each finds its own files at the same place, as two hosts have them in /run/vdsm: namespaces of mounts keep them apart.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import decode, guestmemory, netrelay
from tests.support.bootsector import hellos, last_tick, write_boot_disk
from tests.support.certificates import make_authority
from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.virt_room import vm_xml
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.errors_virt import NoSuchVm
from vdsm_mp.wire.tls import Files

MEMORY_MIB = 64
#: What lies in the guest's memory takes so many times longer than any step of a test.
SLOW_MIB_S = 2
_CLONE_NEWNS, _CLONE_FS = 0x00020000, 0x00000200


@dataclass(frozen=True)
class Side:
    """One host. address: of its libvirtd, for the other."""

    house: RunningHouse
    libvirtd: PrivateLibvirtd
    address: str

    def stats(self, vm_id: str) -> Any:
        entries = decode.check_all_vm_stats(self.house.call("Host.getAllVmStats"))
        return next((entry for entry in entries if entry["vmId"] == vm_id), None)

    def status(self, vm_id: str) -> str:
        return str((self.stats(vm_id) or {}).get("status", ""))

    def runs(self) -> list[str]:
        """Names of domains whose CPUs run, by libvirt."""
        return self.libvirtd.virsh("list", "--name", "--state-running").split()


@dataclass(frozen=True)
class Two:
    """Both, and the folder that they share."""

    a: Side
    b: Side
    shared: Path


@contextmanager
def two_hosts(*bridges: str) -> Iterator[Two]:
    """Two houses, linked, sharing a folder of disks. bridges: of each; then each agent has its guests' network, too."""
    with ExitStack() as stack:
        shared = Path(tempfile.mkdtemp(prefix="vdsm-mp-shared-", dir="/tmp"))
        stack.callback(shutil.rmtree, shared, ignore_errors=True)
        shared.chmod(0o755)
        shutil.chown(shared, "vdsm", "kvm")
        daemons = [
            stack.enter_context(PrivateLibvirtd.start(name=f"host-{n}", listen=True, qemu_is_root=True)) for n in "ab"
        ]
        addresses = daemons[0].link(daemons[1])
        authority = make_authority(shared / "ca")
        files = [authority.issue(name, "127.0.0.1") for name in "ab"]
        os.system(f"chmod -R a+rX {shared / 'ca'}")
        for daemon in daemons:
            let_qemu_encrypt(daemon, authority.issue(f"qemu-{daemon.name}", "localhost"))
        houses = []
        run_dir = shared / "vrun"
        run_dir.mkdir()
        (shared / "repo").mkdir()
        shutil.chown(shared / "repo", "vdsm", "kvm")
        for mine, daemon, other in zip(files, daemons, reversed(addresses), strict=True):
            options = {
                "vars": {"ssl": True, "migration_monitor_interval": 1, "migration_retry_timeout": 1},
                "irs": {"repository": shared / "repo"},
                "vdsm_mp": {
                    "pki_dir": mine.key.parents[1],
                    "migration_libvirt_uri": f"qemu+tcp://{other}/system",
                    "vdsm_run_dir": run_dir,
                },
            }
            house = RunningHouse(options, tls=False, table="tests.support.stepped_table", libvirt_uri=daemon.uri)
            stack.callback(house.stop)
            house.files = mine
            inside = ["nsenter", "--target", str(daemon.inner_pid), "--mount"]
            subprocess.run([*inside, *_bind(house.root / "vrun", run_dir)], check=True, timeout=10)
            for name in bridges:
                daemon.add_bridge(name)
            _begin_with(house.begin, _bind(house.root / "vrun", run_dir), daemon.inner_pid if bridges else None)
            houses.append(house)
        if bridges:
            netrelay.relays(stack, {h.port: d.inner_pid for h, d in zip(houses, daemons, strict=True)})
        for house in houses:
            house.wait_ready()
        sides = [Side(h, d, address) for h, d, address in zip(houses, daemons, addresses, strict=True)]
        yield Two(sides[0], sides[1], shared)


def _bind(own: Path, place: Path) -> list[str]:
    return ["mount", "--bind", str(own), str(place)]


def _begin_with(begin: Callable[[], None], mount: list[str], network_of: int | None) -> None:
    """Call it where that mount is, and in the network of that process; only what it starts sees them."""

    def apart() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS | _CLONE_FS):
            raise OSError(ctypes.get_errno(), "no mount namespace of its own")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True, timeout=10)
        subprocess.run(mount, check=True, timeout=10)
        if network_of is not None:
            netrelay.enter(network_of)
        begin()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(apart).result()


def let_qemu_encrypt(daemon: PrivateLibvirtd, files: Files) -> None:
    """Certificates for its migrations; the other side checks that they are of the host that an engine named."""
    folder = daemon.root / "etc" / "pki"
    folder.mkdir()
    shutil.copy(files.ca, folder / "ca-cert.pem")
    for role in ("server", "client"):
        shutil.copy(files.cert, folder / f"{role}-cert.pem")
        shutil.copy(files.key, folder / f"{role}-key.pem")
    with (daemon.root / "etc" / "qemu.conf").open("a") as file:
        file.write('migrate_tls_x509_cert_dir = "/etc/libvirt/pki"\n')
    daemon.stop()
    daemon.launch()


_CUSTOM = (
    '<ovirt-vm:device devtype="disk" name="vda"><ovirt-vm:custom><ovirt-vm:lane>fast</ovirt-vm:lane>'
    "</ovirt-vm:custom></ovirt-vm:device>"
)


class Guest:
    """A VM that both hosts may run; begins on one of them."""

    def __init__(self, two: Two, home: Side, *, devices: str = "", metadata: str = "") -> None:
        self._two = two
        self.vm_id = str(uuid.uuid4())
        self.name = f"vm-{self.vm_id[:8]}"
        folder = two.shared / self.vm_id
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
        self.serial = folder / "serial.log"
        disk = write_boot_disk(two.shared / "repo" / f"{self.vm_id}.img")
        shutil.chown(disk, "vdsm", "kvm")
        disk.chmod(0o660)
        # Read only: libvirt takes a writable file on a local file system for one that the other host does not see.
        xml = vm_xml(
            self.vm_id, serial=self.serial, memory_mib=MEMORY_MIB, metadata=_CUSTOM + metadata,
            devices=f'<disk type="file" device="disk"><driver name="qemu" type="raw" cache="none"/>'
            f'<source file="{disk}"/><target dev="vda" bus="virtio"/><readonly/></disk>{devices}',
        )  # fmt: skip
        home.house.call("VM.create", {"vmID": self.vm_id, "vmParams": {"vmId": self.vm_id, "xml": xml}})
        eventually(lambda: last_tick(self.serial) > 0, within_s=30)

    def fill(self, home: Side) -> None:
        """From now on it takes long to move."""
        guestmemory.fill(home.libvirtd.qemu_pid(self.name), MEMORY_MIB)

    def move(self, home: Side, to: Side, **more: Any) -> None:
        params = {
            "vmId": self.vm_id, "dst": f"127.0.0.1:{to.house.port}", "dstqemu": to.address, "method": "online",
            "tunneled": "false", "compressed": "false", "autoConverge": "true", "abortOnError": "true",
            "encrypted": False, "enableGuestEvents": False, **more,
        }  # fmt: skip
        assert home.house.call("VM.migrate", {"vmID": self.vm_id, "params": params}) is True

    def goes_on(self) -> None:
        before = last_tick(self.serial)
        eventually(lambda: last_tick(self.serial) > before, within_s=15)
        assert hellos(self.serial) == 1

    def end(self) -> None:
        """Wherever it is."""
        for side in (self._two.a, self._two.b):
            try:
                side.house.call("VM.destroy", {"vmID": self.vm_id, "gracefulAttempts": 0})
            except RemoteError as error:
                if error.code != NoSuchVm.code:
                    raise

    def lives_only_at(self, home: Side, other: Side) -> None:
        assert self.name in home.runs()
        assert self.name not in other.runs()
        self.goes_on()


def log_of(side: Side, guest: Guest) -> str:
    """Its lines about that VM."""
    return "\n".join(line for line in side.house.log_text().splitlines() if guest.vm_id in line)


def becomes(side: Side, guest: Guest, *statuses: str, within_s: float = 30) -> None:
    eventually(lambda: side.status(guest.vm_id) in statuses, within_s=within_s)


def under_way(guest: Guest, home: Side) -> None:
    """Until libvirt has begun to send it."""
    eventually(lambda: 0 < (home.stats(guest.vm_id).get("migrationProgress") or 0) < 100, within_s=30)
    assert home.status(guest.vm_id) == "Migration Source"
