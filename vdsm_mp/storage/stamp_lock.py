# SPDX-License-Identifier: Apache-2.0
"""The cluster lock of shared domains before version 3: who holds it, and since when, in the first sector of `leases`.

    FREE -> ours    write, wait until whoever wrote at the same time must have written, read: still ours = won
    other -> ours   only when the other has not renewed for longer than it may
    ours -> ours    every few seconds while it is held, by a thread of its own: the time of the stamp
    ours -> FREE    write

The lease covers a domain's membership; nobody is SPM on such a domain, and there are no host ids: having one is said
and means nothing. A stamp that another wrote over is never written again; nor is one that could not be renewed in time.
"""

import logging
import threading
import time
from collections.abc import Callable

from vdsm_mp.api.errors_storage import LockNotAcquired, LockNotInspected, LockNotReleased
from vdsm_mp.common.clock import mono_s, wall_s
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_file import FREE_STAMP, LEASES, FileDomain
from vdsm_mp.storage.locks import SDM, Lease, Owner

_log = logging.getLogger("storage.stamp")

_SECTOR = 512
_HOLDER = 16
_STAMP = 16
_TAG = _HOLDER + _STAMP
_FREE = FREE_STAMP[:_TAG]
#: What other hosts may have been told lies between these; more would outlast every caller.
_MAX_OP_S = 10
_MAX_LEASE_S = 60


class StampLock:
    """One lease, this host's hold on it, and no host ids. Thread-safe.

    op_s: how long one read or write may take any host. lease_s: how long it is held without being renewed. renew_s:
    between two renewals. They come from the domain's metadata, so that all hosts count alike.
    """

    def __init__(
        self,
        domain: FileDomain,
        *,
        op_s: float | None = None,
        lease_s: float | None = None,
        renew_s: float | None = None,
    ) -> None:
        told = domain.meta.lease
        self._domain = domain
        self._op_s = min(max(told.io_timeout_s, 1), _MAX_OP_S) if op_s is None else op_s
        self._lease_s = min(max(told.lease_s, 1), _MAX_LEASE_S) if lease_s is None else lease_s
        self._renew_s = min(max(told.renewal_s, 1), self._lease_s / 3) if renew_s is None else renew_s
        self._lock = threading.Lock()
        self._tag: bytes | None = None
        self._renewed_mono = 0.0
        self._released = threading.Event()
        self.sdm = Lease(SDM, domain.io.path_of(LEASES), 0)

    def initialize(self) -> None:
        """The domain was made with a free lease."""

    def request_host_id(self, host_id: int) -> None:
        """There are none."""

    def wait_host_id(self, host_id: int, *, within_s: float = 180.0, wanted: Callable[[], bool] = lambda: True) -> None:
        """There are none."""

    def has_host_id(self, host_id: int) -> bool:
        return True

    def release_host_id(self, host_id: int) -> None:
        """There are none."""

    def acquire(self, lease: Lease, host_id: int) -> None:
        with self._lock:
            self._wait_until_free(self._read())
            mine = _tag_of(host_id)
            self._write(mine)
            time.sleep(2 * self._op_s)
            found = self._read()
            if found != mine:
                raise LockNotAcquired(self._domain.sd_id, SDM, f"{_holder(found)} was faster")
            self._stamp(host_id)  # the time of the wait is given back
            self._released = threading.Event()
            threading.Thread(
                target=self._keep, args=(host_id, self._released), daemon=True, name=f"stamp {self._domain.sd_id}"
            ).start()

    def _stamp(self, host_id: int) -> None:
        tag, began_mono = _tag_of(host_id), mono_s()
        self._write(tag)
        # Whoever waits counts from when it was seen, which may have been at once.
        self._tag, self._renewed_mono = tag, began_mono

    def _keep(self, host_id: int, released: threading.Event) -> None:
        while not released.wait(self._renew_s):
            with self._lock:
                if released.is_set() or not self._renewed(host_id):
                    return

    def _renewed(self, host_id: int) -> bool:
        """False: it is not ours any more. What fails is tried again, as long as it must still be ours."""
        sd_id = self._domain.sd_id
        try:
            if not self.holds(self.sdm):
                _log.error("domain %s: the lease could not be renewed in time", sd_id)
                return False
            found = self._read()
            if found != self._tag:
                self._tag = None
                _log.error("domain %s: the lease is lost, %s has it", sd_id, _holder(found))
                return False
            self._stamp(host_id)
        except Error as e:
            _log.warning("domain %s: the lease is not renewed yet: %s", sd_id, e)
        return True

    def _wait_until_free(self, seen: bytes) -> None:
        """Raises: LockNotAcquired (its holder lives)."""
        if seen == _FREE:
            return
        _log.info("domain %s: the lease is held by %s", self._domain.sd_id, _holder(seen))
        give_up = mono_s() + self._lease_s + 6 * self._op_s
        while mono_s() < give_up:
            time.sleep(min(self._op_s, max(0.0, give_up - mono_s())))
            now = self._read()
            if now == _FREE:
                return
            if now != seen:
                raise LockNotAcquired(self._domain.sd_id, SDM, f"{_holder(now)} holds it and renews it")
        _log.warning("domain %s: the lease of %s has run out and is taken", self._domain.sd_id, _holder(seen))

    def release(self, lease: Lease) -> None:
        self._released.set()
        with self._lock:
            mine, self._tag = self._tag, None
            if mine is None:
                return
            try:
                if self._read() == mine:
                    self._write(_FREE)
            except Error as e:
                raise LockNotReleased(self._domain.sd_id, SDM, str(e)) from e

    def holds(self, lease: Lease) -> bool:
        """Past its time somebody else may have taken it."""
        return self._tag is not None and mono_s() < self._renewed_mono + self._lease_s

    def inspect(self, lease: Lease) -> Owner:
        try:
            found = self._read()
        except Error as e:
            raise LockNotInspected(self._domain.sd_id, SDM, str(e)) from e
        holder = _holder(found)
        return Owner(0, int(holder) if found != _FREE and holder.isascii() and holder.isdigit() else None)

    def _read(self) -> bytes:
        data = self._domain.io.read(LEASES, length=_SECTOR, deadline_s=self._op_s + 1)[:_TAG]
        return data if data.strip(b"\0") else _FREE  # never written: nobody has it

    def _write(self, tag: bytes) -> None:
        try:
            self._domain.io.write(LEASES, tag.ljust(_SECTOR, b"\0"), direct=True)
        except Error as e:
            raise LockNotAcquired(self._domain.sd_id, SDM, str(e)) from e


def _tag_of(host_id: int) -> bytes:
    return f"{host_id:<{_HOLDER}d}{int(wall_s() * 1e6):0{_STAMP}x}".encode()


def _holder(tag: bytes) -> str:
    return tag[:_HOLDER].decode("ascii", "replace").strip()
