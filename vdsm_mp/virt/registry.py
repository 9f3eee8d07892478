# SPDX-License-Identifier: Apache-2.0
"""The VMs we know: add, find, change, forget; events are published from here, after the change and in its order.

Libvirt's callbacks, the lanes and the sampler all move VMs, and no key orders them, because a stuck job must never
keep a Down event waiting. So a move is a pure function applied under one short lock; nothing under it waits.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from vdsm_mp.api.errors import StillStarting
from vdsm_mp.api.errors_virt import (
    MigrationInProgress,
    NoSuchVm,
    VmExists,
    VmIsDown,
    VmNotResponding,
    VmWrongState,
)
from vdsm_mp.api.events import VmStatusChanged
from vdsm_mp.api.ports import Publisher
from vdsm_mp.common import clock, log
from vdsm_mp.virt.machine import Do, Life, Move, VmStatus, reported
from vdsm_mp.virt.records import VmRecord

logger = log.named(__name__)

Describe = Callable[[VmRecord], dict[str, Any]]
Perform = Callable[[VmRecord, Do], None]

_MIGRATING = {VmStatus.MIGRATION_SOURCE, VmStatus.MIGRATION_DESTINATION, VmStatus.SAVING}


class Vms:
    """{vm_id: VmRecord} with a mover. `describe` gives the running statistics of a record for its events, `hangs` tells
    whether a VM's QEMU leaves a command unanswered, `busy` what libvirt is at with it for long, "" for nothing."""

    def __init__(self, publisher: Publisher) -> None:
        self._publish = publisher.publish
        self._records: dict[str, VmRecord] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._known = False
        self.describe: Describe = lambda record: {}
        self.perform: Perform = lambda record, what: None
        self.hangs: Callable[[str], bool] = lambda vm_id: False
        self.busy: Callable[[VmRecord], str] = lambda record: ""

    # -- reading; whole records, no lock

    def known(self) -> "Vms":
        """Self, once it is known which VMs run. Raises: StillStarting; an empty list would be taken for the truth."""
        if not self._known:
            raise StillStarting
        return self

    def become_known(self) -> None:
        self._known = True

    def all(self) -> list[VmRecord]:
        return list(self._records.values())

    def get(self, vm_id: str) -> VmRecord | None:
        return self._records.get(vm_id)

    def find(self, vm_id: str) -> VmRecord:
        """Raises: NoSuchVm, StillStarting."""
        self.known()
        found = self._records.get(vm_id)
        if found is None:
            raise NoSuchVm(vm_id)
        return found

    def running(self, vm_id: str, what: str, *, even_hanging: bool = False, even_busy: bool = False) -> VmRecord:
        """One that has a QEMU which answers, and is not on the move.

        even_busy: what is asked of it changes nothing, or waits for its turn by itself; the rest would wait half a
        minute inside libvirt, and be refused then. Raises: NoSuchVm, VmIsDown, VmWrongState, MigrationInProgress,
        VmNotResponding.
        """
        record = self.find(vm_id)
        status = record.life.status
        if status is VmStatus.DOWN:
            raise VmIsDown(vm_id)
        if status in _MIGRATING:
            raise MigrationInProgress(vm_id)
        if status in (VmStatus.WAIT_FOR_LAUNCH, VmStatus.RESTORING):
            raise VmWrongState(vm_id, status, what)
        if record.orphan:
            raise VmNotResponding("libvirt doesn't know its QEMU any more: all that can be done is to destroy it")
        if not even_hanging and self.hangs(vm_id):
            raise VmNotResponding(f"it leaves an earlier command unanswered and is not asked to {what}")
        if not even_busy and (at := self.busy(record)):
            raise VmWrongState(vm_id, at, what)
        return record

    # -- moving

    def add(self, record: VmRecord) -> None:
        """Raises: VmExists."""
        with self._lock:
            if record.vm_id in self._records:
                raise VmExists(record.vm_id)
            self._records[record.vm_id] = record

    def forget(self, vm_id: str) -> None:
        with self._lock:
            self._records.pop(vm_id, None)
            self._changed.notify_all()

    def change(self, vm_id: str, how: Callable[[VmRecord], VmRecord], *, tell: tuple[str, ...] = ()) -> VmRecord | None:
        """Replace a record; None when it is unknown. tell: statistics keys to publish with the status afterwards.

        Nothing is told so of a VM that is Down: an engine would take it for news of an end without a reason.
        """
        with self._lock:
            old = self._records.get(vm_id)
            if old is None:
                return None
            new = self._records[vm_id] = how(old)
            if tell and new.life.status is not VmStatus.DOWN:
                stats = self.describe(new)
                self._tell(new, {key: stats[key] for key in tell if key in stats})
            self._changed.notify_all()
        return new

    def await_change(self, vm_id: str, done: Callable[[VmRecord], bool], within_s: float) -> bool:
        """Until somebody changes it so, or it is unknown. False: that did not happen."""
        with self._changed:
            return self._changed.wait_for(
                lambda: (record := self._records.get(vm_id)) is None or done(record), within_s
            )

    def move(self, vm_id: str, how: Callable[[Life], Move]) -> VmRecord | None:
        """Apply a function of `machine`, publish what it says, and hand the rest to `perform`. None = unknown VM."""
        with self._lock:
            old = self._records.get(vm_id)
            if old is None:
                return None
            life, todo = how(old.life)
            new = self._records[vm_id] = old.with_life(life)
            if old.life.status is not life.status:
                logger.info("vm=%s %s -> %s%s", vm_id, old.life.status, life.status, _why(life))
            for what in todo:
                self._announce(new, what)
        for what in todo:
            self.perform(new, what)
        return new

    def _announce(self, record: VmRecord, what: Do) -> None:
        if what is Do.TELL_RUNNING:
            self._tell(record, self.describe(record))
        elif what is Do.TELL_STATUS:
            failed = {} if record.io_error is None or record.life.pause_code == "NOERR" else dict(record.io_error)
            self._tell(record, {"pauseCode": record.life.pause_code} | ({"ioerror": failed} if failed else {}))
        elif what is Do.TELL_DOWN:
            self._tell(record, down_info(record))

    def _tell(self, record: VmRecord, info: Mapping[str, Any]) -> None:
        stamp = clock.notify_time()
        status = reported(record.life, clock.mono_s())
        body = {key: value for key, value in info.items() if key not in ("vmId", "statusTime")}
        self._publish(VmStatusChanged(vm_id=record.vm_id, info={**body, "status": str(status)}, notify_time=stamp))


def down_info(record: VmRecord) -> dict[str, Any]:
    """The exit of a Down VM as statistics and events carry it."""
    end = record.life.exit
    if end is None:
        return {}
    return {
        "exitCode": end.code,
        "exitMessage": end.message,
        "exitReason": int(end.reason),
        "timeOffset": record.time_offset,
    }


def short_status(record: VmRecord) -> dict[str, str]:
    """{vmId, status, statusTime}: what lists and most device verbs return."""
    now = clock.notify_time()
    return {"vmId": record.vm_id, "status": str(reported(record.life, clock.mono_s())), "statusTime": str(now)}


def _why(life: Life) -> str:
    if life.exit is not None:
        return f" ({life.exit.message})"
    return f" ({life.pause_code})" if life.status is VmStatus.PAUSED else ""
