# SPDX-License-Identifier: Apache-2.0
"""Host.getJobs: the jobs of storage and virt, conversions too, in one answer, made safe for engines.

One bad entry spoils the whole answer for an engine, so each is checked here: `aborting` is not in its list of states
(it is still `running` then), progress must be a number with a fraction, `error` must be absent when there is none.
"""

from collections.abc import Mapping
from typing import Any

from vdsm_mp.api.host import GetJobs
from vdsm_mp.api.internal import GetStorageJobs, GetVirtJobs
from vdsm_mp.api.verb import handles
from vdsm_mp.host.owners import Owners

_STATES = frozenset({"pending", "running", "done", "aborted", "failed"})
_TYPES = frozenset({"storage", "virt", "v2v"})


@handles(GetJobs)
def get_jobs(owners: Owners, ask: GetJobs) -> dict[str, Any]:
    """{job_id: {id, status, description, job_type, progress?, error?}}. An empty list of ids asks for all.

    Raises: what an owner's call raises. A partial list is never given: a job that is absent counts as lost.
    """
    asked: dict[str, Any] = {}
    if ask.job_type in (None, "", "storage"):
        asked |= owners.call.ask(GetStorageJobs())
    if ask.job_type in (None, "", "virt", "v2v"):
        asked |= {
            job_id: info
            for job_id, info in owners.call.ask(GetVirtJobs()).items()
            if ask.job_type in (None, "", info.get("job_type"))
        }
    wanted = set(ask.job_ids) if ask.job_ids else asked
    return {job_id: entry(job_id, info) for job_id, info in asked.items() if job_id in wanted}


def entry(job_id: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """One job as an engine can read it."""
    status = "running" if info.get("status") == "aborting" else info.get("status")
    shown: dict[str, Any] = {
        "id": job_id,
        "status": status if status in _STATES else "running",
        "description": str(info.get("description", "")),
        "job_type": info["job_type"] if info.get("job_type") in _TYPES else "storage",
    }
    progress, error = info.get("progress"), info.get("error")
    if isinstance(progress, int | float):
        shown["progress"] = min(max(float(progress), 0.0), 100.0)
    if isinstance(error, Mapping):
        shown["error"] = {"code": int(error.get("code", 100)), "message": str(error.get("message", ""))}
    return shown
