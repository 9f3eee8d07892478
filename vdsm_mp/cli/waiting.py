# SPDX-License-Identifier: Apache-2.0
"""`vdsm-mp call … --wait`: follow the task or the job that a verb has begun until it is over.

A task that is over is cleared: nobody else knows of it, and it would keep the host from giving up the SPM role.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from vdsm_mp.api.errors import DeadlineExceeded
from vdsm_mp.api.verb import VerbSpec
from vdsm_mp.cli.answers import checked

Ask = Callable[[str, dict[str, Any]], Any]
_EVERY_S = 0.5
_OVER = ("done", "failed", "aborted")


def begins(spec: VerbSpec | None, params: dict[str, Any], result: Any) -> str | None:
    """ "task" or "job" when the answer of the verb is the beginning only."""
    if spec is None or not spec.later:
        return None
    if "job_id" in params or params.get("jobUUID"):
        return "job"
    return "task" if isinstance(result, str) else None


def follow(ask: Ask, spec: VerbSpec, params: dict[str, Any], result: Any, within_s: float) -> tuple[bool, Any]:
    """(whether it ended well, its last status).

    Raises: what asking raises, NotUnderstood, DeadlineExceeded (it goes on).
    """
    if begins(spec, params, result) == "task":
        return _task(ask, str(result), within_s)
    return _job(ask, str(params.get("job_id") or params["jobUUID"]), within_s)


def _task(ask: Ask, task_id: str, within_s: float) -> tuple[bool, Any]:
    status = _until(
        f"task {task_id}",
        lambda: checked("Task.getStatus", ask("Task.getStatus", {"taskID": task_id})),
        lambda found: found["taskState"] == "finished",
        within_s,
    )
    ask("Task.clear", {"taskID": task_id})
    return status["taskResult"] == "success", status


def _job(ask: Ask, job_id: str, within_s: float) -> tuple[bool, Any]:
    status = _until(
        f"job {job_id}",
        lambda: checked("Host.getJobs", ask("Host.getJobs", {"job_ids": [job_id]})).get(job_id),
        lambda found: found is None or found["status"] in _OVER,
        within_s,
    )
    return status is not None and status["status"] == "done", status


def _until(what: str, look: Callable[[], Any], over: Callable[[Any], bool], within_s: float) -> Any:
    until, told = time.monotonic() + within_s, ""
    while True:
        found = look()
        if over(found):
            return found
        said = _progress(found)
        if said != told:
            print(f"vdsm-mp: {what}: {said}", file=sys.stderr)
            told = said
        if time.monotonic() > until:
            raise DeadlineExceeded(what, within_s)
        time.sleep(_EVERY_S)


def _progress(found: dict[str, Any]) -> str:
    percent = found.get("progress")
    state = str(found.get("taskState") or found.get("status"))
    return state if percent is None else f"{state}, {percent:.0f} %"
