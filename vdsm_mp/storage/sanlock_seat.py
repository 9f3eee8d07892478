# SPDX-License-Identifier: Apache-2.0
"""This host's id in the lockspace of a shared domain, through the sanlock daemon: taken, looked for, given back.

It belongs to the daemon and outlives this process. Joining takes sanlock 20 to 30 s (longer after an unclean end), so
it runs in a thread of its own, at most one for each domain, and whoever needs the id waits for that one.
"""

import errno
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout

import sanlock

from vdsm_mp.api.errors_storage import HostIdDiffers, HostIdNotAcquired, HostIdNotReleased
from vdsm_mp.storage.locks import TEMPORARY_HOST_ID
from vdsm_mp.storage.sanlock_patience import Patience

_log = logging.getLogger("storage.sanlock")

#: A lockspace is being joined or left.
_BUSY = (errno.EINPROGRESS, errno.EAGAIN, errno.EBUSY)


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
        #: Taken, and used, by this life of the worker.
        self._taken: set[int] = set()

    def request(self, host_id: int) -> None:
        self._join(host_id)

    def wait(self, host_id: int, within_s: float, wanted: Callable[[], bool]) -> None:
        if self.has(host_id):
            self._taken.add(host_id)
            return
        joining = self._join(host_id)
        try:
            joining.result(within_s)
        except FutureTimeout:
            joining.add_done_callback(lambda done: self._came_late(host_id, done, wanted))
            raise self._not_acquired(host_id, f"not within {within_s:g} s") from None

    def _came_late(self, host_id: int, done: "Future[None]", wanted: Callable[[], bool]) -> None:
        if done.exception() is not None or wanted():
            return
        _log.warning("domain %s: host id %d has come when nobody waits for it, and is given back", self._sd_id, host_id)
        try:
            self.release(host_id)
        except HostIdNotReleased as e:
            _log.error("%s", e)

    def _join(self, host_id: int) -> "Future[None]":
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
        else:
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
        try:
            # unused: sanlock refuses while a lease is held in it, instead of killing the holder.
            sanlock.rem_lockspace(self._name, host_id, self._ids, unused=True)
        except sanlock.SanlockException as e:
            if e.errno != errno.ENOENT:
                raise HostIdNotReleased(self._sd_id, f"host id {host_id}", text_of(e)) from e

    def _not_acquired(self, host_id: int, reason: str) -> HostIdNotAcquired:
        return HostIdNotAcquired(self._sd_id, f"host id {host_id}", reason)


def text_of(error: "sanlock.SanlockException | TimeoutError") -> str:
    """What it says, in one line."""
    return " ".join(str(part) for part in error.args)
