# SPDX-License-Identifier: Apache-2.0
"""The storage worker's host jobs, as Host.getJobs gathers them."""

from typing import Any

from vdsm_mp.api.internal import GetStorageJobs
from vdsm_mp.api.verb import handles
from vdsm_mp.tasks.jobs import Jobs


@handles(GetStorageJobs)
def storage_jobs(jobs: Jobs, ask: GetStorageJobs) -> dict[str, dict[str, Any]]:
    return {job_id: dict(info) for job_id, info in jobs.infos().items()}
