# SPDX-License-Identifier: Apache-2.0
"""Host jobs: long work that any host may do, started under an id that the client made, in memory only.

Nothing is rolled back here and nothing survives the worker: whether a job happened is told by what it changed (the
generation of a volume). A job that is over stays listed for a while, then vanishes by itself.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable
from functools import partial

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors import DeadlineExceeded
from vdsm_mp.api.errors_task import JobExists, JobNotDone, NoSuchJob
from vdsm_mp.api.events import JobChanged
from vdsm_mp.api.ports import Background, Publisher
from vdsm_mp.common.clock import mono_s, notify_time
from vdsm_mp.common.errors import Error
from vdsm_mp.tasks.machine import JOB_OVER, JobState, job_allowed, job_reported
from vdsm_mp.tasks.progress import Progress

_log = logging.getLogger("storage.jobs")

#: VDSM's `jobs.autodelete_delay`.
KEEP_S = 3600.0
#: See `NotYet`.
AGAIN_S = 1.0

#: Hears what a job failed with, or None.
Tell = Callable[[BaseException | None], None]


class NotYet(Exception):
    """Raised by the work of a job that has no use for its thread now: `work` takes its place, soon and again.

    It is told to who waits for the job, as `error`. Such a job is aborted only if `work` checks its progress.
    """

    def __init__(self, work: Callable[[Progress], None], error: Error) -> None:
        super().__init__(str(error))
        self.work = work
        self.error = error


class JobRecord(msgspec.Struct, frozen=True):
    """progress: percent, None while unknown. over_mono: when it ended. error: (code, message)."""

    id: str
    description: str
    state: JobState = JobState.PENDING
    progress: Progress | None = None
    error: tuple[int, str] | None = None
    over_mono: float | None = None

    def info(self, job_type: str) -> dict[str, object]:
        """The entry of Host.getJobs: progress is a float or absent, error is absent when there is none."""
        found: dict[str, object] = {
            "id": self.id,
            "status": job_reported(self.state),
            "description": self.description,
            "job_type": job_type,
        }
        if self.progress is not None and self.progress.known:
            found["progress"] = float(self.progress.estimate().pct)
        if self.error is not None:
            found["error"] = {"code": self.error[0], "message": self.error[1]}
        return found


class Jobs:
    """Thread-safe. job_type: "storage" or "virt"."""

    def __init__(self, background: Background, publish: Publisher, job_type: str, *, keep_s: float = KEEP_S) -> None:
        self._background = background
        self._publish = publish
        self._type = job_type
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._records: dict[str, JobRecord] = {}

    def start(self, job_id: str, description: str, work: Callable[[Progress], None], *, key: str | None = None) -> None:
        """Begin; returns at once. Raises: JobExists (69), Busy (nothing was begun)."""
        self._begin(job_id, description, work, key, _nobody)

    def perform(
        self, job_id: str, description: str, work: Callable[[Progress], None], *, key: str, deadline_mono: float
    ) -> None:
        """As `start`, for a caller who waits for it and does not know it as a job: it is not listed afterwards.

        Raises: what `work` raised; DeadlineExceeded and that of `NotYet`, then it goes on and stays listed; as `start`.
        """
        ends = queue.SimpleQueue[BaseException | None]()
        began = mono_s()
        self._begin(job_id, description, work, key, ends.put)
        try:
            failure = ends.get(timeout=min(max(0.0, deadline_mono - began), KEEP_S))
        except queue.Empty:
            raise DeadlineExceeded(description, mono_s() - began) from None
        with contextlib.suppress(NoSuchJob, JobNotDone):
            self.delete(job_id)
        if failure is not None:
            raise failure

    def _begin(
        self, job_id: str, description: str, work: Callable[[Progress], None], key: str | None, tell: Tell
    ) -> None:
        progress = Progress(lambda: self._background.draining)
        with self._lock:
            self._expire()
            if job_id in self._records:
                raise JobExists(job_id)
            self._records[job_id] = JobRecord(job_id, description, progress=progress)
        try:
            name = f"{description} {job_id}"
            job = partial(self._run, job_id, work, progress, tell, name, key)
            self._background.start(name, job, key=key)
        except Error:
            with self._lock:
                del self._records[job_id]
            raise

    def _run(
        self,
        job_id: str,
        work: Callable[[Progress], None],
        progress: Progress,
        tell: Tell,
        name: str,
        key: str | None,
        again: bool = False,
    ) -> None:
        failure: BaseException | None = None
        try:
            if not again:
                progress.check()
                self._move(job_id, JobState.RUNNING)
            work(progress)
        except NotYet as e:
            job = partial(self._run, job_id, e.work, progress, _nobody, name, key, True)
            self._background.later(AGAIN_S, name, job, key=key)
            tell(e.error)
            return
        except Error as e:
            failure = e
            state = JobState.ABORTED if progress.interrupted else JobState.FAILED
            _log.warning("job %s %s: %s", job_id, state.value, e)
            self._end(job_id, state, (e.kept_code, str(e)))
        except Exception as e:
            failure = e
            _log.exception("job %s failed in a way nobody foresaw", job_id)
            self._end(job_id, JobState.FAILED, (100, f"General exception: {e!r}"))
        else:
            progress.at(100.0)
            # Aborted too late counts as done: the work is.
            self._end(job_id, JobState.DONE, None)
        tell(failure)

    def _move(self, job_id: str, to: JobState) -> None:
        with self._lock:
            record = self._records.get(job_id)
            if record is not None and job_allowed(record.state, to):
                self._records[job_id] = replace(record, state=to)

    def _end(self, job_id: str, state: JobState, error: tuple[int, str] | None) -> None:
        with self._lock:
            record = replace(self._records[job_id], state=state, error=error, over_mono=mono_s())
            self._records[job_id] = record
        self._publish.publish(JobChanged(job_id=job_id, info=record.info(self._type), notify_time=notify_time()))

    def infos(self, job_ids: Iterable[str] | None = None) -> dict[str, dict[str, object]]:
        """{job id: entry of Host.getJobs}; unknown ids are left out."""
        with self._lock:
            self._expire()
            records = list(self._records.values())
        wanted = None if job_ids is None else set(job_ids)
        return {one.id: one.info(self._type) for one in records if wanted is None or one.id in wanted}

    def abort(self, job_id: str) -> None:
        """Ask it to end; it is over a little later. No effect when it is over. Raises: NoSuchJob."""
        record = self._records.get(job_id)
        if record is None:
            raise NoSuchJob(job_id)
        if record.state not in JOB_OVER and record.progress is not None:
            self._move(job_id, JobState.ABORTING)
            record.progress.stop()

    def delete(self, job_id: str) -> None:
        """Forget a job that is over. Raises: NoSuchJob, JobNotDone."""
        with self._lock:
            record = self._records.get(job_id)
            if record is None:
                raise NoSuchJob(job_id)
            if record.state not in JOB_OVER:
                raise JobNotDone(job_id, record.state.value)
            del self._records[job_id]

    def _expire(self) -> None:
        before = mono_s() - self._keep_s
        self._records = {
            job_id: one for job_id, one in self._records.items() if one.over_mono is None or one.over_mono > before
        }


def _nobody(failure: BaseException | None) -> None:
    return
