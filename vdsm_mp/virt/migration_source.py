# SPDX-License-Identifier: Apache-2.0
"""VMs that leave for another host: what clients ask of them, and what a new life takes up. Knows all that are
under way.

    migration_queue   whose turn it is          migration_push   one of them, from here to there
    migration_watch   its progress              migration_end    where the VM is when it is over

A note in the VM's metadata lets the next life go on watching what libvirt carries meanwhile.
"""

import threading
from collections.abc import Mapping
from typing import Any

import libvirt
import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_virt import (
    LibvirtUnavailable,
    MigrationCancelFailed,
    MigrationFailed,
    MigrationInProgress,
    MigrationLimitExceeded,
    MigrationNotInProgress,
    MigrationOperationFailed,
    TransientDisk,
)
from vdsm_mp.api.ports import Background, Publisher
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_migration import CancelMigration, ChangeMigration, GetVmMigrationStatus, MigrateVm, MigrationParams
from vdsm_mp.common import clock, log
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Vars
from vdsm_mp.virt import convergence, migration_params, moving
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.convergence import Schedule
from vdsm_mp.virt.keeping import Keeper, at_something
from vdsm_mp.virt.machine import ExitReason, Life, Move, VmStatus
from vdsm_mp.virt.migration_end import Endings
from vdsm_mp.virt.migration_params import NOTE, Note
from vdsm_mp.virt.migration_peer import Peers
from vdsm_mp.virt.migration_push import Cancelled, Push
from vdsm_mp.virt.migration_queue import Queue
from vdsm_mp.virt.migration_watch import Outgoing, Watch
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms
from vdsm_mp.virt.vmhooks import VmHooks

logger = log.named(__name__)

_CANCEL_S = 10.0
_ASK_AGAIN_S = 1.0


class Migrations:
    """All outgoing migrations, by VM."""

    def __init__(
        self,
        connection: Connection,
        vms: Vms,
        *,
        keeper: Keeper,
        peers: Peers,
        background: Background,
        publisher: Publisher,
        variables: Vars,
        libvirt_uri: str,
        hooks: VmHooks,
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._background = background
        self._vars = variables
        self._end = Endings(connection, vms, keeper=keeper, peers=peers, background=background)
        self._end.adopt = self.recovered
        self._watch = Watch(connection, vms, background, publisher, variables.migration_monitor_interval)
        self._watch.ended = self._end.look
        self._push = Push(
            connection,
            vms,
            keeper=keeper,
            peers=peers,
            watch=self._watch,
            hooks=hooks,
            background=background,
            max_bandwidth=variables.migration_max_bandwidth,
            libvirt_uri=libvirt_uri,
        )
        self._end.gone = self._push.afterwards
        self._queue = Queue(self._lead, variables.max_outgoing_migrations)
        self._lock = threading.Lock()
        self._all: dict[str, Outgoing] = {}

    # -- what clients ask

    def begin(self, vm_id: str, params: MigrationParams) -> None:
        """Accept and queue. Raises: NoSuchVm, VmIsDown, MigrationInProgress, MigrationFailed, TransientDisk."""
        record = self._vms.running(vm_id, "migrate")
        migration_params.address(params.dst)
        if params.mode not in (None, "", "remote"):
            raise MigrationFailed(f"mode {params.mode!r} is not known")
        if record.external:
            raise MigrationFailed("it is not managed by an engine")
        if record.life.status is VmStatus.PAUSED and record.life.pause_code != "NOERR":
            raise MigrationFailed(f"it is paused by an error ({record.life.pause_code})")
        if any(drive.transient for drive in record.devices.drives):
            raise TransientDisk(f"virtual machine {vm_id} cannot leave this host")
        out = Outgoing(vm_id, params, migration_params.schedule(params, self._vars))
        ours = False

        def leave(life: Life) -> Move:
            nonlocal ours
            move = moving.leave(life)
            ours = move[0] is not life
            return move

        self._vms.change(vm_id, lambda now: replace(now, migration_progress=0))
        self._vms.move(vm_id, leave)
        if not ours:
            raise MigrationInProgress(vm_id)
        with self._lock:
            self._all = {key: old for key, old in self._all.items() if self._vms.get(key) is not None}
            self._all[vm_id] = out
        logger.info("VM.migrate vm=%s dst=%s", vm_id, params.dst)
        self._queue.submit(out, params.outgoing_limit)

    def cancel(self, vm_id: str) -> None:
        """Returns when it is on its way out. Raises: MigrationNotInProgress, MigrationCancelFailed."""
        out = self._current(vm_id)
        out.cancelled.set()
        if self._queue.withdraw(out):
            self._end.stayed(out, "cancelled")
            return
        until = clock.mono_s() + _CANCEL_S
        # libvirt may not have begun yet; then there is nothing that could be aborted.
        while out.pushing and not self._watch.abort(out):
            if out.done.wait(0.1):
                return
            if clock.mono_s() > until:
                raise MigrationCancelFailed("it has not begun")

    def limit_bandwidth(self, vm_id: str, mib_s: int) -> None:
        """Raises: MigrationNotInProgress, MigrationOperationFailed."""
        out = self._current(vm_id)
        out.params = _with_bandwidth(out.params, mib_s)
        with translated(vm_id, MigrationOperationFailed):
            self._connection.domain(vm_id).migrateSetMaxSpeed(mib_s, 0)

    def status(self, vm_id: str) -> dict[str, Any]:
        """{progress, downtime}: whole percent; ms, absent until it is known.

        Raises: MigrationNotInProgress; of one that failed MigrationFailed or MigrationCancelled: engines read here why.
        """
        self._vms.find(vm_id)
        out = self._all.get(vm_id)
        if out is None:
            raise MigrationNotInProgress(vm_id)
        if out.failure is not None:
            raise out.failure
        return {"progress": out.progress} | ({} if out.downtime_ms is None else {"downtime": out.downtime_ms})

    # -- what libvirt tells (in its event thread: no waits)

    def completed(self, vm_id: str, stats: Mapping[str, Any]) -> None:
        """A job of a VM has ended; for one of ours the statistics tell the downtime."""
        out = self._all.get(vm_id)
        if out is None or stats.get("operation") != libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
            return
        if not stats.get("success", True):
            return
        record = self._vms.get(vm_id)
        postcopy = record is not None and record.life.postcopy
        out.progress, out.downtime_ms = 100, convergence.downtime_ms(stats, postcopy=postcopy)
        self._watch.tell(out, postcopy=postcopy)
        if out.adopted:
            self._push.afterwards(out)

    def left_unseen(self, record: VmRecord) -> None:
        """It was found Down: it has left while nobody of ours lived."""
        note = migration_params.read_note(record.metadata.get(NOTE))
        end = record.life.exit
        if note is None or end is None or end.reason is not ExitReason.MIGRATED:
            return
        with self._lock:
            out = self._all.get(record.vm_id)
        if out is None:
            out = self._found(record, note)
            out.done.set()
            with self._lock:
                self._all[record.vm_id] = out
        self._push.afterwards(out)

    # -- after a restart, of us or of libvirtd

    def recovered(self, record: VmRecord) -> None:
        """Take up what the note tells of. From the connection's keeper thread: no waits.

        VDSM leaves no note; then libvirt is asked, beside all this, since a QEMU that hangs would be waited for.
        """
        if record.external:
            return
        note = migration_params.read_note(record.metadata.get(NOTE))
        if note is not None:
            self._take_up(record, note)
        elif record.life.status is VmStatus.MIGRATION_SOURCE:
            self._take_up(record, Note("", MigrationParams()))
        else:
            self._ask_later(record.vm_id, 0.0)

    def _ask_later(self, vm_id: str, after_s: float) -> None:
        self._background.later(after_s, f"is {vm_id} leaving", lambda: self._ask_libvirt(vm_id))

    def _ask_libvirt(self, vm_id: str) -> None:
        try:
            with translated(vm_id):
                dom = self._connection.domain(vm_id)
                if at_something(dom):
                    self._ask_later(vm_id, _ASK_AGAIN_S)
                    return
                operation = dom.jobStats(0).get("operation")
        except Error as error:
            logger.info("vm=%s whether it is leaving is not known: %s", vm_id, error)
            return
        record = self._vms.get(vm_id)
        if (
            operation == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
            and record is not None
            and vm_id not in self._all
        ):
            logger.info("vm=%s is on its way to another host, nobody of ours has sent it", vm_id)
            self._take_up(record, Note("", MigrationParams()))

    def _take_up(self, record: VmRecord, note: Note) -> None:
        vm_id = record.vm_id
        out = self._all.get(vm_id)
        if out is None or out.done.is_set():
            # One that is adopted already, or that its own thread leads, has somebody who looks after it.
            out = self._found(record, note)
            try:
                out.plan = replace(migration_params.schedule(note.params, self._vars), init=())
            except Error as error:
                logger.warning("vm=%s its migration goes on without a schedule: %s", vm_id, error)
            with self._lock:
                self._all[vm_id] = out
            self._watch.later(out, 0)
        self._vms.move(vm_id, moving.found_leaving)

    def _found(self, record: VmRecord, note: Note) -> Outgoing:
        out = Outgoing(record.vm_id, note.params, Schedule(), adopted=True, prepared=True, pushing=True)
        try:
            with translated(record.vm_id):
                out.description = self._connection.domain(record.vm_id).XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)
        except Error as error:
            logger.info("vm=%s hooks will not see it when it has left: %s", record.vm_id, error)
        return out

    # -- one migration, in a thread of the queue

    def _lead(self, out: Outgoing) -> None:
        try:
            self._push.run(out)
        except MigrationLimitExceeded as error:
            after_s = self._vars.migration_retry_timeout
            logger.info("vm=%s %s: %s; asked again in %d s", out.vm_id, out.params.dst, error, after_s)
            self._background.later(after_s, f"migrate {out.vm_id}", lambda: self._again(out))
        except Cancelled:
            self._end.stayed(out, "cancelled")
        except LibvirtUnavailable as error:
            # Nobody knows where it is. The note is there when libvirt is.
            logger.warning("vm=%s libvirt is lost while it migrates: %s", out.vm_id, error)
            self._end.lose(out)
        except MigrationFailed as error:
            self._end.look(out, error.reason)
        except Error as error:
            self._end.look(out, str(error))
        except Exception:
            logger.exception("vm=%s the migration failed in an unexpected way", out.vm_id)
            self._end.look(out, "internal error")
        else:
            self._end.left(out)
            self._push.afterwards(out)

    def _again(self, out: Outgoing) -> None:
        if out.cancelled.is_set():
            self._end.stayed(out, "cancelled")
        else:
            self._queue.submit(out)

    def _current(self, vm_id: str) -> Outgoing:
        self._vms.find(vm_id)
        out = self._all.get(vm_id)
        if out is None or out.done.is_set():
            raise MigrationNotInProgress(vm_id)
        return out


def _with_bandwidth(params: MigrationParams, mib_s: int) -> MigrationParams:
    return msgspec.structs.replace(params, max_bandwidth=mib_s)


@handles(MigrateVm)
def migrate(migrations: Migrations, ask: MigrateVm) -> None:
    """Accepted when it returns; the rest is told by events."""
    migrations.begin(ask.vm_id, ask.params)


@handles(CancelMigration)
def cancel_migration(migrations: Migrations, ask: CancelMigration) -> None:
    migrations.cancel(ask.vm_id)


@handles(ChangeMigration)
def change_migration(migrations: Migrations, ask: ChangeMigration) -> None:
    migrations.limit_bandwidth(ask.vm_id, ask.params.max_bandwidth)


@handles(GetVmMigrationStatus)
def get_migration_status(migrations: Migrations, ask: GetVmMigrationStatus) -> dict[str, Any]:
    return migrations.status(ask.vm_id)
