# SPDX-License-Identifier: Apache-2.0
"""How an outgoing migration ends. Where the VM is then is told by libvirt alone.

What fails is first looked at, and what was prepared at the destination is only taken away while the VM is seen alive
on this host, or when it has ended here and libvirt has said that it did not leave. A libvirtd of ours that dies when
all memory has gone, before it hears whether the VM runs there, leaves the VM standing still: then only the other host
knows, and is asked until it tells. Two must never run.
"""

import logging
from collections.abc import Callable

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import MigrationCancelled, MigrationFailed, NoSuchVm
from vdsm_mp.api.ports import Background
from vdsm_mp.common import log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import machine, moving
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.found import is_torn
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.migration_params import NOTE
from vdsm_mp.virt.migration_peer import Peers, Whereabouts
from vdsm_mp.virt.migration_watch import ADOPTED_S, Outgoing
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

#: It stands still between two hosts, though nobody carries it any more.
_BETWEEN = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION)


class Endings:
    """adopt(record): goes on with a migration that nobody leads. gone(out): one of an earlier life has left."""

    def __init__(
        self, connection: Connection, vms: Vms, *, keeper: Keeper, peers: Peers, background: Background
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._keeper = keeper
        self._peers = peers
        self._background = background
        self.adopt: Callable[[VmRecord], None] = lambda record: None
        self.gone: Callable[[Outgoing], None] = lambda out: None

    def left(self, out: Outgoing) -> None:
        """libvirt says that it is there."""
        out.done.set()
        out.progress = 100
        self._vms.change(out.vm_id, lambda now: replace(now, migration_progress=100))
        self._vms.move(out.vm_id, lambda life: machine.on_stopped(life, migrated=True))

    def look(self, out: Outgoing, why: str) -> None:
        """It did not go as it should: where is the VM now?"""
        if out.cancelled.is_set():
            why = "cancelled"
        try:
            state, reason = self._state(out.vm_id)
        except NoSuchVm:
            self._ended(out)
            return
        except Error as error:
            logger.warning("vm=%s cannot be looked at after its migration failed: %s", out.vm_id, error)
            self.lose(out)
            return
        if state in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED):
            if reason == libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED:
                out.done.set()
                self.gone(out)
            else:
                self._ended(out)
        elif _is_torn(state, reason):
            out.done.set()
            logger.error("vm=%s post-copy failed (%s); it cannot go on anywhere", out.vm_id, why)
            out.failure = MigrationFailed(why)
            self._vms.move(out.vm_id, moving.torn)
        elif (state, reason) == _BETWEEN and out.params.dst:
            self._ask_there(out, why)
        else:
            self.stayed(out, why, runs=state == libvirt.VIR_DOMAIN_RUNNING)

    def _ended(self, out: Outgoing) -> None:
        """Here, while it was to leave; that was an event, or is found when stock is taken. Its place would be kept for
        minutes, and nobody could start it anew meanwhile.
        """
        out.done.set()
        if out.prepared and not out.adopted and out.params.dst:
            self._peers.clear(out.params.dst, out.vm_id)

    def _ask_there(self, out: Outgoing, why: str) -> None:
        """Whether it goes on here, is over here, or stands still for now."""
        try:
            found = self._peers.whereabouts(out.params.dst, out.vm_id)
        except Error as error:
            self._tell(out, type(error).__name__, f"stands still: is it at {out.params.dst}? {error}")
            self.lose(out)
            return
        self._tell(out, found.value, f"libvirt never heard of its arrival at {out.params.dst}: {found.value}")
        if found is Whereabouts.ON_ITS_WAY:
            self.lose(out)
        elif found is Whereabouts.THERE:
            out.done.set()
            self._vms.move(out.vm_id, moving.left_behind)
            self.gone(out)
        elif found is Whereabouts.UNKNOWN:
            # It may have run there and be forgotten: whoever asked for it to go must say what is to become of it.
            self.stayed(out, why, runs=False)
        else:
            self.stayed(out, why, runs=self._resumed(out.vm_id))

    def _tell(self, out: Outgoing, news: str, sentence: str) -> None:
        """Loud once: the other host may be dead for hours, and is asked every few seconds."""
        logger.log(logging.DEBUG if news == out.told else logging.WARNING, "vm=%s %s", out.vm_id, sentence)
        out.told = news

    def _resumed(self, vm_id: str) -> bool:
        """libvirt, which let it stand still, would have done so."""
        try:
            with translated(vm_id):
                self._connection.domain(vm_id).resume()
        except Error as error:
            logger.warning("vm=%s cannot go on: %s", vm_id, error)
            return False
        return True

    def stayed(self, out: Outgoing, why: str, *, runs: bool | None = None) -> None:
        """The VM lives here. First the destination is cleared: an engine tries again as soon as it knows."""
        logger.warning("VM.migrate vm=%s stays here: %s", out.vm_id, why)
        out.failure = MigrationCancelled(out.vm_id) if out.cancelled.is_set() else MigrationFailed(why)
        if out.prepared and out.params.dst:
            self._peers.clear(out.params.dst, out.vm_id)
        try:
            self._keeper.remember(out.vm_id, **{NOTE: None})
            if runs is None:
                runs = self._state(out.vm_id)[0] == libvirt.VIR_DOMAIN_RUNNING
        except Error as error:
            logger.warning("vm=%s the end of its migration is not written down: %s", out.vm_id, error)
        out.done.set()
        self._vms.change(out.vm_id, lambda now: replace(now, migration_progress=None))
        self._vms.move(out.vm_id, lambda life: moving.stay(life, runs=life.cpus_run if runs is None else runs))

    def lose(self, out: Outgoing) -> None:
        """The thread that led it ends; from now on it is watched as one of an earlier life."""
        if out.adopted:
            return
        out.done.set()

        def adopt() -> None:
            record = self._vms.get(out.vm_id)
            if record is not None and record.life.status is VmStatus.MIGRATION_SOURCE:
                self.adopt(record)

        self._background.later(ADOPTED_S, f"adopt migration {out.vm_id}", adopt)

    def _state(self, vm_id: str) -> tuple[int, int]:
        with translated(vm_id):
            state, reason = self._connection.domain(vm_id).state()
        return state, reason


def _is_torn(state: int, reason: int) -> bool:
    """At the source, where one that has gone over, and is not there, is torn, too."""
    return is_torn(state, reason) or (state, reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY)
