# SPDX-License-Identifier: Apache-2.0
"""Errors of tasks and jobs, with VDSM's numbers (400-443, 69)."""

from vdsm_mp.common.errors import BadRequest, Conflict, Failed, NotFound


class UnknownTask(NotFound):
    code = 401
    msg = "Task id unknown: {self.task_id}"

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id


class TaskNotCleared(Failed):
    """The task's directory could not be removed; the task is still listed."""

    code = 402
    msg = "Task {self.task_id} could not be cleared: {self.reason}"

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(task_id, reason)
        self.task_id = task_id
        self.reason = reason


class TaskNotFinished(Conflict):
    code = 403
    msg = "Task {self.task_id} is not finished, it is {self.state}"

    def __init__(self, task_id: str, state: str) -> None:
        super().__init__(task_id, state)
        self.task_id = task_id
        self.state = state


class TooManyTasks(Conflict):
    code = 405
    msg = "No room for another task: {self.count} wait already"

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count


class TaskInProgress(Conflict):
    """The role cannot be given up while tasks are there that nobody has cleared, nor a domain that one is about."""

    code = 406
    msg = "Tasks are not finished or not cleared: {self.tasks}"

    def __init__(self, tasks: str) -> None:
        super().__init__(tasks)
        self.tasks = tasks


class TaskNotSaved(Failed):
    """The task could not be written to the master domain, so its work was not done or is rolled back."""

    code = 407
    msg = "Task {self.task_id} could not be saved: {self.reason}"

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(task_id, reason)
        self.task_id = task_id
        self.reason = reason


class TaskNotLoaded(Failed):
    """A stored task is unreadable or of a newer version; its files stay as they are."""

    code = 408
    msg = "Stored task {self.task_id} cannot be read: {self.reason}"

    def __init__(self, task_id: str, reason: str) -> None:
        super().__init__(task_id, reason)
        self.task_id = task_id
        self.reason = reason


class TaskStateRefuses(Conflict):
    code = 410
    msg = "Not possible while task {self.task_id} is {self.state}"

    def __init__(self, task_id: str, state: str) -> None:
        super().__init__(task_id, state)
        self.task_id = task_id
        self.state = state


class TaskAborted(Failed):
    """It was stopped on request, or its host was; what it had begun is rolled back."""

    code = 411
    msg = "Task was aborted: {self.reason}"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RecoveryInvalid(Failed):
    """A stored recovery names something this program does not know how to undo."""

    code = 430
    msg = "Recovery {self.name} cannot be run: {self.reason}"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason


class TaskTransitionRefused(Conflict):
    code = 441
    msg = "A task cannot go from {self.state} to {self.to}"

    def __init__(self, state: str, to: str) -> None:
        super().__init__(state, to)
        self.state = state
        self.to = to


class JobExists(BadRequest):
    code = 69
    msg = "Job {self.job_id} exists already"

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id


class NoSuchJob(NotFound):
    code = 66
    msg = "Job {self.job_id} does not exist"

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id


class JobNotDone(Conflict):
    code = 68
    msg = "Job {self.job_id} is {self.state}, not done"

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(job_id, state)
        self.job_id = job_id
        self.state = state


#: Why a task was not even begun.
TASK_BEGIN = (TooManyTasks, TaskNotSaved)
