# SPDX-License-Identifier: Apache-2.0
"""The life of a VM, cell by cell."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vdsm_mp.virt import machine
from vdsm_mp.virt.machine import Do, Exit, ExitReason, Life, Move, VmStatus, reported

UP = Life(status=VmStatus.UP, cpus_run=True)
PAUSED = Life(status=VmStatus.PAUSED, paused_mono=5.0)
DOWN = Life(status=VmStatus.DOWN, exit=Exit.because(ExitReason.USER_SHUTDOWN))

MOVES: dict[str, Callable[[Life], Move]] = {
    "started": lambda life: machine.on_started(life, 10, paused=False),
    "started paused": lambda life: machine.on_started(life, 10, paused=True),
    "shutdown": lambda life: machine.on_shutdown(life, ExitReason.USER_SHUTDOWN),
    "stopped": machine.on_stopped,
    "migrated": lambda life: machine.on_stopped(life, migrated=True),
    "saved": lambda life: machine.on_stopped(life, saved=True),
    "suspended": lambda life: machine.on_suspended(life, 10),
    "I/O error suspended": lambda life: machine.on_suspended(life, 10, io_error=True),
    "I/O error": lambda life: machine.on_io_error(life, 10, "EIO"),
    "resumed": machine.on_resumed,
    "reboot": lambda life: machine.on_reboot(life, 10),
    "agent": lambda life: machine.on_agent(life, 10),
    "powerdown asked": lambda life: machine.on_powerdown_request(life, 10),
    "start failed": lambda life: machine.on_start_failed(life, Exit.because(ExitReason.START_FAILED)),
    "destroy on reboot asked": machine.on_destroy_on_reboot,
    "recovered down": lambda life: machine.on_recovered(life, DOWN),
    "recovered up": lambda life: machine.on_recovered(life, UP),
    "recovered paused": lambda life: machine.on_recovered(life, PAUSED),
}


def test_a_start_is_told_with_the_running_statistics_and_looks_young_for_a_minute() -> None:
    life, todo = machine.on_started(Life(), 100, paused=False)
    assert todo == (Do.TELL_RUNNING,)
    assert reported(life, 159) is VmStatus.POWERING_UP
    assert reported(life, 161) is VmStatus.UP


def test_a_vm_that_was_to_start_paused_is_paused() -> None:
    life, _ = machine.on_started(Life(), 100, paused=True)
    assert reported(life, 100) is VmStatus.PAUSED


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_nothing_leads_out_of_down_and_nothing_is_told_twice(move: Callable[[Life], Move]) -> None:
    life, todo = move(DOWN)
    assert (life.status, life.exit) == (VmStatus.DOWN, DOWN.exit)
    assert set(todo) <= {Do.DESTROY}


@pytest.mark.parametrize(
    ("reason", "code"),
    [(r, 0 if r in (0, 4, 5, 6, 7, 13) else 1) for r in ExitReason],
)
def test_only_an_end_that_somebody_wanted_has_exit_code_0(reason: ExitReason, code: int) -> None:
    assert Exit.because(reason).code == code


def test_a_guest_that_powers_off_ends_with_its_recorded_reason() -> None:
    life, _ = machine.on_shutdown(UP, ExitReason.USER_SHUTDOWN)
    life, todo = machine.on_stopped(life)
    assert life.exit == Exit(0, ExitReason.USER_SHUTDOWN, "User shut down from within the guest")
    assert todo == (Do.TELL_DOWN, Do.RELEASE)


def test_a_qemu_that_vanishes_is_an_error() -> None:
    life, _ = machine.on_stopped(UP)
    assert life.exit == Exit(1, ExitReason.LOST_QEMU, "Lost connection with qemu process")


def test_the_first_shutdown_reason_counts() -> None:
    life, _ = machine.on_shutdown(UP, ExitReason.HOST_SHUTDOWN)
    life, _ = machine.on_shutdown(life, ExitReason.USER_SHUTDOWN)
    assert machine.on_stopped(life)[0].exit == Exit.because(ExitReason.HOST_SHUTDOWN)


def test_a_qemu_that_dies_between_its_start_and_our_notice_is_not_shown_as_running() -> None:
    life, todo = machine.on_stopped(Life())
    assert todo == ()
    life, todo = machine.on_started(life, 1, paused=False)
    assert life.status is VmStatus.DOWN
    assert Do.TELL_DOWN in todo


def test_a_destroy_during_the_start_ends_it_with_its_own_reason() -> None:
    life, _ = machine.on_destroy_request(Life())
    life, todo = machine.on_started(life, 1, paused=False)
    assert life.exit is not None
    assert life.exit.reason is ExitReason.DESTROYED_ON_STARTUP
    assert Do.DESTROY in todo


def test_a_pause_is_told_once_whoever_sees_it_first() -> None:
    life, first = machine.on_suspended(UP, 10)
    _, second = machine.on_suspended(life, 11)
    assert (first, second) == ((Do.TELL_STATUS,), ())


def test_an_io_error_whose_kind_is_not_known_yet_is_looked_up_before_it_is_told() -> None:
    life, todo = machine.on_suspended(UP, 10, io_error=True)
    assert todo == (Do.READ_PAUSE_CODE,)
    life, todo = machine.on_io_error(life, 11, "ENOSPC")
    assert (life.pause_code, life.paused_mono) == ("ENOSPC", 10)
    assert Do.TELL_STATUS in todo


def test_an_io_error_that_came_before_the_pause_is_not_looked_up_again() -> None:
    life, _ = machine.on_io_error(UP, 10, "EIO")
    assert machine.on_suspended(life, 11, io_error=True) == (life, ())


def test_going_on_forgets_the_pause() -> None:
    life, _ = machine.on_io_error(UP, 10, "EIO")
    life, todo = machine.on_resumed(life)
    assert (life.pause_code, life.paused_mono, life.status) == ("NOERR", None, VmStatus.UP)
    assert todo == (Do.TELL_RUNNING,)


def test_a_running_vm_that_is_told_to_run_says_nothing() -> None:
    assert machine.on_resumed(UP) == (UP, ())


def test_a_request_to_power_down_shows_for_five_minutes_or_until_the_guest_reboots() -> None:
    life, todo = machine.on_powerdown_request(UP, 100)
    assert todo == (Do.TELL_STATUS,)
    assert reported(life, 399) is VmStatus.POWERING_DOWN
    assert reported(life, 401) is VmStatus.UP
    life, _ = machine.on_reboot(life, 200)
    assert reported(life, 201) is VmStatus.REBOOTING


def test_a_request_to_power_down_is_told_when_it_is_news() -> None:
    life, _ = machine.on_powerdown_request(UP, 100)
    assert machine.on_powerdown_request(life, 200)[1] == ()
    assert machine.on_powerdown_request(life, 401)[1] == (Do.TELL_STATUS,)
    assert machine.on_powerdown_request(PAUSED, 100)[1] == ()
    assert machine.on_powerdown_request(DOWN, 100) == (DOWN, ())


@pytest.mark.parametrize("status", list(VmStatus))
def test_what_was_under_way_with_a_vm_that_libvirt_lost_is_over(status: VmStatus) -> None:
    life, todo = machine.on_orphaned(Life(status=status))
    started = status is not VmStatus.DOWN and status not in machine.UNSTARTED
    assert (life.status not in machine.MOVING or status in machine.UNSTARTED) and bool(todo) is started


def test_a_guest_is_up_as_soon_as_its_agent_is_there_after_the_start_and_after_each_reboot() -> None:
    life, _ = machine.on_started(Life(), 100, paused=False)
    assert reported(life, 105) is VmStatus.POWERING_UP
    life, todo = machine.on_agent(life, 105)
    assert todo == ()
    assert reported(life, 106) is VmStatus.UP
    life, _ = machine.on_reboot(life, 200)
    assert reported(life, 201) is VmStatus.REBOOTING
    life, _ = machine.on_agent(life, 210)
    assert reported(life, 211) is VmStatus.UP
    assert reported(machine.on_suspended(life, 212)[0], 213) is VmStatus.PAUSED


def test_a_reboot_is_the_end_when_that_was_asked_for() -> None:
    life, todo = machine.on_reboot(replace(UP, destroy_on_reboot=True), 10)
    assert life.exit == Exit.because(ExitReason.DESTROYED_ON_REBOOT)
    assert Do.DESTROY in todo


def test_stopped_cpus_show_as_paused_whatever_else_is_known() -> None:
    assert reported(replace(UP, cpus_run=False, powerdown_mono=9), 10) is VmStatus.PAUSED


def test_postcopy_shows_as_paused_on_the_source() -> None:
    source = replace(UP, status=VmStatus.MIGRATION_SOURCE)
    life, todo = machine.on_suspended(source, 10, postcopy=True)
    assert (reported(life, 10), life.pause_code, todo) == (VmStatus.PAUSED, "POSTCOPY", (Do.TELL_STATUS,))


def test_what_a_gap_swallowed_is_told_after_it() -> None:
    assert machine.on_recovered(UP, DOWN)[1] == (Do.TELL_DOWN, Do.RELEASE)
    assert machine.on_recovered(UP, PAUSED)[1] == (Do.TELL_STATUS,)
    assert machine.on_recovered(PAUSED, UP)[1] == (Do.TELL_RUNNING,)
    assert machine.on_recovered(UP, UP)[1] == ()


@pytest.mark.parametrize("found", [UP, PAUSED, Life(status=VmStatus.MIGRATION_SOURCE, postcopy=True)])
def test_what_was_told_as_down_does_not_run_on_whoever_missed_its_start(found: Life) -> None:
    assert machine.on_recovered(DOWN, found) == (DOWN, (Do.DESTROY,))
    assert machine.on_recovered(DOWN, DOWN) == (DOWN, ())


@pytest.mark.parametrize("status", sorted(machine.UNSTARTED))
@pytest.mark.parametrize("found", [UP, PAUSED, DOWN])
def test_taking_stock_leaves_a_start_to_whoever_starts_it(status: VmStatus, found: Life) -> None:
    life = Life(status=status)
    assert machine.on_recovered(life, found) == (life, ())


def test_a_shutdown_seen_before_the_gap_explains_the_end_found_after_it() -> None:
    life, _ = machine.on_shutdown(UP, ExitReason.HOST_SHUTDOWN)
    lost = Life(status=VmStatus.DOWN, exit=Exit.because(ExitReason.GENERIC_ERROR))
    assert machine.on_recovered(life, lost)[0].exit == Exit.because(ExitReason.HOST_SHUTDOWN)


@given(st.lists(st.sampled_from(sorted(MOVES)), max_size=12))
def test_whatever_happens_in_whatever_order_down_is_told_exactly_once(names: list[str]) -> None:
    life, told = Life(), 0
    for name in names:
        life, todo = MOVES[name](life)
        told += todo.count(Do.TELL_DOWN)
        assert todo.count(Do.RELEASE) == todo.count(Do.TELL_DOWN)
        assert life.status is not VmStatus.DOWN or life.exit is not None
    assert told == (life.status is VmStatus.DOWN)
