# SPDX-License-Identifier: Apache-2.0
"""libvirt's callbacks -> moves of the machine, one row each. They run in libvirt's event thread: no waits, no libvirt.

Registered on every new connection. A callback that is not there in this libvirt is left out with one log line.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import libvirt
from msgspec.structs import replace

from vdsm_mp.common import clock, log
from vdsm_mp.virt import hostfacts, machine, viewers
from vdsm_mp.virt.connection import Connection
from vdsm_mp.virt.machine import ExitReason, VmStatus
from vdsm_mp.virt.records import VmRecord
from vdsm_mp.virt.registry import Vms

logger = log.named(__name__)

_WATCHDOG_ACTIONS = 6


class Callbacks:
    """Routes events of one connection. unknown: called with the id of a VM that we do not know."""

    def __init__(
        self,
        vms: Vms,
        unknown: Callable[[str], None],
        removed: Callable[[str, str], None],
        block_job: Callable[[str, str], None],
        arrival: Callable[[str, int, int], None],
        job_completed: Callable[[str, Mapping[str, Any]], None],
        console_left: Callable[[str], None],
        torn: Callable[[str], None],
        nologin: Path = Path("/run/nologin"),
    ) -> None:
        self._vms = vms
        self._unknown = unknown
        self._removed = removed
        self._block_job_moved = block_job
        self._arrival = arrival
        self._job_ended = job_completed
        self._console_left = console_left
        self._torn = torn
        self._nologin = nologin

    def register(self, connection: Connection, conn: Any) -> None:
        """Raises: libvirtError when the connection is lost meanwhile."""
        rows: tuple[tuple[str, Callable[..., None]], ...] = (
            ("LIFECYCLE", self._lifecycle),
            ("REBOOT", self._reboot),
            ("RTC_CHANGE", self._rtc),
            ("IO_ERROR_REASON", self._io_error),
            ("GRAPHICS", self._graphics),
            ("WATCHDOG", self._watchdog),
            ("AGENT_LIFECYCLE", self._agent),
            ("DEVICE_REMOVED", self._device_removed),
            ("BLOCK_JOB_2", self._block_job),
            ("JOB_COMPLETED", self._job_completed),
        )
        for name, callback in rows:
            number = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}", None)
            if number is None:
                logger.warning("this libvirt has no %s event; what it would tell stays unknown", name)
                continue
            connection.listen(conn, number, _guarded(name, callback))

    def _lifecycle(self, conn: Any, dom: Any, event: int, detail: int, opaque: object) -> None:
        vm_id = dom.UUIDString()
        record = self._vms.get(vm_id)
        if record is None:
            if event != libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
                self._unknown(vm_id)
            return
        now = clock.mono_s()
        if event == libvirt.VIR_DOMAIN_EVENT_STARTED and not record.external:
            self._vms.move(vm_id, machine.on_unexpected_start)
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            migrated = detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED
            saved = detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED
            self._vms.move(vm_id, lambda life: machine.on_stopped(life, migrated=migrated, saved=saved))
            self._vms.change(vm_id, lambda one: replace(one, stop_told=True))
        elif event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
            io_error = detail == libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR
            postcopy = detail == libvirt.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY
            how = machine.on_suspended
            self._vms.move(vm_id, lambda life: how(life, now, io_error=io_error, postcopy=postcopy))
            if detail == libvirt.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED:
                self._torn(vm_id)
        elif event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            self._vms.move(vm_id, machine.on_resumed)
        elif event == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN:
            by_host = detail == getattr(libvirt, "VIR_DOMAIN_EVENT_SHUTDOWN_HOST", 2)
            # Asked by libvirt-guests it looks like the guest's own will, and an engine would leave it down.
            by_host = by_host or (record.life.powerdown_mono is None and hostfacts.going_down(self._nologin))
            reason = ExitReason.HOST_SHUTDOWN if by_host else ExitReason.USER_SHUTDOWN
            self._vms.move(vm_id, lambda life: machine.on_shutdown(life, reason))
        if record is not None and record.life.status is VmStatus.MIGRATION_DESTINATION:
            self._arrival(vm_id, event, detail)

    def _reboot(self, conn: Any, dom: Any, opaque: object) -> None:
        vm_id, wall = dom.UUIDString(), clock.wall_s()
        self._vms.change(vm_id, lambda record: replace(record, started_wall=wall, guest={}))
        self._vms.move(vm_id, lambda life: machine.on_reboot(life, clock.mono_s()))

    def _rtc(self, conn: Any, dom: Any, offset_s: int, opaque: object) -> None:
        def shifted(record: VmRecord) -> VmRecord:
            return replace(record, time_offset=str(record.initial_time_offset_s + offset_s))

        self._vms.change(dom.UUIDString(), shifted, tell=("timeOffset",))

    def _io_error(self, conn: Any, dom: Any, path: str, alias: str, action: int, reason: str, opaque: object) -> None:
        vm_id = dom.UUIDString()
        if action != libvirt.VIR_DOMAIN_EVENT_IO_ERROR_PAUSE:
            logger.warning("vm=%s I/O error on %s (%s), reported to the guest", vm_id, alias, reason)
            return
        code = reason.upper() or "EOTHER"

        def failed(record: VmRecord) -> VmRecord:
            name = next((drive.name for drive in record.devices.drives if drive.alias == alias), "")
            return replace(record, io_error={"alias": alias, "name": name, "path": path})

        self._vms.change(vm_id, failed)
        self._vms.move(vm_id, lambda life: machine.on_io_error(life, clock.mono_s(), code))

    def _graphics(
        self, conn: Any, dom: Any, phase: int, local: Any, remote: Any, auth: str, subject: Any, opaque: object
    ) -> None:
        if phase == libvirt.VIR_DOMAIN_EVENT_GRAPHICS_CONNECT:
            return
        vm_id, came = dom.UUIDString(), phase == libvirt.VIR_DOMAIN_EVENT_GRAPHICS_INITIALIZE
        client = (str(remote.get("node", "")), str(remote.get("service", "")))
        old = self._vms.get(vm_id)
        if old is None:
            return
        how = viewers.came if came else viewers.went
        tell = ("clientIp",) if how(old, client).client_ip != old.client_ip else ()
        new = self._vms.change(vm_id, lambda record: how(record, client), tell=tell)
        if new is not None and viewers.watched(old) and not viewers.watched(new):
            self._console_left(vm_id)

    def _watchdog(self, conn: Any, dom: Any, action: int, opaque: object) -> None:
        event = {"time": clock.wall_s(), "action": action if 0 <= action < _WATCHDOG_ACTIONS else 0}
        self._vms.change(
            dom.UUIDString(), lambda record: replace(record, watchdog=event), tell=("watchdogEvent",)
        )  # fmt: skip

    def _agent(self, conn: Any, dom: Any, state: int, reason: int, opaque: object) -> None:
        connected = state == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED

        def said(record: VmRecord) -> VmRecord:
            since = clock.mono_s() if connected else record.agent_since_mono
            devices = replace(record.devices, agent_connected=connected)
            return replace(record, devices=devices, agent_since_mono=since)

        self._vms.change(dom.UUIDString(), said)
        if connected:
            self._vms.move(dom.UUIDString(), lambda life: machine.on_agent(life, clock.mono_s()))

    def _block_job(self, conn: Any, dom: Any, drive: str, kind: int, status: int, opaque: object) -> None:
        logger.info("vm=%s block job of kind %d on %s: status %d", dom.UUIDString(), kind, drive, status)
        self._block_job_moved(dom.UUIDString(), drive)

    def _job_completed(self, conn: Any, dom: Any, stats: Mapping[str, Any], opaque: object) -> None:
        self._job_ended(dom.UUIDString(), stats)

    def _device_removed(self, conn: Any, dom: Any, alias: str, opaque: object) -> None:
        self._removed(dom.UUIDString(), alias)


def _guarded(name: str, callback: Callable[..., None]) -> Callable[..., None]:
    """An exception in a callback would vanish inside libvirt's binding: say it."""

    def call(*args: Any) -> None:
        try:
            callback(*args)
        except Exception:
            logger.exception("the handler of libvirt's %s event failed", name)

    return call
