# SPDX-License-Identifier: Apache-2.0
"""How VMs end: VM.destroy, and what follows a move of the machine (the exit is written down, disks are given back).

Destroy runs beside the VM's key, never behind it: it is the way out of a stuck one. A Down VM stays listed, and
defined, until somebody destroys it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import libvirt

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_virt import DestroyFailed, NoSuchVm
from vdsm_mp.api.ports import Background
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm import DestroyVm
from vdsm_mp.common import clock, log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import asleep, machine
from vdsm_mp.virt.backup_files import BackupFiles
from vdsm_mp.virt.connection import Connection, translate, translated
from vdsm_mp.virt.cpupool import CpuPool
from vdsm_mp.virt.definitions import UNDEFINE
from vdsm_mp.virt.domxml_parse import volume_ids
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.hostdev_taken import HostDevices
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.machine import Do, VmStatus
from vdsm_mp.virt.mirrors import Mirrors
from vdsm_mp.virt.orphans import Orphans
from vdsm_mp.virt.payload import Payloads
from vdsm_mp.virt.records import VmRecord, VolumeIds
from vdsm_mp.virt.registry import Vms
from vdsm_mp.virt.replicate import replicas
from vdsm_mp.virt.starting import Starter
from vdsm_mp.virt.stats import Stats
from vdsm_mp.virt.transient import Transients
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)

#: How long a destroy waits for a start in progress to notice; a start that hangs in storage cleans up after itself.
_START_NOTICES_S = 10.0
_PAUSE_CODES = {
    libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE: "ENOSPC",
    libvirt.VIR_DOMAIN_DISK_ERROR_UNSPEC: "EIO",
}
_RETRY_S = 1.0
#: An event comes in milliseconds, or is lost with its connection.
_EVENT_S = 1.0


class Ender:
    """Ends VMs and does what the machine asks for."""

    def __init__(
        self,
        connection: Connection,
        vms: Vms,
        *,
        keeper: Keeper,
        drives: Drives,
        stats: Stats,
        starter: Starter,
        background: Background,
        hooks: VmHooks,
        payloads: Payloads,
        transients: Transients,
        backup_files: BackupFiles,
        pool: CpuPool,
        mirrors: Mirrors,
        hostdevs: HostDevices,
        orphans: Orphans,
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._keeper = keeper
        self._drives = drives
        self._stats = stats
        self._starter = starter
        self._background = background
        self._hooks = hooks
        self._payloads = payloads
        self._transients = transients
        self._backup_files = backup_files
        self._pool = pool
        self._mirrors = mirrors
        self._hostdevs = hostdevs
        self._orphans = orphans
        #: {vm_id: name} of VMs that have ended and that libvirtd cannot let go of, and which connection to it told.
        self._kept: dict[str, str] = {}
        self._kept_by = 0

    def kept(self) -> list[str]:
        """Names of VMs that cannot be destroyed until libvirtd is started again."""
        return sorted(self._kept.values()) if self._kept_by == self._connection.reconnects else []

    # -- destroy

    def destroy(self, vm_id: str, graceful_attempts: int) -> None:
        """Gone when it returns. Raises: NoSuchVm, DestroyFailed, LibvirtUnavailable."""
        record = self._vms.find(vm_id)
        self._vms.move(vm_id, machine.on_destroy_request)
        if record.life.status in machine.UNSTARTED:
            self._starter.wait_ended(vm_id, _START_NOTICES_S)
        if record.orphan:
            self._orphans.end(record, gracefully=graceful_attempts > 0)
        if record.life.status is not VmStatus.DOWN:
            self._hooks.before_destroy(record)
            if self._end(vm_id, graceful_attempts):
                # Its event comes over another connection, and is not to meet a VM that is created next by this id.
                self._vms.await_change(vm_id, lambda one: one.stop_told, _EVENT_S)
            self._vms.move(vm_id, machine.on_stopped)
        self._undefine(record)
        self._vms.forget(vm_id)
        self._stats.forget(vm_id)

    def _end(self, vm_id: str, graceful_attempts: int) -> bool:
        """Was it still there to be ended? Raises: DestroyFailed, LibvirtUnavailable."""
        try:
            dom = self._connection.domain(vm_id)
        except NoSuchVm:
            return False
        # SIGTERM lets QEMU write out what it caches; whatever does not react to it is killed.
        for flags in [libvirt.VIR_DOMAIN_DESTROY_GRACEFUL] * graceful_attempts + [libvirt.VIR_DOMAIN_DESTROY_DEFAULT]:
            try:
                dom.destroyFlags(flags)
            except libvirt.libvirtError as error:
                code = error.get_error_code()
                if code == libvirt.VIR_ERR_NO_DOMAIN or (code == libvirt.VIR_ERR_OPERATION_INVALID and not _runs(dom)):
                    return False
                stubborn = code in (libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_ERR_SYSTEM_ERROR)
                if stubborn and flags == libvirt.VIR_DOMAIN_DESTROY_GRACEFUL:
                    logger.warning("vm=%s did not end gracefully: %s", vm_id, error)
                    continue
                raise translate(error, vm_id, DestroyFailed) from error
            break
        return True

    def _undefine(self, record: VmRecord) -> None:
        vm_id = record.vm_id
        try:
            dom = self._connection.domain(vm_id)
            with translated(vm_id, DestroyFailed):
                if dom.isActive():  # told to be Down, because libvirtd died with the answer to its start
                    _kill(dom)
                if dom.isPersistent():
                    self._let_go(dom, record)
        except NoSuchVm:
            pass
        self._kept.pop(vm_id, None)

    def _let_go(self, dom: Any, record: VmRecord) -> None:
        """Raises: libvirtError; DestroyFailed when a call that has nobody any more keeps it: libvirtd 9.0 may leave one
        behind when QEMU dies at the source of a post-copy migration. What changes the VM waits half a minute for it, in
        vain, and nothing but libvirtd's next start ends it.
        """
        try:
            dom.undefineFlags(UNDEFINE)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_OPERATION_TIMEOUT or _runs(dom):
                raise
            if self._kept_by != self._connection.reconnects:
                self._kept, self._kept_by = {}, self._connection.reconnects
            self._kept[record.vm_id] = record.name
            raise DestroyFailed(
                "it has ended, but libvirtd holds a call about it. If that stays so: restart libvirtd, guests go on "
                f"({error.get_error_message()})"
            ) from error

    # -- what the machine asks for

    def perform(self, record: VmRecord, what: Do) -> None:
        """Any thread; the work is done in the background."""
        self._pool.performed(record, what)
        self._mirrors.performed(record, what)
        jobs: dict[Do, Callable[[VmRecord], None]] = {
            Do.RELEASE: self._release,
            Do.READ_PAUSE_CODE: self._read_pause_code,
            Do.REMEMBER_PAUSE: self._remember_pause,
            Do.DESTROY: self._end_what_is_down,
        }
        job = jobs.get(what)
        if job is None:
            return
        name = f"{what.value} vm={record.vm_id}"

        def run() -> None:
            try:
                job(record)
            except NoSuchVm:
                return  # forgotten meanwhile, and its definition with it
            except Error as error:
                logger.warning("%s: %s", name, error)

        try:
            self._background.start(name, run)
        except Busy:
            self._background.later(_RETRY_S, name, run)

    def _release(self, record: VmRecord) -> None:
        """Write the exit down, then give disks and host devices back. A failure to write must not keep them.

        This may come late: what a new life of it uses by then is that one's.
        """
        end = record.life.exit
        try:
            if end is not None and not self._lives_again(record):
                self._keeper.remember(
                    record.vm_id, exitCode=end.code, exitReason=int(end.reason), exitMessage=end.message
                )
        finally:
            if not record.external:
                if not self._lives_again(record):
                    self._payloads.remove(record.vm_id)
                    self._transients.remove(record.vm_id)
                    self._backup_files.remove(record.vm_id)
                    self._hostdevs.give_back(record.vm_id)
                for ids in _held(record):
                    self._drives.teardown(ids, unless=partial(self._lives_again_with, record, ids))
            self._hooks.after_destroy(record)

    def _lives_again(self, record: VmRecord) -> bool:
        """Has it been created anew since it went down?"""
        now = self._vms.get(record.vm_id)
        return now is not None and now.life.exit != record.life.exit

    def _lives_again_with(self, record: VmRecord, ids: VolumeIds) -> bool:
        now = self._vms.get(record.vm_id)
        return now is not None and self._lives_again(record) and ids.image in {used.image for used in _held(now)}

    def _end_what_is_down(self, record: VmRecord) -> None:
        """Unless it has begun a new life meanwhile, or is somebody else's."""
        now = self._vms.get(record.vm_id)
        if now is not None and now.life.status is VmStatus.DOWN and not now.external:
            end_if_running(self._connection, record.vm_id)

    def _read_pause_code(self, record: VmRecord) -> None:
        with translated(record.vm_id):
            errors = self._connection.domain(record.vm_id).diskErrors()
        codes = {_PAUSE_CODES.get(code, "EOTHER") for code in errors.values()}
        code = "ENOSPC" if "ENOSPC" in codes else next(iter(codes), "EOTHER")
        self._vms.move(record.vm_id, lambda life: machine.on_io_error(life, clock.mono_s(), code))

    def _remember_pause(self, record: VmRecord) -> None:
        self._keeper.remember(record.vm_id, pauseTime=record.life.paused_mono)


def _held(record: VmRecord) -> list[VolumeIds]:
    """What may be prepared for it: its disks, mirrors of them, those of a start that never came to a definition, and
    its memory on storage."""
    drives = [drive.ids for drive in record.devices.drives if drive.ids is not None]
    told = [ids for data in record.metadata.devices("disk") if (ids := volume_ids(data)) is not None]
    return list(dict.fromkeys((*drives, *told, *replicas(record), *asleep.held(record.metadata))))


def end_if_running(connection: Connection, vm_id: str) -> None:
    """Destroy what runs; its definition stays, and with it what it must remember."""
    with translated(vm_id):
        dom = connection.domain(vm_id)
        if dom.isActive():
            _kill(dom)


def _kill(dom: Any) -> None:
    """Raises: libvirtError. One that ends by itself meanwhile is what was wanted."""
    try:
        dom.destroyFlags(libvirt.VIR_DOMAIN_DESTROY_DEFAULT)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID or _runs(dom):
            raise


def _runs(dom: Any) -> bool:
    try:
        return bool(dom.isActive())
    except libvirt.libvirtError:
        return False


@handles(DestroyVm)
def destroy(ender: Ender, ask: DestroyVm) -> None:
    attempts = 1 if ask.graceful_attempts is None else ask.graceful_attempts
    ender.destroy(ask.vm_id, max(0, min(attempts, 3)))
