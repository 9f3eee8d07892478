# SPDX-License-Identifier: Apache-2.0
"""The machine's moves when a VM goes to another host, comes from one, or is written to storage. Pure, as `machine`."""

from msgspec.structs import replace

from vdsm_mp.virt.machine import Do, Exit, ExitReason, Life, Move, VmStatus, go_down

_RUNS = (VmStatus.UP, VmStatus.PAUSED)
#: What a VM that is leaving may look like to a new life of ours.
_FOUND = (*_RUNS, VmStatus.MIGRATION_DESTINATION)


def leave(life: Life) -> Move:
    """A client wants it on another host. Nothing changes unless it runs or is paused."""
    if life.status not in _RUNS:
        return life, ()
    return replace(life, status=VmStatus.MIGRATION_SOURCE), (Do.TELL_STATUS,)


def found_leaving(life: Life) -> Move:
    """After a restart of ours: the notes say that it was leaving. Nobody is told what everybody knew."""
    if life.status not in _FOUND:
        return life, ()
    return replace(life, status=VmStatus.MIGRATION_SOURCE), ()


def stay(life: Life, *, runs: bool) -> Move:
    """It did not leave. runs: its CPUs do, as libvirt has it now."""
    if life.status is not VmStatus.MIGRATION_SOURCE:
        return life, ()
    return _again(life, runs=runs)


def _again(life: Life, *, runs: bool) -> Move:
    if runs:
        up = replace(life, status=VmStatus.UP, cpus_run=True, postcopy=False, pause_code="NOERR", paused_mono=None)
        return up, (Do.TELL_RUNNING,)
    return replace(life, status=VmStatus.PAUSED, cpus_run=False, postcopy=False), (Do.TELL_STATUS,)


def torn(life: Life) -> Move:
    """Post-copy failed: half of its memory is here and half is there."""
    if life.status not in (VmStatus.MIGRATION_SOURCE, VmStatus.MIGRATION_DESTINATION):
        return life, ()
    return go_down(life, Exit.because(ExitReason.POSTCOPY_FAILED), (Do.DESTROY,))


def left_behind(life: Life) -> Move:
    """It runs on the other host, and its source was never told: what stands still here must not go on."""
    if life.status is not VmStatus.MIGRATION_SOURCE:
        return life, ()
    return go_down(life, Exit.because(ExitReason.MIGRATED), (Do.DESTROY,))


def arrive(life: Life, *, runs: bool) -> Move:
    """It is here, whole."""
    if life.status is not VmStatus.MIGRATION_DESTINATION:
        return life, ()
    status = VmStatus.UP if runs else VmStatus.PAUSED
    return replace(life, status=status, cpus_run=runs, postcopy=False), (Do.TELL_RUNNING,)


def not_arrived(life: Life) -> Move:
    """It never came; what there is of it goes. One that has run here has come: its source goes by the reason."""
    if life.status is not VmStatus.MIGRATION_DESTINATION:
        return life, ()
    reason = ExitReason.LOST_QEMU if life.cpus_run else ExitReason.MIGRATION_FAILED
    return go_down(life, Exit.because(reason), (Do.DESTROY,))


def unwanted(life: Life) -> Move:
    """It came though it was to be destroyed, and libvirt was away then: its source has gone on with it."""
    if life.status is not VmStatus.MIGRATION_DESTINATION or not life.destroy_requested:
        return life, ()
    return go_down(life, Exit.because(ExitReason.MIGRATION_FAILED), (Do.DESTROY,))


def save(life: Life) -> Move:
    """A client wants it to sleep."""
    if life.status not in _RUNS:
        return life, ()
    return replace(life, status=VmStatus.SAVING), (Do.TELL_STATUS,)


def found_saving(life: Life) -> Move:
    """After a restart of ours: the notes say that it was falling asleep. Nobody is told what everybody knew."""
    return (replace(life, status=VmStatus.SAVING), ()) if life.status in _RUNS else (life, ())


def unsaved(life: Life, *, runs: bool) -> Move:
    """It could not be written; it is as before."""
    if life.status is not VmStatus.SAVING:
        return life, ()
    return _again(life, runs=runs)
