# SPDX-License-Identifier: Apache-2.0
"""This host's id in the lockspace of a shared domain, through the sanlock daemon: taken, looked for, given back.

It belongs to the daemon and outlives this process. Joining takes sanlock 20 to 30 s (longer after an unclean end), so
it runs in a thread of its own, at most one for each domain, and whoever needs the id waits for that one.
"""

import errno
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

import sanlock

from vdsm_mp.api.errors_storage import HostIdDiffers, HostIdNotAcquired, HostIdNotReleased
from vdsm_mp.common.clock import mono_s
from vdsm_mp.storage.locks import TEMPORARY_HOST_ID
from vdsm_mp.storage.sanlock_patience import Patience

_log = logging.getLogger("storage.sanlock")

#: A lockspace is being joined or left.
_BUSY = (errno.EINPROGRESS, errno.EAGAIN, errno.EBUSY)

#: Joining takes its time; whether the daemon lives is asked meanwhile.
_LOOK_S = 5.0
#: Leaving a lockspace, which takes sanlock a few seconds.
_GOING_S = 20


class Seat:
    """In one lockspace. Thread-safe. The methods are those of `ClusterLock`."""

    def __init__(self, sd_id: str, ids: str, io_timeout_s: int, patience: Patience) -> None:
        """ids: path of the lockspace's file."""
        self._sd_id = sd_id
        self._name = sd_id.encode()
        self._ids = ids
        self._io_timeout_s = io_timeout_s
        self._patience = patience
        self._lock = threading.Lock()
        self._joining: tuple[int, Future[None]] | None = None
        #: To be given back when they have come.
        self._leaving: set[int] = set()
        #: Taken, and used, by this life of the worker.
        self._taken: set[int] = set()

    def request(self, host_id: int) -> None:
        self._join(host_id)

    def wait(self, host_id: int, within_s: float, wanted: Callable[[], bool]) -> None:
        self._is_wanted(host_id)
        if self.has(host_id):
            self._taken.add(host_id)
            return
        joining, until, silent = self._join(host_id), mono_s() + within_s, False
        while not silent and (left_s := until - mono_s()) > 0:
            try:
                joining.result(min(left_s, _LOOK_S))
            except FutureTimeout:
                silent = not self._patience.answers()
            else:
                return
        joining.add_done_callback(lambda done: self._came_late(host_id, done, wanted))
        raise self._not_acquired(host_id, "sanlock does not answer" if silent else f"not within {within_s:g} s")

    def _came_late(self, host_id: int, done: "Future[None]", wanted: Callable[[], bool]) -> None:
        if done.exception() is not None or wanted():
            return
        self._give_back(host_id)

    def _give_back(self, host_id: int) -> None:
        _log.warning("domain %s: host id %d has come when nobody waits for it, and is given back", self._sd_id, host_id)
        try:
            self.release(host_id)
        except HostIdNotReleased as e:
            _log.error("%s", e)

    def _is_wanted(self, host_id: int) -> None:
        self._patience.forgive(_owed(host_id))
        with self._lock:
            self._leaving.discard(host_id)

    def _join(self, host_id: int) -> "Future[None]":
        self._is_wanted(host_id)
        with self._lock:
            if self._joining is not None and not self._joining[1].done():
                if self._joining[0] != host_id:
                    raise HostIdDiffers(self._sd_id, f"host id {host_id}", f"{self._joining[0]} is being taken")
                return self._joining[1]
            future: Future[None] = Future()
            self._joining = (host_id, future)
        threading.Thread(target=self._run_join, args=(host_id, future), daemon=True, name="join").start()
        return future

    def _run_join(self, host_id: int, future: "Future[None]") -> None:
        try:
            self._add(host_id)
        except (HostIdNotAcquired, HostIdDiffers) as e:
            _log.warning("%s", e)
            future.set_exception(e)
            return
        with self._lock:
            leaving = host_id in self._leaving
            self._leaving.discard(host_id)
        if leaving:
            self._give_back(host_id)
            future.set_exception(self._not_acquired(host_id, "it was given back meanwhile"))
            return
        _log.info("domain %s: host id %d is ours", self._sd_id, host_id)
        self._taken.add(host_id)
        future.set_result(None)

    def _add(self, host_id: int) -> None:
        try:
            self._give_back_what_was_left(host_id)
        except sanlock.SanlockException as e:
            raise self._not_acquired(host_id, text_of(e)) from e
        try:
            sanlock.add_lockspace(self._name, host_id, self._ids, iotimeout=self._io_timeout_s, wait=True)
        except sanlock.SanlockException as e:
            if e.errno == errno.EEXIST:
                return
            if e.errno not in _BUSY:
                raise self._not_acquired(host_id, text_of(e)) from e
            # Begun before us (an earlier life of this worker), or still being left: wait for the end of that.
            try:
                if not sanlock.inq_lockspace(self._name, host_id, self._ids, wait=True):
                    raise self._not_acquired(host_id, "it was being given back") from e
            except sanlock.SanlockException as inner:
                raise self._not_acquired(host_id, text_of(inner)) from inner

    def _give_back_what_was_left(self, host_id: int) -> None:
        """An earlier life of this worker died with the temporary id: with that no other can be had, for good.

        Raises: SanlockException.
        """
        if host_id == TEMPORARY_HOST_ID or TEMPORARY_HOST_ID in self._taken:
            return
        left = [one["host_id"] for one in sanlock.get_lockspaces() if one["lockspace"] == self._name]
        if left == [TEMPORARY_HOST_ID]:
            _log.warning("domain %s: host id %d was left, and is given back", self._sd_id, TEMPORARY_HOST_ID)
            sanlock.rem_lockspace(self._name, TEMPORARY_HOST_ID, self._ids, unused=True)

    def has(self, host_id: int) -> bool:
        try:
            return self._patience.ask(lambda: sanlock.inq_lockspace(self._name, host_id, self._ids) is True)
        except (sanlock.SanlockException, TimeoutError) as e:
            _log.debug("domain %s: host id %d: %s", self._sd_id, host_id, text_of(e))
            return False

    def release(self, host_id: int) -> None:
        self._taken.discard(host_id)  # one that cannot be given back now is what was left, too
        with self._lock:
            if self._joining is not None and self._joining[0] == host_id and not self._joining[1].done():
                self._leaving.add(host_id)
        try:
            self._patience.change(lambda: self._remove(host_id))
        except sanlock.SanlockException as e:
            raise HostIdNotReleased(self._sd_id, f"host id {host_id}", text_of(e)) from e
        except TimeoutError as e:
            self._patience.owe(_owed(host_id), lambda: self._remove(host_id))
            reason = f"{text_of(e)}; it is given back as soon as it does"
            raise HostIdNotReleased(self._sd_id, f"host id {host_id}", reason) from e

    def _remove(self, host_id: int) -> None:
        """Raises: SanlockException."""
        for _ in range(_GOING_S):
            try:
                # unused: sanlock refuses while a lease is held in it, instead of killing the holder.
                sanlock.rem_lockspace(self._name, host_id, self._ids, unused=True)
            except sanlock.SanlockException as e:
                if e.errno == errno.ENOENT:
                    return
                if e.errno != errno.EINPROGRESS:
                    raise
                time.sleep(1)  # somebody else does it, and until it has gone the file is open
            else:
                return
        raise sanlock.SanlockException(errno.EINPROGRESS, f"still not given back after {_GOING_S} s")

    def _not_acquired(self, host_id: int, reason: str) -> HostIdNotAcquired:
        return HostIdNotAcquired(self._sd_id, f"host id {host_id}", reason)


def _owed(host_id: int) -> str:
    return f"giving host id {host_id} back"


def text_of(error: "sanlock.SanlockException | TimeoutError") -> str:
    """What it says, in one line."""
    return " ".join(str(part) for part in error.args)
