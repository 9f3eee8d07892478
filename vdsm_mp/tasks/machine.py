# SPDX-License-Identifier: Apache-2.0
"""The lives of a Task and of a Job, as tables and pure functions. No I/O, no clock.

A task is what a storage verb leaves running; SPM tasks are kept on the master domain and survive this process.
State names and the allowed moves are VDSM's, since they are written to shared storage:

    init -> preparing -> acquiring -> queued -> running -> finished
    (anything alive) -> aborting -> racquiring -> recovering -> recovered
                                    a recovery that fails: -> raborting -> failed

A job is work on storage which any host may do; it lives in memory only.
"""

import enum

from vdsm_mp.api.errors_task import TaskTransitionRefused


class TaskState(enum.Enum):
    UNKNOWN = "unknown"
    INIT = "init"
    PREPARING = "preparing"
    BLOCKED = "blocked"
    ACQUIRING = "acquiring"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    ABORTING = "aborting"
    WAITRECOVER = "waitrecover"
    RACQUIRING = "racquiring"
    RECOVERING = "recovering"
    RABORTING = "raborting"
    RECOVERED = "recovered"
    FAILED = "failed"


_S = TaskState

#: target: states it may be reached from
MOVES: dict[TaskState, frozenset[TaskState]] = {
    _S.PREPARING: frozenset({_S.INIT, _S.BLOCKED}),
    _S.BLOCKED: frozenset({_S.PREPARING}),
    _S.ACQUIRING: frozenset({_S.PREPARING, _S.ACQUIRING}),
    _S.QUEUED: frozenset({_S.ACQUIRING, _S.RUNNING}),
    _S.RUNNING: frozenset({_S.QUEUED}),
    _S.FINISHED: frozenset({_S.RUNNING, _S.PREPARING}),
    _S.ABORTING: frozenset({_S.PREPARING, _S.BLOCKED, _S.ACQUIRING, _S.QUEUED, _S.RUNNING}),
    _S.WAITRECOVER: frozenset({_S.ABORTING}),
    _S.RACQUIRING: frozenset({_S.ABORTING, _S.FINISHED, _S.RACQUIRING, _S.WAITRECOVER}),
    _S.RECOVERING: frozenset({_S.RACQUIRING}),
    _S.RABORTING: frozenset({_S.RACQUIRING, _S.RECOVERING, _S.WAITRECOVER}),
    _S.RECOVERED: frozenset({_S.RECOVERING}),
    _S.FAILED: frozenset({_S.RECOVERING, _S.ABORTING, _S.RABORTING}),
}

DONE = frozenset({_S.FINISHED, _S.RECOVERED, _S.FAILED})

#: state: (taskState, taskResult) as clients see them
_REPORTED: dict[TaskState, tuple[str, str]] = {
    _S.UNKNOWN: ("unknown", ""),
    _S.INIT: ("init", ""),
    **dict.fromkeys((_S.PREPARING, _S.BLOCKED, _S.ACQUIRING, _S.QUEUED, _S.RUNNING), ("running", "")),
    _S.FINISHED: ("finished", "success"),
    **dict.fromkeys((_S.ABORTING, _S.RABORTING), ("aborting", "")),
    **dict.fromkeys((_S.WAITRECOVER, _S.RACQUIRING, _S.RECOVERING), ("cleaning", "")),
    _S.RECOVERED: ("finished", "cleanSuccess"),
    _S.FAILED: ("finished", "cleanFailure"),
}


def move(state: TaskState, to: TaskState) -> TaskState:
    """`to`, when the table allows it. Raises: TaskTransitionRefused."""
    if state not in MOVES.get(to, ()):
        raise TaskTransitionRefused(state.value, to.value)
    return to


def reported(state: TaskState) -> tuple[str, str]:
    """(taskState, taskResult) as clients see them."""
    return _REPORTED[state]


def needs_recovery(state: TaskState) -> bool:
    """Is there something to undo in a task found on storage? Those that are over stay as they are until cleared."""
    return state not in DONE and state is not _S.UNKNOWN


def begin_recovery(state: TaskState) -> TaskState:
    """`recovering`, by allowed moves from any state that is not over (and from `racquiring`, where a revert begins).

    A recovery that was cut short begins again with what is left of it.
    """
    if state in MOVES[_S.ABORTING]:
        state = move(state, _S.ABORTING)
    if state in (_S.ABORTING, _S.WAITRECOVER):
        state = move(state, _S.RACQUIRING)
    if state in (_S.INIT, _S.RECOVERING, _S.RABORTING):
        return _S.RECOVERING
    return move(state, _S.RECOVERING)


class JobState(enum.Enum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ABORTING = "aborting"
    ABORTED = "aborted"


_J = JobState

JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    _J.RUNNING: frozenset({_J.PENDING}),
    _J.DONE: frozenset({_J.RUNNING}),
    _J.FAILED: frozenset({_J.RUNNING, _J.PENDING}),
    _J.ABORTING: frozenset({_J.RUNNING}),
    _J.ABORTED: frozenset({_J.PENDING, _J.ABORTING, _J.RUNNING}),
}

JOB_OVER = frozenset({_J.DONE, _J.FAILED, _J.ABORTED})


def job_allowed(state: JobState, to: JobState) -> bool:
    return state in JOB_MOVES.get(to, ())


def job_reported(state: JobState) -> str:
    """The word of Host.getJobs. An engine that reads "aborting" loses the answer for all jobs: it hears "running"."""
    return _J.RUNNING.value if state is _J.ABORTING else state.value
