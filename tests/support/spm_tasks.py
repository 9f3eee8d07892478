# SPDX-License-Identifier: Apache-2.0
"""Tasks of an SPM, on a directory that takes the place of its master domain."""

from tests.support.background import HeldBackground, ThreadBackground
from vdsm_mp.api.errors_task import TaskAborted
from vdsm_mp.storage.domain_io import DomainIO
from vdsm_mp.tasks.record import FINISH, Recovery
from vdsm_mp.tasks.registry import Tasks
from vdsm_mp.tasks.run import TaskRun
from vdsm_mp.tasks.store import TaskStore
from vdsm_mp.tasks.undoing import Undo


def undo(n: int) -> Recovery:
    return Recovery(f"undo {n}", "fileVolume", "FileVolume", "shareVolumeRollback", (str(n),))


class Undone(list[str]):
    """What was undone, in order; step 13 never is."""

    def __call__(self, recovery: Recovery, task_id: str) -> None:
        self.append(recovery.params[0])
        if recovery.params[0] == "13":
            raise TaskAborted("thirteen cannot be undone")


def spm(
    files: DomainIO, background: HeldBackground | ThreadBackground, undo_step: Undo, store: TaskStore | None = None
) -> Tasks:
    """A host that has just taken the role. store: else that of the master."""
    tasks = Tasks(background, undo_step)
    tasks.take_over(store or TaskStore(files, store="/master/tasks"))
    return tasks


def seen(tasks: Tasks, task_id: str) -> tuple[object, ...]:
    status = tasks.status(task_id)
    return status["taskState"], status["taskResult"], status["code"]


def last_step(n: int) -> Recovery:
    return Recovery(f"finish {n}", "image", FINISH, "removeSource", (str(n),))


def move(run: TaskRun) -> None:
    run.settle()
    run.finish = last_step(7)
