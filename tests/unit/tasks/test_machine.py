# SPDX-License-Identifier: Apache-2.0
"""The lives of tasks and jobs, every cell."""

import itertools

import pytest

from vdsm_mp.api.errors_task import TaskTransitionRefused
from vdsm_mp.tasks.machine import (
    DONE,
    JOB_OVER,
    MOVES,
    JobState,
    TaskState,
    begin_recovery,
    job_allowed,
    job_reported,
    move,
    needs_recovery,
    reported,
)


@pytest.mark.parametrize(("state", "to"), list(itertools.product(TaskState, TaskState)))
def test_a_move_is_made_when_the_table_has_it_and_refused_otherwise(state: TaskState, to: TaskState) -> None:
    if state in MOVES.get(to, ()):
        assert move(state, to) is to
    else:
        with pytest.raises(TaskTransitionRefused):
            move(state, to)


def test_nothing_leads_out_of_failed_and_recovered() -> None:
    assert all(not {TaskState.FAILED, TaskState.RECOVERED} & sources for sources in MOVES.values())


@pytest.mark.parametrize("state", TaskState)
def test_every_state_is_shown_with_words_that_the_engine_knows(state: TaskState) -> None:
    shown, result = reported(state)
    assert shown in {"unknown", "init", "running", "finished", "aborting", "cleaning"}
    assert (result != "") == (shown == "finished") == (state in DONE)


@pytest.mark.parametrize("state", [state for state in TaskState if needs_recovery(state)])
def test_every_state_found_on_storage_that_is_not_over_leads_to_recovery(state: TaskState) -> None:
    assert begin_recovery(state) is TaskState.RECOVERING


def test_tasks_that_are_over_need_no_recovery() -> None:
    assert not any(needs_recovery(state) for state in DONE)


@pytest.mark.parametrize("state", JobState)
def test_a_job_is_never_shown_as_aborting(state: JobState) -> None:
    assert job_reported(state) in {"pending", "running", "done", "aborted", "failed"}


@pytest.mark.parametrize(("state", "to"), list(itertools.product(sorted(JOB_OVER, key=str), JobState)))
def test_a_job_that_is_over_stays_so(state: JobState, to: JobState) -> None:
    assert not job_allowed(state, to)
