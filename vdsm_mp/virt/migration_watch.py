# SPDX-License-Identifier: Apache-2.0
"""Watches over an outgoing migration while libvirt carries it: tells its progress, helps it to its end, aborts it.

Looks at it from the background, as often as the options say; never decides where the VM is, see `migration_source`.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import libvirt
import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import MigrationCancelFailed, MigrationOperationFailed, NoSuchVm
from vdsm_mp.api.events import VmMigrationProgress
from vdsm_mp.api.ports import Background, Publisher
from vdsm_mp.api.vm_migration import MigrationParams
from vdsm_mp.common import clock, log
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import convergence
from vdsm_mp.virt.connection import Connection, translate, translated
from vdsm_mp.virt.convergence import Action, Schedule
from vdsm_mp.virt.machine import VmStatus
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

#: How soon after the start libvirt is asked whether it has begun; how often we look at one of an earlier life.
SOON_S = 0.2
ADOPTED_S = 2.0


class Outgoing(msgspec.Struct, eq=False):
    """One migration. prepared: the destination may hold a place for it. pushing: libvirt has it.

    adopted: begun by an earlier life of ours. description: its XML, of when it left or of when it was found leaving.
    failure: why the VM did not leave. afterwards: what follows when it has left was begun.
    told: what the log said last of where it is.
    """

    vm_id: str
    params: MigrationParams
    plan: Schedule
    adopted: bool = False
    prepared: bool = False
    pushing: bool = False
    passes: int = 0
    progress: int = 0
    downtime_ms: int | None = None
    description: str = ""
    failure: Error | None = None
    afterwards: bool = False
    told: str = ""
    cancelled: threading.Event = msgspec.field(default_factory=threading.Event)
    done: threading.Event = msgspec.field(default_factory=threading.Event)


class Watch:
    """ended(migration, why): called when one of an earlier life is not there any more."""

    def __init__(
        self, connection: Connection, vms: Vms, background: Background, publisher: Publisher, interval_s: float
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._background = background
        self._publish = publisher.publish
        self._interval_s = interval_s
        self.ended: Callable[[Outgoing, str], None] = lambda out, why: None

    def later(self, out: Outgoing, after_s: float = SOON_S) -> None:
        """Look at it after so long, and again as long as it goes on."""
        self._background.later(after_s, f"watch migration {out.vm_id}", lambda: self._watch(out))

    def _watch(self, out: Outgoing) -> None:
        if out.done.is_set():
            return
        wait_s: float = self._interval_s
        try:
            stats = self._stats(out)
        except NoSuchVm:
            stats = {}
        except Error as error:
            if self._is_down(out.vm_id):
                if out.adopted:
                    self.ended(out, "it is down")
                return
            logger.info("vm=%s its migration cannot be looked at now: %s", out.vm_id, error)
            self.later(out, ADOPTED_S)
            return
        if stats.get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
            self._step(out, stats)
            if out.adopted:
                wait_s = min(wait_s or ADOPTED_S, ADOPTED_S)
        elif out.adopted:
            self.ended(out, "it ended while nobody watched")
            wait_s = ADOPTED_S
        else:
            wait_s = SOON_S
        if wait_s:
            self.later(out, wait_s)

    def _is_down(self, vm_id: str) -> bool:
        record = self._vms.get(vm_id)
        return record is None or record.life.status is VmStatus.DOWN

    def _stats(self, out: Outgoing) -> dict[str, Any]:
        with translated(out.vm_id):
            found: dict[str, Any] = self._connection.domain(out.vm_id).jobStats(0)
        return found

    def _step(self, out: Outgoing, stats: Mapping[str, Any]) -> None:
        record = self._vms.get(out.vm_id)
        if record is None:
            return
        out.progress = convergence.percent(stats)
        self._vms.change(out.vm_id, lambda now: replace(now, migration_progress=out.progress))
        self.tell(out, postcopy=record.life.postcopy)
        init, out.plan = out.plan.init, replace(out.plan, init=())
        for action in init:
            self._act(out, action)
        passes = int(stats.get("memory_iteration", 0))
        if passes > out.passes and not record.life.postcopy:
            out.passes = passes
            step, out.plan = out.plan.next(passes)
            if step is not None:
                self._act(out, step)

    def _act(self, out: Outgoing, action: Action) -> None:
        logger.info("vm=%s migration at %d%%: %s %s", out.vm_id, out.progress, action.name, action.downtime_ms or "")
        try:
            with translated(out.vm_id, MigrationOperationFailed):
                dom = self._connection.domain(out.vm_id)
                if action.name == convergence.SET_DOWNTIME:
                    dom.migrateSetMaxDowntime(action.downtime_ms, 0)
                elif action.name == convergence.POSTCOPY:
                    dom.migrateStartPostCopy(0)
                else:
                    dom.abortJob()
        except Error as error:
            logger.warning("vm=%s %s failed: %s", out.vm_id, action.name, error)

    def abort(self, out: Outgoing) -> bool:
        """False when libvirt has nothing to abort. Raises: MigrationCancelFailed."""
        try:
            self._connection.domain(out.vm_id).abortJob()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID and not self._moves(out):
                return False
            raise translate(error, out.vm_id, MigrationCancelFailed) from error
        return True

    def _moves(self, out: Outgoing) -> bool:
        return bool(self._stats(out).get("operation") == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)

    def tell(self, out: Outgoing, *, postcopy: bool) -> None:
        """Publish where it stands."""
        event = VmMigrationProgress(
            vm_id=out.vm_id, progress=out.progress, postcopy=postcopy, notify_time=clock.notify_time()
        )
        if out.downtime_ms is not None:
            event = VmMigrationProgress(
                vm_id=out.vm_id, progress=out.progress, postcopy=postcopy, notify_time=event.notify_time,
                downtime_ms=out.downtime_ms,
            )  # fmt: skip
        self._publish(event)
