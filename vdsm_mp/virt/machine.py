# SPDX-License-Identifier: Apache-2.0
"""The life of a VM as a table: pure functions from (life, what happened) to (life, what to do). No I/O, no clock.

    status                  means
    WaitForLaunch           accepted and persisted; its disks are being prepared, or it waits for its turn
    Powering up, Up         runs; `Powering up` after the start, `RebootInProgress` after a reboot: until its agent is
                            there, or for 60 s
    Powering down           runs and was asked to shut down less than 300 s ago
    Paused                  its CPUs stand still; `pause_code` says why
    Saving State            its memory is being written out          Restoring state    and read back
    Migration Source        it is moving away                        Migration Destination   and coming in
    Down                    it has ended; kept with its exit until the engine destroys it. Nothing leads out of Down

`status` of a `Life` is the stored one; what clients see is `reported()`, which adds the guest's recent past.
"""

import enum

import msgspec
from msgspec.structs import replace


class VmStatus(enum.StrEnum):
    """VDSM's words, exactly: blanks and capitals matter to the engine."""

    WAIT_FOR_LAUNCH = "WaitForLaunch"
    POWERING_UP = "Powering up"
    UP = "Up"
    PAUSED = "Paused"
    POWERING_DOWN = "Powering down"
    REBOOTING = "RebootInProgress"
    SAVING = "Saving State"
    RESTORING = "Restoring state"
    MIGRATION_SOURCE = "Migration Source"
    MIGRATION_DESTINATION = "Migration Destination"
    DOWN = "Down"


class ExitReason(enum.IntEnum):
    """Why a VM is Down; the messages are VDSM's, its spelling included, because clients show and compare them."""

    SUCCESS = 0
    GENERIC_ERROR = 1
    LOST_QEMU = 2
    START_FAILED = 3
    MIGRATED = 4
    SAVED = 5
    ADMIN_SHUTDOWN = 6
    USER_SHUTDOWN = 7
    MIGRATION_FAILED = 8
    DOMAIN_MISSING = 9
    DESTROYED_ON_STARTUP = 10
    HOST_SHUTDOWN = 11
    POSTCOPY_FAILED = 12
    DESTROYED_ON_REBOOT = 13
    DESTROYED_ON_PAUSE_TIMEOUT = 14

    @property
    def message(self) -> str:
        return _EXIT_MESSAGES[self]

    @property
    def exit_code(self) -> int:
        """0 when the VM ended as somebody wanted."""
        return 0 if self in _WANTED else 1


_EXIT_MESSAGES = (
    "VM terminated succesfully",
    "VM terminated with error",
    "Lost connection with qemu process",
    "failed to start libvirt vm",
    "Migration succeeded",
    "SaveState succeeded",
    "Admin shut down from the engine",
    "User shut down from within the guest",
    "VM failed to migrate",
    "Failed to find the libvirt domain",
    "VM destroyed during the startup",
    "VM has been terminated on the host",
    "Migration failed in post-copy",
    "Down as a part of the reboot process",
    "Down because paused for too long",
)
_WANTED = {
    ExitReason.SUCCESS,
    ExitReason.MIGRATED,
    ExitReason.SAVED,
    ExitReason.ADMIN_SHUTDOWN,
    ExitReason.USER_SHUTDOWN,
    ExitReason.DESTROYED_ON_REBOOT,
}


class Exit(msgspec.Struct, frozen=True):
    """How a VM ended."""

    code: int
    reason: ExitReason
    message: str

    @classmethod
    def because(cls, reason: ExitReason, message: str = "") -> "Exit":
        return cls(reason.exit_code, reason, message or reason.message)


class Do(enum.Enum):
    """What somebody else must do after a move."""

    TELL_RUNNING = "tell_running"  #: event with the running statistics: it started, went on, rebooted
    TELL_STATUS = "tell_status"  #: event with the status (and the pause code)
    TELL_DOWN = "tell_down"  #: event with the exit
    RELEASE = "release"  #: remember the exit in the metadata, give its disks back
    READ_PAUSE_CODE = "read_pause_code"  #: ask libvirt which disk failed and how
    REMEMBER_PAUSE = "remember_pause"  #: write down since when it is paused; decides later whether it may go on
    DESTROY = "destroy"  #: end it


class Life(msgspec.Struct, frozen=True):
    """Where a VM stands. Times are CLOCK_MONOTONIC seconds; None = has not happened."""

    status: VmStatus = VmStatus.WAIT_FOR_LAUNCH
    cpus_run: bool = False
    pause_code: str = "NOERR"
    paused_mono: float | None = None
    exit: Exit | None = None
    #: Recorded by the shutdown event, used when the stop event follows.
    stop_reason: ExitReason | None = None
    #: The guest's own last doing and when: Powering up after a start, RebootInProgress after a reboot.
    guest_status: VmStatus = VmStatus.UP
    guest_event_mono: float | None = None
    #: When its agent came last: then it is over with what it did.
    guest_up_mono: float | None = None
    powerdown_mono: float | None = None
    destroy_requested: bool = False
    destroy_on_reboot: bool = False
    #: QEMU ended between our start call and its return.
    stopped_early: bool = False
    postcopy: bool = False


GUEST_EVENT_S = 60.0
POWERDOWN_S = 300.0

_STORED_AS_IS = {
    VmStatus.SAVING,
    VmStatus.RESTORING,
    VmStatus.MIGRATION_SOURCE,
    VmStatus.MIGRATION_DESTINATION,
    VmStatus.PAUSED,
    VmStatus.DOWN,
    VmStatus.WAIT_FOR_LAUNCH,
}
#: In these a stop is the end of something we do ourselves, not the death of the guest.
MOVING = {VmStatus.SAVING, VmStatus.MIGRATION_SOURCE, VmStatus.MIGRATION_DESTINATION, VmStatus.RESTORING}
#: Whoever starts these knows best what has become of them.
UNSTARTED = {VmStatus.WAIT_FOR_LAUNCH, VmStatus.RESTORING}

Move = tuple[Life, tuple[Do, ...]]


def reported(life: Life, now: float) -> VmStatus:
    """The status that clients see."""
    if life.status is VmStatus.MIGRATION_SOURCE and life.postcopy:
        return VmStatus.PAUSED
    if life.status in _STORED_AS_IS:
        return life.status
    if not life.cpus_run:
        return VmStatus.PAUSED
    if life.powerdown_mono is not None and now - life.powerdown_mono < POWERDOWN_S:
        return VmStatus.POWERING_DOWN
    if life.guest_event_mono is not None and now - life.guest_event_mono < GUEST_EVENT_S:
        up = life.guest_up_mono is not None and life.guest_up_mono > life.guest_event_mono
        return VmStatus.UP if up else life.guest_status
    return VmStatus.UP


def on_started(life: Life, now: float, *, paused: bool) -> Move:
    """Our own start call came back well."""
    if life.status is VmStatus.DOWN:
        return life, ()
    if life.destroy_requested:
        return go_down(life, Exit.because(ExitReason.DESTROYED_ON_STARTUP), (Do.DESTROY,))
    if life.stopped_early:
        return go_down(life, Exit.because(life.stop_reason or ExitReason.LOST_QEMU))
    started = replace(
        life,
        status=VmStatus.PAUSED if paused else VmStatus.UP,
        cpus_run=not paused,
        guest_status=VmStatus.POWERING_UP,
        guest_event_mono=now,
    )
    return started, (Do.TELL_RUNNING,)


def on_unexpected_start(life: Life) -> Move:
    """libvirt: QEMU was started. For a VM that was told to be Down it comes too late: it may run elsewhere by now."""
    return life, (Do.DESTROY,) if life.status is VmStatus.DOWN else ()


def go_down(life: Life, exit_: Exit, more: tuple[Do, ...] = ()) -> Move:
    """The one way to Down. A second one changes nothing."""
    if life.status is VmStatus.DOWN:
        return life, ()
    down = replace(life, status=VmStatus.DOWN, cpus_run=False, exit=exit_, pause_code="NOERR", powerdown_mono=None)
    return down, (*more, Do.TELL_DOWN, Do.RELEASE)


def on_shutdown(life: Life, reason: ExitReason) -> Move:
    """libvirt: the guest is shutting down, by itself or because QEMU was told to. The first reason counts."""
    if life.status is VmStatus.DOWN or life.stop_reason is not None:
        return life, ()
    return replace(life, stop_reason=reason), ()


def on_stopped(life: Life, *, migrated: bool = False, saved: bool = False) -> Move:
    """libvirt: QEMU has ended."""
    # libvirt says so of nothing else, whatever we took the VM for: it may be gone before a new life of ours knows.
    if migrated:
        return go_down(life, Exit.because(ExitReason.MIGRATED))
    if saved:
        return go_down(life, Exit.because(ExitReason.SAVED))
    if life.status in UNSTARTED:
        return replace(life, stopped_early=True), ()
    if life.destroy_requested:
        return go_down(life, Exit.because(ExitReason.ADMIN_SHUTDOWN))
    if life.status is VmStatus.MIGRATION_DESTINATION and not life.cpus_run:
        return go_down(life, Exit.because(ExitReason.MIGRATION_FAILED))
    return go_down(life, Exit.because(life.stop_reason or ExitReason.LOST_QEMU))


def on_suspended(life: Life, now: float, *, io_error: bool = False, postcopy: bool = False) -> Move:
    """libvirt: the CPUs stand still."""
    if life.status is VmStatus.DOWN:
        return life, ()
    if postcopy:
        return replace(life, cpus_run=False, postcopy=True, pause_code="POSTCOPY"), (Do.TELL_STATUS,)
    stopped = replace(life, cpus_run=False)
    if life.status is VmStatus.PAUSED and not (io_error and life.pause_code == "NOERR"):
        return stopped, ()
    if life.status in MOVING or life.status is VmStatus.WAIT_FOR_LAUNCH:
        return stopped, ()
    code = life.pause_code if io_error else "NOERR"
    paused = replace(stopped, status=VmStatus.PAUSED, pause_code=code, paused_mono=life.paused_mono or now)
    return paused, (Do.READ_PAUSE_CODE,) if io_error and code == "NOERR" else (Do.TELL_STATUS,)


def on_io_error(life: Life, now: float, code: str) -> Move:
    """libvirt: a disk failed and the VM is paused for it. code: ENOSPC, EIO, EPERM or EOTHER."""
    if life.status is VmStatus.DOWN or life.status is VmStatus.WAIT_FOR_LAUNCH:
        return life, ()
    status = life.status if life.status in MOVING else VmStatus.PAUSED
    paused = replace(life, status=status, cpus_run=False, pause_code=code, paused_mono=life.paused_mono or now)
    return paused, (Do.TELL_STATUS, Do.REMEMBER_PAUSE)


def on_resumed(life: Life) -> Move:
    """libvirt: the CPUs run."""
    if life.status is VmStatus.DOWN:
        return life, ()
    running = replace(life, cpus_run=True, pause_code="NOERR", paused_mono=None)
    if life.status is not VmStatus.PAUSED and life.status is not VmStatus.UP:
        return running, ()
    was_running = life.status is VmStatus.UP and life.cpus_run
    return replace(running, status=VmStatus.UP), () if was_running else (Do.TELL_RUNNING,)


def on_reboot(life: Life, now: float) -> Move:
    """libvirt: the guest rebooted."""
    if life.status is VmStatus.DOWN:
        return life, ()
    if life.destroy_on_reboot:
        return go_down(life, Exit.because(ExitReason.DESTROYED_ON_REBOOT), (Do.DESTROY,))
    rebooted = replace(life, guest_status=VmStatus.REBOOTING, guest_event_mono=now, powerdown_mono=None)
    return rebooted, (Do.TELL_RUNNING,)


def on_agent(life: Life, now: float) -> Move:
    """libvirt: an agent in the guest opened its channel. It is up; seen in polls only, as upstream has it."""
    return replace(life, guest_up_mono=now), ()


def on_powerdown_request(life: Life, now: float) -> Move:
    """A client asked the guest to shut down. Told when it shows: a paused one cannot, and one that was asked does."""
    if life.status is VmStatus.DOWN:
        return life, ()
    asked = replace(life, powerdown_mono=now)
    news = reported(asked, now) is VmStatus.POWERING_DOWN is not reported(life, now)
    return asked, (Do.TELL_STATUS,) if news else ()


def on_destroy_request(life: Life) -> Move:
    """A client wants it gone: a start in progress stops at its next step."""
    return replace(life, destroy_requested=True), ()


def on_start_failed(life: Life, exit_: Exit) -> Move:
    """Our start did not succeed."""
    if life.destroy_requested:
        exit_ = Exit.because(ExitReason.DESTROYED_ON_STARTUP)
    return go_down(life, exit_)


def on_orphaned(life: Life) -> Move:
    """Its QEMU runs, and libvirt doesn't know it any more: whatever was under way with it has nobody who leads it."""
    if life.status is VmStatus.DOWN or life.status in UNSTARTED:
        return life, ()
    return replace(life, status=VmStatus.UP if life.status in MOVING else life.status), (Do.TELL_RUNNING,)


def on_destroy_on_reboot(life: Life) -> Move:
    """A client wants the next reboot to be the end."""
    return replace(life, destroy_on_reboot=True), ()


def on_recovered(life: Life, found: Life) -> Move:
    """Stock was taken after a gap; what the gap swallowed is told now. found: as libvirt has it, from `recovery`."""
    if life.status is VmStatus.DOWN:
        return life, () if found.status is VmStatus.DOWN else (Do.DESTROY,)  # as `on_unexpected_start`
    if life.status in UNSTARTED:
        return life, ()
    if found.status is VmStatus.DOWN:
        end = found.exit or Exit.because(ExitReason.GENERIC_ERROR)
        if life.destroy_requested:
            end = Exit.because(ExitReason.ADMIN_SHUTDOWN)
        elif life.stop_reason is not None:
            end = Exit.because(life.stop_reason)
        return go_down(life, end)
    if life.status in MOVING or found.status in MOVING:
        return replace(life, cpus_run=found.cpus_run), ()
    if found.cpus_run:
        return on_resumed(life)
    if life.status is VmStatus.PAUSED:
        return replace(life, cpus_run=False), ()
    paused = replace(
        life, status=VmStatus.PAUSED, cpus_run=False, pause_code=found.pause_code, paused_mono=found.paused_mono
    )
    return paused, (Do.TELL_STATUS,)
