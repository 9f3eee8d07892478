# SPDX-License-Identifier: Apache-2.0
"""What libvirt says of a domain that we find, in our words. Pure: no call, no clock."""

import libvirt

from vdsm_mp.virt.machine import Exit, ExitReason, Life, VmStatus
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.migration_params import NOTE

_SHUTOFF = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: ExitReason.USER_SHUTDOWN,
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: ExitReason.ADMIN_SHUTDOWN,
    libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED: ExitReason.MIGRATED,
    libvirt.VIR_DOMAIN_SHUTOFF_SAVED: ExitReason.SAVED,
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: ExitReason.START_FAILED,
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: ExitReason.LOST_QEMU,
    libvirt.VIR_DOMAIN_SHUTOFF_DAEMON: ExitReason.LOST_QEMU,
}
#: Half of its memory has not come. libvirt 8.5 and later say that it runs then, though it waits for the rest for ever.
_TORN_THERE = (libvirt.VIR_DOMAIN_RUNNING, getattr(libvirt, "VIR_DOMAIN_RUNNING_POSTCOPY_FAILED", 11))
_TORN = (_TORN_THERE, (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED))
#: Who ends it before libvirt's own thread has let go of the migration leaves its job to nobody, and no other can begin
#: on this VM until libvirtd is restarted (seen with 9.0).
TORN_SETTLES_S = 2.0
INACTIVE = {libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_CRASHED}


def life_of(state: int, reason: int, metadata: Metadata) -> Life:
    """libvirt's state -> ours."""
    if state in INACTIVE:
        return Life(status=VmStatus.DOWN, exit=_exit(state, reason, metadata))
    if state == libvirt.VIR_DOMAIN_PAUSED:
        if reason in (libvirt.VIR_DOMAIN_PAUSED_POSTCOPY, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED):
            return Life(status=VmStatus.MIGRATION_SOURCE, postcopy=True, pause_code="POSTCOPY")
        if reason == libvirt.VIR_DOMAIN_PAUSED_MIGRATION:
            # It stands still at both ends; the note stays where it came from.
            leaves = metadata.get(NOTE) is not None
            return Life(status=VmStatus.MIGRATION_SOURCE if leaves else VmStatus.MIGRATION_DESTINATION)
        if reason == libvirt.VIR_DOMAIN_PAUSED_SAVE:
            return Life(status=VmStatus.SAVING)
        failed = reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR
        paused = metadata.number("pauseTime")
        return Life(status=VmStatus.PAUSED, pause_code="EOTHER" if failed else "NOERR", paused_mono=paused)
    if state == libvirt.VIR_DOMAIN_RUNNING and reason in (libvirt.VIR_DOMAIN_RUNNING_POSTCOPY, _TORN_THERE[1]):
        return Life(status=VmStatus.MIGRATION_DESTINATION, cpus_run=True)
    return Life(status=VmStatus.UP, cpus_run=True)


def is_torn(state: int, reason: int) -> bool:
    """Post-copy failed: half of its memory is on another host. Nobody mends that here, and libvirt keeps its job."""
    return (state, reason) in _TORN


def recorded(metadata: Metadata) -> Exit | None:
    """How it ended as it was told and written down; None when it was not."""
    code, number = metadata.get("exitCode"), metadata.get("exitReason")
    if not (isinstance(code, int) and isinstance(number, int) and number in list(ExitReason)):
        return None
    reason = ExitReason(number)
    return Exit(code, reason, str(metadata.get("exitMessage") or reason.message))


def _exit(state: int, reason: int, metadata: Metadata) -> Exit:
    """How it ended: as we wrote it down, else as libvirt remembers."""
    libvirts = _SHUTOFF.get(reason, ExitReason.GENERIC_ERROR) if state == libvirt.VIR_DOMAIN_SHUTOFF else None
    return recorded(metadata) or Exit.because(libvirts or ExitReason.GENERIC_ERROR)


def may_be_starting(state: int, reason: int, metadata: Metadata) -> bool:
    """Defined for its start and never seen to run or to end: libvirt may have the call, though the caller is dead."""
    if state == libvirt.VIR_DOMAIN_PAUSED:
        return bool(reason == libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
    fresh = state == libvirt.VIR_DOMAIN_SHUTOFF and reason == libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN
    return fresh and metadata.get("startTime") is not None and metadata.get("exitCode") is None


def unknown_error(state: int, reason: int) -> bool:
    return bool(state == libvirt.VIR_DOMAIN_PAUSED and reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR)
