# SPDX-License-Identifier: Apache-2.0
"""Task.* and the lists of SPM tasks: thin over `tasks.registry`. Answers come from memory."""

from typing import Any

import msgspec

from vdsm_mp.api.task import (
    ClearTask,
    GetAllTasks,
    GetAllTasksInfo,
    GetAllTasksStatuses,
    GetTaskInfo,
    GetTaskStatus,
    RevertTask,
    StopTask,
    TaskStatus,
    TaskVerb,
)
from vdsm_mp.api.verb import handles
from vdsm_mp.storage.spm import Spm
from vdsm_mp.tasks.registry import Tasks


@handles(GetAllTasksInfo)
def all_infos(tasks: Tasks, spm: Spm, ask: GetAllTasksInfo) -> dict[str, TaskVerb]:
    spm.require_any()
    return msgspec.convert(tasks.infos(), dict[str, TaskVerb])


@handles(GetAllTasksStatuses)
def all_statuses(tasks: Tasks, spm: Spm, ask: GetAllTasksStatuses) -> dict[str, TaskStatus]:
    spm.require_any()
    return msgspec.convert(tasks.statuses(), dict[str, TaskStatus])


@handles(GetAllTasks)
def everything(tasks: Tasks, ask: GetAllTasks) -> dict[str, Any]:
    return dict(tasks.all_tasks())


@handles(GetTaskInfo)
def info(tasks: Tasks, ask: GetTaskInfo) -> TaskVerb:
    return msgspec.convert(tasks.info(ask.task_id), TaskVerb)


@handles(GetTaskStatus)
def status(tasks: Tasks, ask: GetTaskStatus) -> TaskStatus:
    return msgspec.convert(tasks.status(ask.task_id), TaskStatus)


@handles(ClearTask)
def clear(tasks: Tasks, ask: ClearTask) -> None:
    tasks.clear(ask.task_id)


@handles(RevertTask)
def revert(tasks: Tasks, ask: RevertTask) -> None:
    tasks.revert(ask.task_id)


@handles(StopTask)
def stop(tasks: Tasks, ask: StopTask) -> None:
    tasks.stop(ask.task_id)
