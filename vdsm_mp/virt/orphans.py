# SPDX-License-Identifier: Apache-2.0
"""VMs whose QEMU runs and whose libvirtd doesn't know it any more: it came back without what it had in /run/libvirt.

Told as Down, such a VM would be started once more, and two QEMUs would write to one disk. So it stays listed as what
it was and as not responding; nothing can be asked of it but its end, which root brings about. When its QEMU ends, it
is Down. One whose definition is lost, too, is told of by its QEMU's command line alone.

Several libvirtds may share a machine's processes, each in a network namespace of its own, and a VM that has moved runs
under another's: ours are those that are in the namespace of whom we are connected to, with their monitor's socket. The
name of that socket alone may be the same in both.
"""

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.errors import DeadlineExceeded, PrivilegedFailed, RootHelperGone
from vdsm_mp.api.errors_virt import DestroyFailed, LibvirtUnavailable, NoSuchVm, VmExists
from vdsm_mp.api.ports import Background, Root
from vdsm_mp.common import clock, kernel, log
from vdsm_mp.priv import qemu
from vdsm_mp.virt import machine
from vdsm_mp.virt.connection import Connection
from vdsm_mp.virt.found import recorded
from vdsm_mp.virt.machine import Life, VmStatus
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.records import Devices, VmRecord
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

#: A scan of the processes of a host with hundreds of them takes ten milliseconds.
_LOOK_AGAIN_S = 2.0


class Orphans:
    """Any thread."""

    def __init__(self, connection: Connection, vms: Vms, background: Background, root: Root) -> None:
        self._connection = connection
        self._vms = vms
        self._background = background
        self._root = root
        self._said_blind = False

    def names(self) -> list[str]:
        return [record.name for record in self._vms.all() if record.orphan]

    def running(self, vm_id: str) -> frozenset[int]:
        """Process ids of its QEMUs on this host, whether libvirt knows them or not. Raises: LibvirtUnavailable."""
        return self._ours(qemu.running(vm_id))

    def _ours(self, pids: Iterable[int]) -> frozenset[int]:
        pids = list(pids)
        if not pids:
            return frozenset()
        listed = Path(f"/proc/{self._connection.daemon_pid}/net/unix")
        try:
            sockets = {line.rpartition(" ")[2] for line in listed.read_text(errors="replace").splitlines()}
            # Each namespace has a file of its own there, which everybody may look at.
            namespace = listed.stat().st_ino
        except OSError as error:
            raise LibvirtUnavailable(f"whose VMs run here cannot be told: {error}") from error
        return frozenset(
            pid for pid in pids if f"{qemu.folder(pid)}/monitor.sock" in sockets and _is_in(pid, namespace)
        )

    def list_undefined(self, there: Collection[str]) -> None:
        """Make those known that libvirt doesn't even have defined, as far as they can be. there: VMs that it has.

        Raises: LibvirtUnavailable.
        """
        if qemu.hidden():
            self._say_blind()
        if not self._connection.daemon_pid:
            return  # no libvirtd of this host
        found = [guest for guest in qemu.everyone() if guest.vm_id not in there and self._vms.get(guest.vm_id) is None]
        ours = self._ours(guest.pid for guest in found)
        for guest in found:
            if guest.pid in ours and not self._is_defined(guest.vm_id):
                with contextlib.suppress(VmExists):  # its second QEMU
                    self._vms.add(_record(guest))
                self.adopt(guest.vm_id)

    def _is_defined(self, vm_id: str) -> bool:
        """By now: one that has just been started, by whomever, was not there when libvirt was asked for all."""
        try:
            self._connection.domain(vm_id)
        except NoSuchVm:
            return False
        return True

    def _say_blind(self) -> None:
        if not self._said_blind:
            logger.warning(
                "/proc hides the processes of others (hidepid): a VM that libvirt forgets while it runs is told as Down"
            )
        self._said_blind = True

    def lives(self, dom: Any, vm_id: str, metadata: Metadata) -> bool:
        """Of a VM that is defined: has libvirt lost its QEMU? Raises: libvirtError."""
        # Once more after the look: one that just starts was not there before.
        return _forgotten(dom, metadata) and bool(self.running(vm_id)) and _forgotten(dom, metadata)

    def adopt(self, vm_id: str) -> bool:
        """Of a VM that libvirt has not, or not as running: is there a QEMU of it all the same? Then it is watched.

        Raises: LibvirtUnavailable.
        """
        pids = self.running(vm_id)
        record = self._vms.get(vm_id)
        if not pids or record is None:
            return False
        if not record.orphan:
            logger.warning("vm=%s runs as process %s, and libvirt doesn't know it any more", vm_id, sorted(pids))
            self._vms.change(vm_id, lambda one: replace(one, orphan=pids))
            self._vms.move(vm_id, machine.on_orphaned)
            self._later(vm_id)
        return True

    def end(self, record: VmRecord, *, gracefully: bool) -> None:
        """Raises: DestroyFailed; then it is still watched."""
        for pid in record.orphan:
            try:
                self._root.do("end-qemu", vm_id=record.vm_id, pid=pid, gracefully=gracefully)
            except (PrivilegedFailed, RootHelperGone, DeadlineExceeded) as error:
                raise DestroyFailed(f"libvirt doesn't know its QEMU any more, and {error}") from error
            logger.warning("vm=%s process %d ended, which libvirt did not know any more", record.vm_id, pid)

    def _later(self, vm_id: str) -> None:
        if not self._background.draining:
            self._background.later(_LOOK_AGAIN_S, f"look at the process of vm={vm_id}", lambda: self._look(vm_id))

    def _look(self, vm_id: str) -> None:
        record = self._vms.get(vm_id)
        if record is None or not record.orphan:
            return  # destroyed, or libvirt knows it again
        if not record.orphan.isdisjoint(qemu.running(vm_id)):
            self._later(vm_id)
            return
        self._vms.change(vm_id, lambda one: replace(one, orphan=frozenset()))
        self._vms.move(vm_id, machine.on_stopped)


def is_bare(record: VmRecord) -> bool:
    """Is no more known of it than its QEMU's command line tells?"""
    return bool(record.orphan) and not record.devices.hash


def _record(guest: qemu.Guest) -> VmRecord:
    ran_s = kernel.age_s(guest.pid)
    return VmRecord(
        vm_id=guest.vm_id,
        name=guest.name,
        life=Life(status=VmStatus.UP, cpus_run=True),
        devices=Devices(vcpus=guest.cpus, kvm=guest.kvm),
        started_wall=None if ran_s is None else clock.wall_s() - ran_s,
    )


def _forgotten(dom: Any, metadata: Metadata) -> bool:
    """Does nobody know how it ended? Then it may not have."""
    forgotten = (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN)
    return tuple(dom.state()) == forgotten and recorded(metadata) is None


def _is_in(pid: int, namespace: int) -> bool:
    try:
        return Path(f"/proc/{pid}/net/unix").stat().st_ino == namespace
    except OSError:  # it has ended
        return False
