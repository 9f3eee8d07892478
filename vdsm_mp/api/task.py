# SPDX-License-Identifier: Apache-2.0
"""Task.* and the lists of SPM tasks."""

from typing import Any

from msgspec import field

from vdsm_mp.api.errors_storage import NotSpm
from vdsm_mp.api.errors_task import TaskNotCleared, TaskNotFinished, TaskNotSaved, TaskStateRefuses, UnknownTask
from vdsm_mp.api.types import Uuid
from vdsm_mp.api.verb import Lane, Message, verb


class TaskVerb(Message, frozen=True, kw_only=True):
    """verb: a name that the engine knows, such as createVolume."""

    id: str
    verb: str


class TaskStatus(Message, frozen=True, kw_only=True):
    """taskState: unknown, init, running, finished, aborting, cleaning. taskResult: "" until finished, then success,
    cleanSuccess (failed and rolled back) or cleanFailure. code: 0, or the error's number once it has failed.
    """

    task_id: str = field(name="taskID")
    state: str = field(name="taskState")
    result: str = field(name="taskResult")
    code: int
    message: str


@verb(
    "Host.getAllTasksInfo",
    owner="storage",
    reply=dict[str, TaskVerb],
    lane=Lane.LOOP,
    safe=True,
    tier=1,
    raises=(NotSpm,),
)
class GetAllTasksInfo(Message, frozen=True, kw_only=True):
    """Verb of every SPM task, by task id."""


@verb(
    "Host.getAllTasksStatuses",
    owner="storage",
    reply=dict[str, TaskStatus],
    lane=Lane.LOOP,
    safe=True,
    tier=1,
    raises=(NotSpm,),
)
class GetAllTasksStatuses(Message, frozen=True, kw_only=True):
    """State of every SPM task, by task id. 654 when this host is not SPM, by which an engine finds that out.

    Finished tasks stay until Task.clear, across restarts, too.
    """


@verb("Host.getAllTasks", owner="storage", reply=dict[str, Any], lane=Lane.LOOP, safe=True, tier=3)
class GetAllTasks(Message, frozen=True, kw_only=True):
    """Details of all storage tasks on this host, those of the SPM and its own."""


@verb(
    "Task.clear",
    owner="storage",
    lane=Lane.KEYED,
    key="task_id",
    tier=1,
    raises=(UnknownTask, TaskStateRefuses, TaskNotCleared),
)
class ClearTask(Message, frozen=True, kw_only=True):
    """Forget a finished task. Until then it is listed, and keeps the host from giving up the SPM role."""

    task_id: Uuid = field(name="taskID")


@verb("Task.getInfo", owner="storage", reply=TaskVerb, lane=Lane.LOOP, safe=True, tier=3, raises=(UnknownTask,))
class GetTaskInfo(Message, frozen=True, kw_only=True):
    """Verb of a task."""

    task_id: Uuid = field(name="taskID")


@verb("Task.getStatus", owner="storage", reply=TaskStatus, lane=Lane.LOOP, safe=True, tier=1, raises=(UnknownTask,))
class GetTaskStatus(Message, frozen=True, kw_only=True):
    """State of a task: `taskState`, and once it is finished `taskResult` with the error's code and message.

    taskResult: success, cleanSuccess (failed and rolled back), cleanFailure (failed, and something may be left).
    """

    task_id: Uuid = field(name="taskID")


@verb(
    "Task.revert",
    owner="storage",
    lane=Lane.KEYED,
    key="task_id",
    tier=2,
    raises=(UnknownTask, TaskNotFinished, TaskNotSaved),
)
class RevertTask(Message, frozen=True, kw_only=True):
    """Undo what a finished task has done, as far as it can be undone. Then clear it."""

    task_id: Uuid = field(name="taskID")


@verb("Task.stop", owner="storage", lane=Lane.URGENT, tier=2, raises=(UnknownTask,))
class StopTask(Message, frozen=True, kw_only=True):
    """Ask a running task to stop; it rolls back, and ends with 411. A finished one stays as it is.

    Returns when it was told; Task.getStatus tells when it is over.
    """

    task_id: Uuid = field(name="taskID")
