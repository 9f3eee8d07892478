# SPDX-License-Identifier: Apache-2.0
"""A guest stands still for the moment in which its backup begins. That is noted in its domain before it does.

Whoever dies meanwhile, or loses libvirt or the agent: who finds the note thaws it. Doing so twice is harmless.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from vdsm_mp.api.errors_virt import BackupFailed, LibvirtUnavailable, NoGuestAgent, ThawFailed, VmNotResponding
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import guestfs
from vdsm_mp.virt.devices import Devices
from vdsm_mp.virt.patience import Again

logger = log.named(__name__)

_KEY = "backup_freeze"
_AGAIN_S = 1.0
#: When nobody but us waits for it.
_ANSWER_S = 10


class Freezes:
    """Of each VM one at a time."""

    def __init__(self, devices: Devices, again: Again) -> None:
        self._devices = devices
        self._again = again
        #: VMs whose backup is just beginning: their guests are nobody else's to thaw.
        self._beginning: set[str] = set()

    @contextmanager
    def frozen(self, vm_id: str, *, consistent: bool) -> Iterator[None]:
        """Without an agent the backup is as after a power cut, if that is allowed.

        A thaw that fails says nothing of the backup: it is logged, and tried once more in the background. Raises: as
        `Keeper.remember`; BackupFailed when what must be consistent cannot be.
        """
        frozen, failed = False, True
        self._beginning.add(vm_id)
        try:
            self._devices.keeper.remember(vm_id, **{_KEY: True})
            try:
                guestfs.freeze(self._devices, vm_id)
                frozen = True
            except Error as error:
                # A lost answer says nothing: it may be frozen.
                frozen = isinstance(error, LibvirtUnavailable)
                if consistent:
                    raise BackupFailed(f"the file systems cannot be frozen: {error}") from error
                logger.info("vm=%s its file systems are not frozen for the backup: %s", vm_id, error)
            yield
            failed = False
        finally:
            try:
                if frozen:
                    guestfs.thaw(self._devices, vm_id)
                if failed:
                    self._devices.keeper.take_turn(vm_id)  # QEMU may hang: nobody waits for it here
                self._devices.keeper.remember(vm_id, **{_KEY: None})
            except Error as error:
                logger.warning("vm=%s the end of its freeze is tried again: %s", vm_id, error)
                self._thaw_later(vm_id, _AGAIN_S)
            finally:
                self._beginning.discard(vm_id)

    def look(self, vm_id: str) -> None:
        """After a restart of us or of libvirtd. Returns at once: an agent may leave us waiting."""
        if self._is_noted(vm_id):
            self._thaw_later(vm_id, 0.0)

    def _thaw_later(self, vm_id: str, after_s: float) -> None:
        self._again.start(f"thaw vm={vm_id}", lambda: self._thaw_what_was_left(vm_id), after_s)

    def _thaw_what_was_left(self, vm_id: str) -> None:
        keeper = self._devices.keeper
        keeper.take_turn(vm_id)
        if vm_id in self._beginning or not self._is_noted(vm_id):
            return
        try:
            guestfs.thaw(self._devices, vm_id, _ANSWER_S)
        except (NoGuestAgent, ThawFailed) as error:
            logger.warning("vm=%s its file systems may be frozen still: %s", vm_id, error)
            if self._devices.vms.find(vm_id).devices.agent_connected:
                # It does not answer while QEMU hangs, though libvirt was at nothing.
                raise VmNotResponding(str(error)) from error
        keeper.remember(vm_id, **{_KEY: None})

    def _is_noted(self, vm_id: str) -> bool:
        record = self._devices.vms.get(vm_id)
        return record is not None and record.metadata.flag(_KEY)
