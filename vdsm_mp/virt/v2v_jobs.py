# SPDX-License-Identifier: Apache-2.0
"""Conversions as jobs: their states, told in Host.getStats, and what outlives this worker of them.

    starting -> copying_disk -> done
        \\___________\\________ error, aborted

The record of each is a file, written when it begins and when it ends. A worker that dies takes virt-v2v along; the next
one finds a conversion that has begun and not ended, and tells it as failed. The last hundred that ended are kept.
"""

import enum
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from vdsm_mp.api.errors_task import JobExists, JobNotDone, NoSuchJob, TaskAborted
from vdsm_mp.api.errors_virt import NoConvertedVm
from vdsm_mp.api.ports import Background
from vdsm_mp.common import clock, files, log
from vdsm_mp.common.command import CommandAborted
from vdsm_mp.common.errors import Error
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.virt.records import VolumeIds

logger = log.named(__name__)

_KEPT = 100
_OVF_BYTES = 4 << 20
_DIED = "the agent was ended while it converted"


class State(enum.StrEnum):
    """VDSM's words."""

    STARTING = "starting"
    COPYING = "copying_disk"
    DONE = "done"
    FAILED = "error"
    ABORTED = "aborted"


_OVER = frozenset({State.DONE, State.FAILED, State.ABORTED})
#: As Host.getJobs has them.
_AS_JOB = {
    State.STARTING: "pending",
    State.COPYING: "running",
    State.DONE: "done",
    State.FAILED: "failed",
    State.ABORTED: "aborted",
}


class Conversion(msgspec.Struct, frozen=True):
    """progress: percent of all disks. volumes: what it writes to. code: of its error. ended_s: wall clock."""

    id: str
    volumes: list[VolumeIds]
    state: State = State.STARTING
    description: str = ""
    progress: int = 0
    code: int = 0
    ended_s: float = 0.0

    def told(self) -> dict[str, Any]:
        """The entry of Host.getStats."""
        return {"status": str(self.state), "description": self.description, "progress": self.progress}

    def job(self) -> dict[str, Any]:
        """The entry of Host.getJobs."""
        found: dict[str, Any] = {
            "id": self.id,
            "status": _AS_JOB[self.state],
            "description": self.description or "convert_vm",
            "job_type": "v2v",
            "progress": float(self.progress),
        }
        if self.state is State.FAILED:
            found["error"] = {"code": self.code, "message": self.description}
        return found


At = Callable[[int, int, float], None]
Work = Callable[[Progress, At], None]


class Conversions:
    """Thread-safe. folder: `<job id>.json` and `<job id>.ovf` of each."""

    def __init__(self, folder: Path, background: Background) -> None:
        self.folder = folder
        self._background = background
        self._lock = threading.Lock()
        self._all: dict[str, Conversion] = {}
        self._stop: dict[str, Progress] = {}

    def load(self) -> list[VolumeIds]:
        """After a start: what earlier lives left. Returns the volumes of those that were cut short."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        cut: list[VolumeIds] = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                found = msgspec.json.decode(files.read(path), type=Conversion)
            except (OSError, msgspec.DecodeError) as error:
                logger.warning("the record of a conversion cannot be read: %s: %s", path.name, error)
                continue
            self._all[found.id] = found
            if found.state not in _OVER:
                logger.warning("conversion %s: %s", found.id, _DIED)
                cut += found.volumes
                self._change(found.id, state=State.FAILED, description=_DIED, code=100, ended_s=clock.wall_s())
        return cut

    def start(self, job_id: str, volumes: Iterable[VolumeIds], work: Work) -> None:
        """Begin; returns at once. Raises: JobExists, Busy (nothing was begun)."""
        progress = Progress(lambda: self._background.draining)
        with self._lock:
            if job_id in self._all:
                raise JobExists(job_id)
            self._all[job_id] = Conversion(job_id, list(volumes))
            self._stop[job_id] = progress
            self._save(self._all[job_id])
        try:
            self._background.start(f"convert {job_id}", lambda: self._run(job_id, work, progress))
        except Error:
            self._forget(job_id)
            raise

    def _run(self, job_id: str, work: Work, progress: Progress) -> None:
        def at(disk: int, of: int, pct: float) -> None:
            done = int(((disk - 1) * 100 + min(max(pct, 0.0), 100.0)) / max(of, 1))
            self._change(job_id, state=State.COPYING, description=f"Copying disk {disk}/{of}", progress=done)

        logger.info("conversion %s begins", job_id)
        try:
            progress.check()
            work(progress, at)
        except (TaskAborted, CommandAborted) as error:
            self._end(job_id, State.ABORTED, str(error))
        except Error as error:
            self._end(job_id, State.FAILED, str(error), error.kept_code)
        except Exception as error:
            logger.exception("conversion %s failed in a way nobody foresaw", job_id)
            self._end(job_id, State.FAILED, f"General exception: {error!r}", 100)
        else:
            self._end(job_id, State.DONE, "")

    def _end(self, job_id: str, state: State, description: str, code: int = 0) -> None:
        done = {"progress": 100} if state is State.DONE else {}
        self._change(job_id, state=state, description=description, code=code, ended_s=clock.wall_s(), **done)
        with self._lock:
            self._stop.pop(job_id, None)
            ended = sorted((c.ended_s, c.id) for c in self._all.values() if c.state in _OVER)
        for _, old in ended[:-_KEPT]:
            self._forget(old)

    def _change(self, job_id: str, **values: Any) -> None:
        """No effect on one that is over, or gone."""
        with self._lock:
            before = self._all.get(job_id)
            if before is None or before.state in _OVER:
                return
            now = self._all[job_id] = msgspec.structs.replace(before, **values)
            if now.state in _OVER:
                say = logger.warning if now.state is State.FAILED else logger.info
                say("conversion %s is %s %s", job_id, now.state, now.description)
                self._save(now)

    def _save(self, conversion: Conversion) -> None:
        try:
            files.replace(self.folder / f"{conversion.id}.json", msgspec.json.encode(conversion), mode=0o600)
        except OSError as error:
            logger.warning("conversion %s will not outlive us: %s", conversion.id, error)

    def _forget(self, job_id: str) -> None:
        with self._lock:
            self._all.pop(job_id, None)
        for suffix in ("json", "ovf"):
            try:
                files.remove(self.folder / f"{job_id}.{suffix}")
            except OSError as error:
                logger.warning("a file of conversion %s stays: %s", job_id, error)

    def abort(self, job_id: str) -> None:
        """It is told as aborted at once, and ends within a second or two. Raises: NoSuchJob."""
        self._find(job_id)
        self._change(job_id, state=State.ABORTED, description="aborted on request", ended_s=clock.wall_s())
        with self._lock:
            progress = self._stop.get(job_id)
        if progress is not None:
            progress.stop()

    def delete(self, job_id: str) -> None:
        """Raises: NoSuchJob, JobNotDone."""
        found = self._find(job_id)
        if found.state not in _OVER:
            raise JobNotDone(job_id, found.state)
        self._forget(job_id)

    def ovf(self, job_id: str) -> str:
        """Raises: NoSuchJob, JobNotDone, NoConvertedVm."""
        found = self._find(job_id)
        if found.state is not State.DONE:
            raise JobNotDone(job_id, found.state)
        try:
            return files.read(self.folder / f"{job_id}.ovf", limit_bytes=_OVF_BYTES).decode("utf-8", "replace")
        except OSError as error:
            logger.info("conversion %s has no description: %s", job_id, error)
            raise NoConvertedVm(job_id) from error

    def jobs(self) -> dict[str, dict[str, Any]]:
        """{job id: entry of Host.getJobs}."""
        with self._lock:
            return {found.id: found.job() for found in self._all.values()}

    def told(self) -> dict[str, dict[str, Any]]:
        """{job id: entry of Host.getStats}. On the loop: waits for nobody who writes a record."""
        return {found.id: found.told() for found in list(self._all.values())}

    def _find(self, job_id: str) -> Conversion:
        with self._lock:
            found = self._all.get(job_id)
        if found is None:
            raise NoSuchJob(job_id)
        return found
