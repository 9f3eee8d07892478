# SPDX-License-Identifier: Apache-2.0
"""VMs that leave for another host. Owns the outgoing migrations: their queue, their watch, their end.

The two libvirts move the VM between them, so a migration outlives us; a note in the VM's metadata lets the next life
go on watching it. Where the VM is afterwards is told by libvirt alone: what fails here is first looked at, and what
was prepared at the destination is only taken away while the VM is seen alive on this host.
"""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import libvirt
import msgspec

from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.errors_virt import (
    LibvirtUnavailable,
    MigrationCancelFailed,
    MigrationFailed,
    MigrationInProgress,
    MigrationLimitExceeded,
    MigrationNotInProgress,
    MigrationOperationFailed,
    NoSuchVm,
)
from vdsm_mp.api.ports import Background, Publisher
from vdsm_mp.api.verb import handles
from vdsm_mp.api.vm_migration import CancelMigration, ChangeMigration, GetVmMigrationStatus, MigrateVm, MigrationParams
from vdsm_mp.common import clock, log
from vdsm_mp.common.errors import Error
from vdsm_mp.common.options import Vars
from vdsm_mp.virt import convergence, machine, migration_params, moving
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.convergence import Schedule
from vdsm_mp.virt.keeping import Keeper
from vdsm_mp.virt.machine import Life, Move, VmStatus
from vdsm_mp.virt.migration_params import NOTE, Note
from vdsm_mp.virt.migration_peer import Peers
from vdsm_mp.virt.migration_watch import ADOPTED_S, Outgoing, Watch
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

_XML = libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE
_CANCEL_S = 10.0


class _Cancelled(Exception):
    """A client does not want it any more."""


class Migrations:
    """Leads outgoing migrations, a few at a time; the rest waits in order without holding a thread."""

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
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._keeper = keeper
        self._peers = peers
        self._background = background
        self._watch = Watch(connection, vms, background, publisher, variables.migration_monitor_interval)
        self._watch.ended = self._look
        self._vars = variables
        self._libvirt_uri = libvirt_uri
        self._limit = variables.max_outgoing_migrations
        self._lock = threading.Lock()
        self._all: dict[str, Outgoing] = {}
        self._waiting: deque[Outgoing] = deque()
        self._active = 0

    # -- what clients ask

    def begin(self, vm_id: str, params: MigrationParams) -> None:
        """Accept and queue. Raises: NoSuchVm, VmIsDown, MigrationInProgress, MigrationFailed, InvalidVmParameter."""
        record = self._vms.running(vm_id, "migrate")
        migration_params.address(params.dst)
        if params.mode not in (None, "", "remote"):
            raise MigrationFailed(f"mode {params.mode!r} is not known")
        if record.external:
            raise MigrationFailed("it is not managed by an engine")
        if record.life.status is VmStatus.PAUSED and record.life.pause_code != "NOERR":
            raise MigrationFailed(f"it is paused by an error ({record.life.pause_code})")
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
            if params.outgoing_limit:
                self._limit = params.outgoing_limit
        logger.info("VM.migrate vm=%s dst=%s", vm_id, params.dst)
        self._queue(out)

    def cancel(self, vm_id: str) -> None:
        """Returns when it is on its way out. Raises: MigrationNotInProgress, MigrationCancelFailed."""
        out = self._current(vm_id)
        out.cancelled.set()
        with self._lock:
            waiting = out in self._waiting
            if waiting:
                self._waiting.remove(out)
        if waiting:
            self._stayed(out, "cancelled")
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
        """{progress, downtime}: whole percent; ms, absent until it is known. Raises: MigrationNotInProgress."""
        self._vms.find(vm_id)
        out = self._all.get(vm_id)
        if out is None:
            raise MigrationNotInProgress(vm_id)
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

    # -- after a restart, of us or of libvirtd

    def recovered(self, record: VmRecord) -> None:
        """Take up what the note tells of. From the connection's keeper thread: no waits."""
        note = migration_params.read_note(record.metadata.get(NOTE))
        if note is None or record.external:
            return
        vm_id = record.vm_id
        out = self._all.get(vm_id)
        if out is None or out.done.is_set():
            # One that is adopted already, or that its own thread leads, has somebody who looks after it.
            out = Outgoing(vm_id, note.params, Schedule(), adopted=True, prepared=True, pushing=True)
            try:
                out.plan = replace(migration_params.schedule(note.params, self._vars), init=())
            except Error as error:
                logger.warning("vm=%s its migration goes on without a schedule: %s", vm_id, error)
            with self._lock:
                self._all[vm_id] = out
            self._watch.later(out, 0)
        self._vms.move(vm_id, moving.found_leaving)

    # -- one migration, in a thread of its own: it waits for libvirt as long as the migration takes

    def _queue(self, out: Outgoing) -> None:
        with self._lock:
            self._waiting.append(out)
        self._next()

    def _next(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._active >= self._limit:
                    return
                self._active += 1
                out = self._waiting.popleft()
            flow = log.flow.get()
            threading.Thread(target=self._run, args=(out, flow), name=f"migrate {out.vm_id}", daemon=True).start()

    def _run(self, out: Outgoing, flow: str) -> None:
        log.flow.set(flow)
        try:
            self._migrate(out)
        except MigrationLimitExceeded as error:
            after_s = self._vars.migration_retry_timeout
            logger.info("vm=%s %s: %s; asked again in %d s", out.vm_id, out.params.dst, error, after_s)
            self._background.later(after_s, f"migrate {out.vm_id}", lambda: self._again(out))
        except _Cancelled:
            self._stayed(out, "cancelled")
        except LibvirtUnavailable as error:
            # Nobody knows where it is. The note is there when libvirt is.
            logger.warning("vm=%s libvirt is lost while it migrates: %s", out.vm_id, error)
            self._lose(out)
        except Error as error:
            self._look(out, str(error))
        except Exception:
            logger.exception("vm=%s the migration failed in an unexpected way", out.vm_id)
            self._look(out, "internal error")
        finally:
            with self._lock:
                self._active -= 1
            self._next()

    def _again(self, out: Outgoing) -> None:
        if out.cancelled.is_set():
            self._stayed(out, "cancelled")
        else:
            self._queue(out)

    def _migrate(self, out: Outgoing) -> None:
        vm_id, params = out.vm_id, out.params
        began = clock.mono_s()
        self._go_on(out)
        self._keeper.remember(vm_id, **{NOTE: Note(params.dst, params).dump()})
        dom = self._connection.domain(vm_id)
        record = self._vms.find(vm_id)
        with translated(vm_id, MigrationFailed):
            description = dom.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE)
            live, persistent = dom.XMLDesc(_XML), dom.XMLDesc(_XML | libvirt.VIR_DOMAIN_XML_INACTIVE)
        # From here on a place may be held there, unless the other host says that it has refused.
        out.prepared = True
        try:
            self._peers.create(params.dst, vm_id, _definition(record, params, description), params.incoming_limit)
        except (MigrationLimitExceeded, RemoteError):
            out.prepared = False
            raise
        self._go_on(out)
        host, _ = migration_params.address(params.dst)
        uri = self._libvirt_uri.replace("{host}", migration_params.bracketed(host))
        found = migration_params.parameters(
            params, max_bandwidth=self._vars.migration_max_bandwidth, live=live, persistent=persistent
        )
        out.pushing = True
        self._watch.later(out)
        with translated(vm_id, MigrationFailed):
            dom.migrateToURI3(uri, found, migration_params.flags(params, out.plan))
        logger.info("VM.migrate vm=%s is at %s, took=%dms", vm_id, params.dst, (clock.mono_s() - began) * 1000)
        self._left(out)

    def _go_on(self, out: Outgoing) -> None:
        record = self._vms.get(out.vm_id)
        if out.cancelled.is_set() or record is None or record.life.status is not VmStatus.MIGRATION_SOURCE:
            raise _Cancelled

    # -- how it ends

    def _left(self, out: Outgoing) -> None:
        out.done.set()
        out.progress = 100
        self._vms.change(out.vm_id, lambda now: replace(now, migration_progress=100))
        self._vms.move(out.vm_id, lambda life: machine.on_stopped(life, migrated=True))

    def _look(self, out: Outgoing, why: str) -> None:
        """It did not go as it should: where is the VM now?"""
        if out.cancelled.is_set():
            why = "cancelled"
        try:
            state, reason = self._state(out.vm_id)
        except NoSuchVm:
            out.done.set()
            return
        except Error as error:
            logger.warning("vm=%s cannot be looked at after its migration failed: %s", out.vm_id, error)
            self._lose(out)
            return
        if state in (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED):
            out.done.set()  # its end was an event, or is found when stock is taken
        elif _is_torn(state, reason):
            out.done.set()
            logger.error("vm=%s post-copy failed (%s); it cannot go on anywhere", out.vm_id, why)
            self._vms.move(out.vm_id, moving.torn)
        else:
            self._stayed(out, why, runs=state == libvirt.VIR_DOMAIN_RUNNING)

    def _stayed(self, out: Outgoing, why: str, *, runs: bool | None = None) -> None:
        """The VM lives here. First the destination is cleared: an engine tries again as soon as it knows."""
        logger.warning("VM.migrate vm=%s stays here: %s", out.vm_id, why)
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

    def _state(self, vm_id: str) -> tuple[int, int]:
        with translated(vm_id):
            state, reason = self._connection.domain(vm_id).state()
        return state, reason

    def _lose(self, out: Outgoing) -> None:
        """The thread that led it ends; from now on it is watched as one of an earlier life."""
        if out.adopted:
            return
        out.done.set()

        def adopt() -> None:
            record = self._vms.get(out.vm_id)
            if record is not None and record.life.status is VmStatus.MIGRATION_SOURCE:
                self.recovered(record)

        self._background.later(ADOPTED_S, f"adopt migration {out.vm_id}", adopt)

    def _current(self, vm_id: str) -> Outgoing:
        self._vms.find(vm_id)
        out = self._all.get(vm_id)
        if out is None or out.done.is_set():
            raise MigrationNotInProgress(vm_id)
        return out


def _definition(record: VmRecord, params: MigrationParams, description: str) -> dict[str, Any]:
    """What the destination gets to know of the VM besides its memory."""
    elapsed_s = 0.0 if record.started_wall is None else max(0.0, clock.wall_s() - record.started_wall)
    return {
        "vmId": record.vm_id,
        "vmName": record.name,
        "xml": description,
        "_srcDomXML": description,
        "migrationDest": "libvirt",
        "elapsedTimeOffset": elapsed_s,
        "timeOffset": record.time_offset,
        "clientIp": record.client_ip,
        "destroy_on_reboot": record.life.destroy_on_reboot,
        "enableGuestEvents": bool(params.enable_guest_events),
        "_migrationParams": {},
    }


def _with_bandwidth(params: MigrationParams, mib_s: int) -> MigrationParams:
    return msgspec.structs.replace(params, max_bandwidth=mib_s)


def _is_torn(state: int, reason: int) -> bool:
    failed = libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED
    return bool(state == libvirt.VIR_DOMAIN_PAUSED and reason in (failed, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY))


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
