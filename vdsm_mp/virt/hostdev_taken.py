# SPDX-License-Identifier: Apache-2.0
"""Devices that were taken from the host for a VM, and their way back.

Who has what is written down before a device is touched, in a file named after it that holds the VM's id, and removed
when the host has it again; the folder lives as long as the kernel does, as vfio's bindings do. So no death leaves a
device with vfio-pci that nobody owns: what a VM has that is not there, or that has ended, is given back at the next
look. A device that somebody else bound to vfio-pci before us is used and stays as it is. USB and SCSI devices need
nothing: QEMU opens them, and libvirt lends it their nodes below /dev.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import libvirt

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_virt import CannotCreateVm, NoSuchVm, VmOperationFailed, VmUndecided
from vdsm_mp.api.ports import Background
from vdsm_mp.common import files, log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.common.oneatatime import OneAtATime
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.hostdev import describe
from vdsm_mp.virt.hostdev_mdev import Mdevs
from vdsm_mp.virt.hostdev_xml import PCI_NAME, Mdev, mdevs, pci_names
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.machine import UNSTARTED, VmStatus
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.patience import UNDECIDED
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

Failed = Callable[[str], Error]

VFIO = "vfio-pci"
_MDEV = "mdev_"
_TURN_S = 30.0
#: A device may be busy for a moment after its guest has gone.
_AGAIN_S = 2.0
_ATTEMPTS = 5
#: libvirt was late, which need not cost the connection: nobody else would ask again.
_UNDECIDED_S = 15.0


class HostDevices:
    """folder: where it is written down who has what. Any thread; one at a time for each device."""

    def __init__(
        self, connection: Connection, vms: Vms, keeper: Keeper, background: Background, mdevs: Mdevs, folder: Path
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._keeper = keeper
        self._background = background
        self._mdevs = mdevs
        self._folder = folder
        #: Of devices and of VMs.
        self._turns = OneAtATime()

    # -- taking

    def take_all(
        self, vm_id: str, tree: Any, metadata: Metadata | None = None, failed: Failed = CannotCreateVm
    ) -> list[str]:
        """What a domain, or one device, wants; those that were not this VM's before. Raises: what `failed` makes; then
        none of them is.
        """
        return self.take(vm_id, pci_names(tree), failed, mdevs(tree, metadata) if metadata is not None else ())

    def take(self, vm_id: str, names: Collection[str], failed: Failed, mediated: Collection[Mdev] = ()) -> list[str]:
        """The same for PCI devices by their names."""
        fresh: list[str] = []
        steps: list[tuple[str, Callable[[str, Failed], bool]]] = [(name, self._detach) for name in names]
        steps += [(f"{_MDEV}{one.uuid}", _made(self._mdevs, one)) for one in mediated]
        try:
            for name, how in steps:
                if self._take(vm_id, name, how, failed):
                    fresh.append(name)
        except BaseException:
            self.give_back(vm_id, fresh)
            raise
        return fresh

    @contextlib.contextmanager
    def lent(self, vm_id: str, tree: Any, failed: Failed) -> Iterator[None]:
        """Around a plug: what it wants is this VM's, and the host's again when the plug fails."""
        with self.changing(vm_id):
            fresh = self.take_all(vm_id, tree, failed=failed)
            try:
                yield
            except VmUndecided:
                self._later(_UNDECIDED_S, f"compare host devices of {vm_id}", lambda: self.compare(vm_id))
                raise
            except BaseException:
                self.give_back(vm_id, fresh)
                raise

    def changing(self, vm_id: str, within_s: float = _TURN_S) -> AbstractContextManager[None]:
        """While devices of a running VM come or go, they may be its and not in it. Raises: Busy."""
        return self._turn(vm_id, within_s)

    def _take(self, vm_id: str, name: str, how: Callable[[str, Failed], bool], failed: Failed) -> bool:
        with self._turn(name):
            owner = self._owner(name)
            if owner and owner != vm_id and self._lives(owner):
                raise failed(f"{name} belongs to VM {owner}")
            claim = self._folder / name
            try:
                self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
                files.replace(claim, vm_id.encode())
            except OSError as error:
                raise failed(f"it cannot be written down who has {name}: {error}") from error
            try:
                ours = how(name, failed)
            except BaseException:
                if not owner:
                    files.remove(claim)
                elif owner != vm_id:
                    # What another VM has left is still to be given back.
                    files.replace(claim, owner.encode())
                    self.look()
                raise
            if not ours and not owner:
                files.remove(claim)
                return False
            logger.info("vm=%s host device %s is taken", vm_id, name)
            return owner != vm_id

    def _detach(self, name: str, failed: Failed) -> bool:
        """False: it needs no taking, and no giving back."""
        with translated(failed=failed):
            node = self._connection.get().nodeDeviceLookupByName(name)
            params = describe(xml.parse(node.XMLDesc(0)))
            if params.get("is_assignable") != "true":
                raise failed(f"{name} is a bridge and cannot be given to a guest")
            if not params.get("iommu_group"):
                raise failed(f"{name} cannot be given to a guest: this host has no IOMMU, or it is switched off")
            if params.get("driver") == VFIO:
                return False
            try:
                node.detachFlags(None, 0)
            except libvirt.libvirtError:
                # It may have lost its driver and not found the other.
                with contextlib.suppress(libvirt.libvirtError):
                    node.reAttach()
                raise
        return True

    # -- giving back

    def give_back(self, vm_id: str, names: Collection[str] | None = None) -> None:
        """Those of a VM, or all. Never raises: what cannot be given back now is tried again, and at the next look."""
        for name in sorted(self._held()):
            if (names is None or name in names) and self._owner(name) == vm_id:
                self._give_back(vm_id, name, _ATTEMPTS)

    def _give_back(self, vm_id: str, name: str, attempts: int) -> None:
        try:
            with self._turn(name):
                if self._owner(name) != vm_id:
                    return
                self._return(name)
                files.remove(self._folder / name)
            logger.info("vm=%s host device %s is the host's again", vm_id, name)
        except (Error, OSError) as error:
            logger.warning("vm=%s host device %s cannot be given back: %s", vm_id, name, error)
            if attempts > 1 and not self._background.draining:
                again = f"give {name} back"
                self._background.later(_AGAIN_S, again, lambda: self._give_back(vm_id, name, attempts - 1))

    def reattach(self, name: str) -> None:
        """Give any PCI device back to the host. Raises: VmOperationFailed (one that a VM has; nothing has changed)."""
        with self._turn(name):
            owner = self._owner(name)
            if owner and self._lives(owner):
                raise VmOperationFailed(f"host device {name} belongs to VM {owner}")
            self._return(name, missing_is_fine=False)
            if owner:
                files.remove(self._folder / name)

    def _return(self, name: str, *, missing_is_fine: bool = True) -> None:
        if name.startswith(_MDEV):
            self._mdevs.remove(name.removeprefix(_MDEV))
            return
        with translated():
            try:
                self._connection.get().nodeDeviceLookupByName(name).reAttach()
            except libvirt.libvirtError as error:
                # A virtual function may have gone with its number.
                if error.get_error_code() != libvirt.VIR_ERR_NO_NODE_DEVICE or not missing_is_fine:
                    raise

    # -- looking for what was left

    def look(self) -> None:
        """After stock was taken: VMs that are not there, or have ended, have no devices. In the background."""
        if self._held():
            self._later(0, "look for host devices that no VM has", self._look)

    def _look(self) -> None:
        for name, owner in self._held().items():
            if not self._lives(owner):
                self.give_back(owner, [name])

    def compare(self, vm_id: str) -> None:
        """What was taken for a running VM and is not in it, a death or a late guest's answer ago, is given back."""
        if vm_id not in self._held().values():
            return
        try:
            with self.changing(vm_id, 0):
                self._compare(vm_id)
        except Busy:
            self._later(_AGAIN_S, f"compare host devices of {vm_id}", lambda: self.compare(vm_id))
        except NoSuchVm:
            self.look()
        except UNDECIDED:
            self._later(_UNDECIDED_S, f"compare host devices of {vm_id}", lambda: self.compare(vm_id))
        except Error as error:
            logger.info("vm=%s its host devices are not compared with what was taken: %s", vm_id, error)

    def _compare(self, vm_id: str) -> None:
        record = self._vms.get(vm_id)
        if record is None or not _settled(record):
            return
        self._keeper.take_turn(vm_id)  # libvirt goes on with a plug whose caller is dead
        with translated(vm_id):
            domain = xml.parse(self._connection.domain(vm_id).XMLDesc(0))
        there = {*pci_names(domain), *(f"{_MDEV}{one.uuid}" for one in mdevs(domain, record.metadata))}
        self.give_back(vm_id, [n for n, owner in self._held().items() if owner == vm_id and n not in there])

    def _later(self, delay_s: float, name: str, job: Callable[[], None]) -> None:
        if not self._background.draining:
            self._background.later(delay_s, name, job)

    # -- what is written down

    def _held(self) -> dict[str, str]:
        """{device: VM}"""
        try:
            names = [entry.name for entry in self._folder.iterdir()]
        except FileNotFoundError:
            return {}
        ours = [name for name in names if PCI_NAME.fullmatch(name) or name.startswith(_MDEV)]
        return {name: owner for name in ours if (owner := self._owner(name))}

    def _owner(self, name: str) -> str:
        try:
            return (self._folder / name).read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return ""

    def _lives(self, vm_id: str) -> bool:
        record = self._vms.get(vm_id)
        return record is not None and record.life.status is not VmStatus.DOWN

    def _turn(self, what: str, within_s: float = _TURN_S) -> AbstractContextManager[None]:
        return self._turns.turn(what, within_s, lambda: Busy(what))


def _settled(record: VmRecord) -> bool:
    return record.life.status not in {VmStatus.DOWN, VmStatus.MIGRATION_DESTINATION, *UNSTARTED}


def _made(mdevs: Mdevs, wanted: Mdev) -> Callable[[str, Failed], bool]:
    def make(name: str, failed: Failed) -> bool:
        if mdevs.there(wanted.uuid):
            return False  # made by somebody else, who removes it; or by us, in an earlier attempt
        mdevs.make(wanted, failed)
        return True

    return make
