# SPDX-License-Identifier: Apache-2.0
"""The master's answer to `status`: what it knows of every process. Asks nobody, so it cannot hang."""

import os
import time
from collections.abc import Mapping
from typing import Any

import vdsm_mp
from vdsm_mp.common import kernel, program
from vdsm_mp.house.house import House
from vdsm_mp.house.members import Worker


def of(house: House) -> dict[str, Any]:
    """{"state", "pid", "version", "program", "build", "config", "uptime_s", "verdict", "workers": {name: …}, …}.

    program, build: where it was loaded from, and which it was then (`common/program.py`). config: {"file", "digest"}.
    abandoned: the supervisord that started us is gone, so nobody would start us again.

    premises_problem: what somebody took away that the agent needs and cannot make again; "" = nothing.

    verdict: "ok", "degraded" (something restarts too often, or is written off, or not all are ready, or there is such a
    problem) or "failed".
    """
    now = time.monotonic()
    workers = {name: _worker(worker, now) for name, worker in house.workers.items()}
    lost = [
        {"name": x.name, "kind": x.kind, "pid": x.pid, "for_s": round(now - x.since_mono, 1)}
        for x in house.incarnations.lost
    ]
    return {
        "state": house.state.value,
        "verdict": _verdict(workers, bool(lost or house.ground.problem)),
        "pid": os.getpid(),
        "version": vdsm_mp.__version__,
        "program": program.ROOT,
        "build": house.ground.build,
        "config": house.config,
        "abandoned": house.supervisor_pid not in (0, os.getppid()),
        "premises_problem": house.ground.problem,
        "uptime_s": round(now - house.started_mono, 1),
        "rss_kib": kernel.rss_kib(os.getpid()),
        "pss_kib": kernel.own_pss_kib(),
        "log": house.log_writer.status(),
        "workers": workers,
        "children": house.incarnations.children.status(),
        "child_deaths": house.incarnations.children.deaths,
        "lost": lost,
    }


def _verdict(workers: Mapping[str, Mapping[str, Any]], problem: bool) -> str:
    states = {worker["state"] for worker in workers.values()}
    if "failed" in states:
        return "failed"
    degraded = problem or states != {"ready"} or any(worker["degraded"] for worker in workers.values())
    return "degraded" if degraded else "ok"


def _worker(worker: Worker, now: float) -> dict[str, Any]:
    process, history = worker.process, worker.history
    found: dict[str, Any] = {
        "state": worker.state.value,
        "epoch": worker.epoch,
        "pid": process.pid if process is not None else None,
        "uptime_s": round(now - process.started_mono, 1) if process is not None else None,
        "ready_after_s": (
            round(worker.ready_mono - process.started_mono, 3) if process is not None and worker.up else None
        ),
        "restarts": history.restarts,
        "degraded": history.degraded(now),
        "last_death": history.last_reason or None,
        "last_death_ago_s": round(now - history.last_at_mono, 1) if history.last_reason else None,
        "last_heartbeat_ago_s": round(now - worker.beat_mono, 1) if process is not None else None,
        "loop_late_s": worker.late_s,
        "rss_kib": kernel.rss_kib(process.pid) if process is not None else 0,
        "pss_kib": worker.pss_kib,
        "vitals": worker.vitals,
    }
    if worker.state.value == "waiting":
        found["next_start_in_s"] = round(max(0.0, worker.next_start_mono - now), 1)
    return found
