# SPDX-License-Identifier: Apache-2.0
"""Taking stock: after each connect, which VMs are there and what happened while nobody listened.

There is no state file. What runs is known to libvirt, what must survive stands in the domain's metadata. The same
walk serves a start of the worker, a restart of libvirtd, and VMs that somebody else made ("external": listed and
watched, but never written to and never destroyed by us on our own account).
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import libvirt
from msgspec.structs import replace

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_virt import VmExists
from vdsm_mp.api.ports import Background
from vdsm_mp.common import clock, log, xml
from vdsm_mp.common.errors import Error
from vdsm_mp.virt import asleep, domxml_parse, machine, moving
from vdsm_mp.virt.awaited import Awaited
from vdsm_mp.virt.callbacks import Callbacks
from vdsm_mp.virt.connection import Connection, translated
from vdsm_mp.virt.domxml_build import destroy_on_reboot
from vdsm_mp.virt.drives import Drives
from vdsm_mp.virt.found import INACTIVE, TORN_SETTLES_S, life_of, may_be_starting, recorded, unknown_error
from vdsm_mp.virt.keeping import Keeper, with_devices
from vdsm_mp.virt.machine import UNSTARTED, Do, Exit, ExitReason, Life, VmStatus
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.orphans import Orphans, is_bare
from vdsm_mp.virt.plug import Removals
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms
from vdsm_mp.virt.sampling import Sampler

logger = log.named(__name__)

_CLAIM_AGAIN_S = 5.0


class Recovery:
    """Takes stock. Runs in the connection's keeper thread and, for single VMs, in the background."""

    def __init__(
        self,
        connection: Connection,
        vms: Vms,
        *,
        keeper: Keeper,
        drives: Drives,
        sampler: Sampler,
        removals: Removals,
        unfinished: Callable[[str], None],
        ended: Callable[[VmRecord], None],
        block_job: Callable[[str, str], None],
        arrival: Callable[[str, int, int], None],
        job_completed: Callable[[str, Mapping[str, Any]], None],
        console_left: Callable[[str], None],
        device_gone: Callable[[str], None],
        unasked: Callable[[str, str], None],
        awaited: Awaited,
        orphans: Orphans,
        background: Background,
    ) -> None:
        self._connection = connection
        self._vms = vms
        self._keeper = keeper
        self._drives = drives
        self._sampler = sampler
        self._background = background
        self._awaited = awaited
        self._orphans = orphans
        self._removals = removals
        self._unfinished = unfinished
        self._ended = ended
        self._device_gone = device_gone
        self._unasked = unasked
        self._callbacks = Callbacks(
            vms, self.look_at, self._device_removed, block_job, arrival, job_completed, console_left, self._torn
        )
        self._unclaimed: set[str] = set()
        self._lock = threading.Lock()

    def take_stock(self, conn: Any) -> None:
        """After a connect. Callbacks first, then the list: what happens in between is seen twice, never missed."""
        self._callbacks.register(self._connection, conn)
        began = clock.mono_s()
        waiting = {r.vm_id for r in self._vms.all() if r.life.status in UNSTARTED}
        before = {r.vm_id for r in self._vms.all()} - waiting
        there, alive = set[str](), set[str]()
        for dom in conn.listAllDomains(0):
            vm_id = dom.UUIDString()
            there.add(vm_id)
            if vm_id not in waiting:
                self._examine(dom, vm_id)
                new = self._vms.get(vm_id) if vm_id not in before else None
                if new is not None and new.life.status is not VmStatus.DOWN:
                    alive.add(vm_id)
        for vm_id in before - there:
            now = self._vms.move(vm_id, moving.not_arrived)
            if now is None or now.external or now.life.status is VmStatus.DOWN or not self._orphans.adopt(vm_id):
                end = Exit.because(ExitReason.DOMAIN_MISSING)
                self._vms.move(vm_id, lambda life, end=end: machine.go_down(life, end))  # type: ignore[misc]
        self._list_undefined(there)
        for record in self._vms.all():
            if record.life.status is VmStatus.DOWN and record.vm_id in alive:
                self._ended(record)  # meanwhile
            elif record.life.status is not VmStatus.DOWN and record.vm_id not in waiting and not record.orphan:
                self._finish(record.vm_id)
        self._vms.become_known()
        logger.info("%d domains examined, took=%dms", len(there), (clock.mono_s() - began) * 1000)
        self._sampler.all_soon()
        self.claim(r.vm_id for r in self._vms.all())

    def _list_undefined(self, there: set[str]) -> None:
        """Its failure must not keep all other VMs from being known."""
        try:
            self._orphans.list_undefined(there)
        except Error as error:
            logger.warning("whether VMs run that libvirt doesn't know is not known: %s", error)

    def _finish(self, vm_id: str) -> None:
        """Take up what was under way when we ended. Its failure must not keep all other VMs from being known."""
        try:
            self._unfinished(vm_id)
        except (Error, libvirt.libvirtError) as error:
            logger.warning("vm=%s what was under way cannot be taken up: %s", vm_id, error)

    def look_at(self, vm_id: str) -> None:
        """A VM we do not know did something: it becomes known if it is one. Any thread."""

        def look() -> None:
            if self._vms.get(vm_id) is None:
                dom = self._connection.domain(vm_id)
                with translated(vm_id):
                    self._examine(dom, vm_id)
                record = self._vms.get(vm_id)
                if record is not None and record.life.status is not VmStatus.DOWN:
                    self._sampler.soon(vm_id)
                if record is not None and not record.external and record.life.status is not VmStatus.DOWN:
                    self._finish(vm_id)
                    self.claim([vm_id])

        self._in_background(f"look at vm={vm_id}", look)

    def storage_is_back(self) -> None:
        """Storage has restarted: it does not know any more what our VMs use."""
        self.claim(r.vm_id for r in self._vms.all())

    def claim(self, vm_ids: Any) -> None:
        """Have the drives of these VMs prepared (again), as often as it takes."""
        with self._lock:
            idle = not self._unclaimed
            self._unclaimed |= set(vm_ids)
        if idle and self._unclaimed:
            self._in_background("claim drives", self._claim)

    def _claim(self) -> None:
        with self._lock:
            todo = list(self._unclaimed)
        for vm_id in todo:
            record = self._vms.get(vm_id)
            gone = record is None or record.external or record.life.status is VmStatus.DOWN
            if gone or self._drives.claim([record] if record is not None else []):
                with self._lock:
                    self._unclaimed.discard(vm_id)
        if self._unclaimed and not self._background.draining:
            self._background.later(_CLAIM_AGAIN_S, "claim drives", self._claim)

    def _examine(self, dom: Any, vm_id: str) -> None:
        """Make one domain known, or tell what has become of it."""
        known = self._vms.get(vm_id)
        bare = known is not None and is_bare(known)
        try:
            state, reason = dom.state()
            domain = xml.parse(dom.XMLDesc(0))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return  # it went while we looked; the missing are handled by the caller
            raise
        active = state not in INACTIVE
        external = not domxml_parse.is_ours(domain)
        if domxml_parse.is_helper(domain) or (external and not active):
            return
        metadata = Metadata.of_domain(domain) or Metadata()
        found = life_of(state, reason, metadata)
        orphaned = not (active or external) and self._orphans.lives(dom, vm_id, metadata)
        if orphaned and known is not None and not bare and known.life.status is not VmStatus.MIGRATION_DESTINATION:
            self._orphans.adopt(vm_id)
            return
        if self._vms.get(vm_id) is not None and not bare:
            if active:
                # Nobody was told who left its console meanwhile.
                self._vms.change(vm_id, lambda record: replace(record, viewers=(), orphan=frozenset()))
                self._vms.change(vm_id, lambda record: with_devices(_as_written(record, known, metadata), domain))
            self._vms.move(vm_id, lambda life: machine.on_recovered(life, found))
            return
        runs_on = active and not external and (end := recorded(metadata)) is not None
        if runs_on:
            # Told as Down, and started too late for us to see it: as `machine.on_unexpected_start`.
            found = Life(status=VmStatus.DOWN, exit=end)
        elif orphaned:
            found = Life(status=VmStatus.UP, cpus_run=True)
        elif may_be_starting(state, reason, metadata):
            found = Life(status=VmStatus.WAIT_FOR_LAUNCH)
        record = _record(vm_id, domain, metadata, found, external=external)
        try:
            if not bare or self._vms.change(vm_id, lambda _: record) is None:
                self._vms.add(record)
        except VmExists:
            return  # created by a call meanwhile
        logger.info("vm=%s (%s) is %s%s", vm_id, record.name, found.status, ", external" if external else "")
        if runs_on:
            self._vms.perform(record, Do.DESTROY)
        elif orphaned:
            self._orphans.adopt(vm_id)
        elif found.status is VmStatus.WAIT_FOR_LAUNCH:
            end = Exit.because(ExitReason.GENERIC_ERROR)
            self._awaited.watch(vm_id, end, lambda live: self.claim([vm_id] if live is not None else []))
        elif found.status is VmStatus.DOWN and metadata.get("exitCode") is None:
            self._ended(record)  # while nobody looked
            self._vms.perform(record, Do.RELEASE)
        elif found.status is VmStatus.DOWN and (volumes := asleep.held(metadata)):
            self._in_background(
                f"give memory of vm={vm_id} back",
                lambda: asleep.give_back(self._keeper, self._drives, self._vms, vm_id, volumes),
            )
        elif unknown_error(state, reason):
            self._vms.perform(record, Do.READ_PAUSE_CODE)

    def _torn(self, vm_id: str) -> None:
        """See `TORN_SETTLES_S`. Who leads its migration may see it before."""

        def move() -> None:
            self._vms.move(vm_id, moving.torn)

        self._background.later(TORN_SETTLES_S, f"end vm={vm_id}", move)

    def _device_removed(self, vm_id: str, alias: str) -> None:
        asked = self._removals.gone(vm_id, alias)
        if self._vms.get(vm_id) is not None:
            self._in_background(f"read devices of vm={vm_id}", lambda: self._refresh(vm_id, "" if asked else alias))

    def _refresh(self, vm_id: str, unasked: str) -> None:
        """unasked: alias of a device that has gone when nobody waited for it."""
        if unasked:
            self._unasked(vm_id, unasked)
        self._keeper.refresh(vm_id, tell=("hash",))
        self._device_gone(vm_id)

    def _in_background(self, name: str, job: Callable[[], None]) -> None:
        def run() -> None:
            try:
                job()
            except (Error, libvirt.libvirtError) as error:
                logger.info("%s: %s", name, error)

        try:
            self._background.start(name, run)
        except Busy:
            self._background.later(1.0, name, run)


def _as_written(record: VmRecord, before: VmRecord | None, metadata: Metadata) -> VmRecord:
    """A write whose answer was lost with libvirtd may have happened. What was written since we read is newer."""
    if record.external or before is None or record.metadata is not before.metadata:
        return record
    return replace(record, metadata=metadata)


def _record(vm_id: str, domain: Any, metadata: Metadata, life: Life, *, external: bool) -> VmRecord:
    record = VmRecord(
        vm_id=vm_id,
        name=xml.text_of(domain, "name"),
        life=replace(life, destroy_on_reboot=metadata.flag("destroy_on_reboot") or destroy_on_reboot(domain)),
        external=external,
        metadata=metadata,
        started_wall=metadata.number("startTime") or clock.wall_s(),
        time_offset=domxml_parse.clock_offset(domain),
    )
    return with_devices(record, domain)
