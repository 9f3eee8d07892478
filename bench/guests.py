# SPDX-License-Identifier: Apache-2.0
"""Many tiny guests for the benches: a private libvirtd, a boot disk each, and their XML as an engine writes it."""

import contextlib
import os
import shutil
import signal
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.support.bootsector import write_boot_disk
from tests.support.eventually import eventually
from tests.support.libvirtd import PrivateLibvirtd
from tests.support.virt_room import vm_xml
from vdsm_mp.wire.client import Client


class Guests:
    """Boot-sector guests of 16 MiB with a disk and no NIC. `folder`: where their disks lie; the house may use it."""

    def __init__(self, libvirtd: PrivateLibvirtd, folder: Path) -> None:
        self.libvirtd = libvirtd
        self._folder = folder

    def xml(self, vm_id: str) -> str:
        """What an engine sends for one more guest; its disk is made."""
        disk = write_boot_disk(self._folder / f"{vm_id}.img", 1 << 16)
        shutil.chown(disk, "vdsm", "kvm")
        disk.chmod(0o660)
        boot = f'<disk type="file" device="disk"><source file="{disk}"/><target dev="hda" bus="ide"/></disk>'
        return vm_xml(vm_id, devices=boot)

    def create(self, client: Client, vm_id: str) -> None:
        """VM.create; answered at once."""
        params = {"vmID": vm_id, "vmParams": {"vmId": vm_id, "xml": self.xml(vm_id)}}
        client.call("VM.create", params, timeout_s=120)

    def create_many(self, client: Client, count: int) -> list[str]:
        """So many, and wait until all run. Their ids."""
        ids = [str(uuid.uuid4()) for _ in range(count)]
        for vm_id in ids:
            self.create(client, vm_id)
        eventually(lambda: running(client) >= set(ids), within_s=300, every_s=0.5)
        return ids

    def qemus(self, ids: Iterable[str]) -> list[int]:
        """The processes of these guests."""
        return [self.libvirtd.qemu_pid(f"vm-{vm_id[:8]}") for vm_id in ids]

    @contextlib.contextmanager
    def frozen(self, ids: Iterable[str]) -> Iterator[None]:
        """Their QEMUs stand still meanwhile."""
        pids = self.qemus(ids)
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def running(client: Client) -> set[str]:
    """The VMs that have been started."""
    listed = client.call("Host.getVMList", timeout_s=30)
    return {entry["vmId"] for entry in listed if entry["status"] not in ("WaitForLaunch", "Down")}


def percentile(values: list[float], part: float) -> float:
    """percentile(values, 0.99): the smallest value that at least 99 % do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
