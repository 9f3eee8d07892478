# SPDX-License-Identifier: Apache-2.0
"""A VM between two hosts, cell by cell."""

from collections.abc import Callable

import libvirt
import pytest
from msgspec.structs import replace

from vdsm_mp.virt import machine, moving
from vdsm_mp.virt.found import is_torn, life_of
from vdsm_mp.virt.machine import Do, ExitReason, Life, Move, VmStatus, reported
from vdsm_mp.virt.metadata import Metadata
from vdsm_mp.virt.migration_params import NOTE

UP = Life(status=VmStatus.UP, cpus_run=True)
PAUSED = Life(status=VmStatus.PAUSED, paused_mono=5.0)
LEAVES = Life(status=VmStatus.MIGRATION_SOURCE, cpus_run=True)
COMES = Life(status=VmStatus.MIGRATION_DESTINATION)
DOWN, _ = machine.on_stopped(LEAVES, migrated=True)

MOVES: dict[str, Callable[[Life], Move]] = {
    "leave": moving.leave,
    "found leaving": moving.found_leaving,
    "stay": lambda life: moving.stay(life, runs=True),
    "torn": moving.torn,
    "arrive": lambda life: moving.arrive(life, runs=True),
    "not arrived": moving.not_arrived,
    "left behind": moving.left_behind,
    "unwanted": moving.unwanted,
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_nothing_brings_a_vm_back_that_is_down(move: Callable[[Life], Move]) -> None:
    assert move(DOWN) == (DOWN, ())


def test_what_leaves_ends_well_and_is_told_once() -> None:
    life, todo = moving.leave(UP)
    assert (reported(life, 10), todo) == (VmStatus.MIGRATION_SOURCE, (Do.TELL_STATUS,))
    assert moving.leave(life) == (life, ())
    gone, todo = machine.on_stopped(life, migrated=True)
    assert gone.exit is not None
    assert (gone.exit.code, gone.exit.reason) == (0, ExitReason.MIGRATED)
    assert Do.TELL_DOWN in todo
    assert machine.on_stopped(gone, migrated=True) == (gone, ())


def test_what_went_on_elsewhere_is_ended_on_this_side() -> None:
    left, todo = moving.left_behind(replace(LEAVES, cpus_run=False))
    assert left.exit is not None
    assert (left.exit.code, left.exit.reason) == (0, ExitReason.MIGRATED)
    assert Do.DESTROY in todo
    assert moving.left_behind(UP) == (UP, ())
    assert moving.unwanted(COMES) == (COMES, ())
    refused, todo = moving.unwanted(machine.on_destroy_request(COMES)[0])
    assert (refused.status, Do.DESTROY in todo) == (VmStatus.DOWN, True)


def test_what_has_run_here_did_arrive_though_it_ended() -> None:
    reasons = []
    for life in (COMES, machine.on_resumed(COMES)[0]):
        ended, _ = moving.not_arrived(life)
        assert ended.exit is not None
        reasons.append(ended.exit.reason)
    assert reasons == [ExitReason.MIGRATION_FAILED, ExitReason.LOST_QEMU]


def test_what_stays_is_as_libvirt_has_it() -> None:
    life, todo = moving.stay(LEAVES, runs=True)
    assert (life.status, todo) == (VmStatus.UP, (Do.TELL_RUNNING,))
    life, todo = moving.stay(moving.leave(PAUSED)[0], runs=False)
    assert (life.status, todo) == (VmStatus.PAUSED, (Do.TELL_STATUS,))


def test_a_failed_postcopy_is_the_end_on_both_sides() -> None:
    for life in (LEAVES, COMES):
        torn, todo = moving.torn(life)
        assert torn.exit is not None
        assert (torn.exit.code, torn.exit.reason) == (1, ExitReason.POSTCOPY_FAILED)
        assert Do.DESTROY in todo


def test_in_postcopy_the_source_looks_paused() -> None:
    life, _ = machine.on_suspended(LEAVES, 10, postcopy=True)
    assert (reported(life, 10), life.pause_code) == (VmStatus.PAUSED, "POSTCOPY")


def test_what_arrives_is_up_and_what_was_paused_is_paused() -> None:
    assert moving.arrive(COMES, runs=True)[0].status is VmStatus.UP
    assert moving.arrive(COMES, runs=False)[0].status is VmStatus.PAUSED


@pytest.mark.parametrize("move", [moving.not_arrived, machine.on_stopped])
def test_what_does_not_arrive_has_failed_to_migrate(move: Callable[[Life], Move]) -> None:
    life, _ = move(COMES)
    assert life.exit is not None
    assert (life.exit.code, life.exit.reason) == (1, ExitReason.MIGRATION_FAILED)


def test_a_new_life_takes_a_guest_that_stands_still_for_one_that_leaves_when_the_note_says_so() -> None:
    for life in (UP, PAUSED, COMES):
        assert moving.found_leaving(life)[0].status is VmStatus.MIGRATION_SOURCE


@pytest.mark.parametrize("status", [status for status in VmStatus if status is not VmStatus.DOWN])
def test_what_libvirt_says_has_left_or_sleeps_did_so_whatever_it_was_taken_for(status: VmStatus) -> None:
    """A new life of ours may learn of a VM just before it is gone; told as failed, an engine would start it twice."""
    life = Life(status=status)
    for how, reason in (({"migrated": True}, ExitReason.MIGRATED), ({"saved": True}, ExitReason.SAVED)):
        down, _ = machine.on_stopped(life, **how)
        assert down.exit is not None
        assert (down.exit.code, down.exit.reason) == (0, reason)


@pytest.mark.parametrize("noted", [True, False])
def test_a_vm_that_stands_still_between_two_hosts_is_where_the_note_is(noted: bool) -> None:
    metadata = Metadata().with_values(**{NOTE: "{}" if noted else None})
    found = life_of(libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION, metadata)
    assert found.status is (VmStatus.MIGRATION_SOURCE if noted else VmStatus.MIGRATION_DESTINATION)


def test_a_vm_whose_memory_will_never_be_whole_is_not_taken_for_one_that_runs() -> None:
    """libvirt says that it runs."""
    torn = (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED)
    assert is_torn(*torn)
    assert life_of(*torn, Metadata()).status is VmStatus.MIGRATION_DESTINATION
