# SPDX-License-Identifier: Apache-2.0
"""Host ids and leases of a shared domain, through the sanlock daemon. All calls block; pool threads only.

Host ids are `sanlock_seat.py`. Each lease has its own connection to the daemon: it is dropped with the connection,
hence with this process, whatever ends it.

sanlock reports errors as (number, text): errno values, or its own above 200. It may be silent: then every call ends
after some seconds and says so, and what it does later is taken back (`sanlock_patience.py`).
"""

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sanlock

from vdsm_mp.api.errors_storage import (
    LockInitFailed,
    LockNotAcquired,
    LockNotInspected,
    LockNotReleased,
)
from vdsm_mp.storage.domain_file import IDS, LEASES, FileDomain
from vdsm_mp.storage.locks import SDM, Lease, Owner
from vdsm_mp.storage.sanlock_patience import NotBegun, Patience
from vdsm_mp.storage.sanlock_seat import Seat, text_of

_log = logging.getLogger("storage.sanlock")

#: SANLK_LEADER_MAGIC to SANLK_LEADER_CHECKSUM: what was read is no lease, or no whole one.
_NO_LEASE = range(-229, -222)
_GONE_OWNERS = (sanlock.HOST_FREE, sanlock.HOST_DEAD)


#: What the daemon may take for an answer, besides what it may spend on storage.
ANSWERS_WITHIN_S = 5.0
#: sanlock's own: after so long without its daemon the watchdog resets a host.
_WATCHDOG_S = 60.0


class SanlockLock:
    """The lockspace and the leases of one domain. Thread-safe."""

    def __init__(self, domain: FileDomain, io_timeout_s: int) -> None:
        meta = domain.meta
        self._sd_id = domain.sd_id
        self._name = domain.sd_id.encode()
        self._ids = domain.io.path_of(IDS)
        self._align = meta.alignment
        self._sector = meta.block_size
        self._io_timeout_s = io_timeout_s
        self.sdm = Lease(SDM, domain.io.path_of(LEASES), meta.alignment)
        # Until a host is dead for sure, and the ballots that take its lease then.
        longest_s = 8 * io_timeout_s + _WATCHDOG_S + 6 * io_timeout_s + ANSWERS_WITHIN_S
        self._patience = Patience(
            2 * io_timeout_s + ANSWERS_WITHIN_S, ANSWERS_WITHIN_S, longest_s, sanlock.get_lockspaces
        )
        self._seat = Seat(self._sd_id, self._ids, io_timeout_s, self._patience)
        self._lock = threading.Lock()
        #: One talk at a time on the connections of `_held`: answers have no names.
        self._talking = threading.Lock()
        self._held: dict[Lease, int] = {}

    def initialize(self) -> None:
        self._write(
            "lockspace",
            lambda: sanlock.write_lockspace(
                self._name, self._ids, iotimeout=self._io_timeout_s, align=self._align, sector=self._sector
            ),
        )
        self.write_lease(self.sdm)

    def write_lease(self, lease: Lease) -> None:
        """Format a lease nobody holds. Raises: LockInitFailed."""
        name = lease.name.encode()
        self._write(
            lease.name,
            lambda: sanlock.write_resource(self._name, name, _disks(lease), align=self._align, sector=self._sector),
        )

    def clear_lease(self, lease: Lease) -> None:
        """Make it no lease any more. Raises: LockInitFailed."""
        self._write(
            lease.name, lambda: sanlock.write_resource(b"", b"", _disks(lease), align=self._align, sector=self._sector)
        )

    def _write(self, what: str, work: Callable[[], None]) -> None:
        """Raises: LockInitFailed; nothing else of the domain is written before it is known whether this was."""
        try:
            self._patience.change(work)
        except sanlock.SanlockException as e:
            raise LockInitFailed(self._sd_id, what, text_of(e)) from e
        except TimeoutError as e:
            raise LockInitFailed(self._sd_id, what, f"it is not known whether it is written: {text_of(e)}") from e

    def name_at(self, lease: Lease) -> str | None:
        """The name of the lease that is there; None when there is none of this domain.

        Raises: LockNotInspected (it could not be read: somebody may hold what is there).
        """
        try:
            found = self._patience.ask(
                lambda: sanlock.read_resource(lease.path, lease.offset, align=self._align, sector=self._sector)
            )
        except (sanlock.SanlockException, TimeoutError) as e:
            if isinstance(e, sanlock.SanlockException) and e.errno in _NO_LEASE:
                return None
            raise LockNotInspected(self._sd_id, lease.name or f"lease at {lease.offset}", text_of(e)) from e
        if found["lockspace"] != self._name:
            return None
        return found["resource"].decode("ascii", "replace") or None

    @contextmanager
    def holding_value(self, lease: Lease) -> Iterator["LeaseValue"]:
        """Hold a free lease, and its value block. What was written is stored when the block ends, however it ends.

        Raises: LockNotAcquired (held by somebody), LockNotInspected (it is not known what is stored).
        """
        fd = self._take(lease, lvb=True)
        try:
            yield LeaseValue(self._sd_id, lease, self._sector, self._patience)
        except BaseException:
            with suppress(LockNotReleased):  # the reason is the block's
                self._let_go(lease, fd)
            raise
        try:
            self._let_go(lease, fd)
        except LockNotReleased as e:
            _log.warning("%s", e)
            raise LockNotInspected(self._sd_id, lease.name, f"it is not known what is stored: {e.reason}") from e

    def _take(self, lease: Lease, *, lvb: bool = False) -> int:
        """The connection that holds it. Raises: LockNotAcquired."""
        try:
            return self._patience.change(
                lambda: self._acquire(lease, lvb=lvb), lambda fd: self._release_and_close(lease, fd)
            )
        except sanlock.SanlockException as e:
            raise LockNotAcquired(self._sd_id, lease.name, text_of(e)) from e
        except TimeoutError as e:
            reason = f"{text_of(e)}; should it take the lease yet, it is given back"
            raise LockNotAcquired(self._sd_id, lease.name, reason) from e

    def _acquire(self, lease: Lease, *, lvb: bool) -> int:
        fd: int = sanlock.register()
        try:
            sanlock.acquire(self._name, lease.name.encode(), _disks(lease), slkfd=fd, lvb=lvb)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _let_go(self, lease: Lease, fd: int) -> None:
        """Closing would let go, too, but some time later. Raises: LockNotReleased (it goes by itself)."""
        try:
            self._patience.change(lambda: self._release_and_close(lease, fd))
        except sanlock.SanlockException as e:
            raise LockNotReleased(self._sd_id, lease.name, text_of(e)) from e
        except TimeoutError as e:
            if isinstance(e, NotBegun):
                # Not closed now: a thread may be waiting for an answer on it.
                self._patience.owe(f"letting {lease.name} go ({fd})", lambda: self._release_and_close(lease, fd))
            raise LockNotReleased(self._sd_id, lease.name, f"{text_of(e)}; it goes as soon as it does") from e

    def _release_and_close(self, lease: Lease, fd: int) -> None:
        try:
            with self._talking:
                sanlock.release(self._name, lease.name.encode(), _disks(lease), slkfd=fd)
        finally:
            os.close(fd)  # drops it even where the release failed

    # --- host id

    def request_host_id(self, host_id: int) -> None:
        self._seat.request(host_id)

    def wait_host_id(self, host_id: int, *, within_s: float = 180.0, wanted: Callable[[], bool] = lambda: True) -> None:
        self._seat.wait(host_id, within_s, wanted)

    def has_host_id(self, host_id: int) -> bool:
        """False, too, when the daemon does not say."""
        return self._seat.has(host_id)

    def release_host_id(self, host_id: int) -> None:
        self._seat.release(host_id)

    # --- leases

    def acquire(self, lease: Lease, host_id: int) -> None:
        with self._lock:
            if lease in self._held:
                return
        fd = self._take(lease)
        with self._lock:
            self._held[lease] = fd

    def release(self, lease: Lease) -> None:
        with self._lock:
            fd = self._held.pop(lease, None)
        if fd is not None:
            self._let_go(lease, fd)

    def holds(self, lease: Lease) -> bool:
        if lease not in self._held:
            return False
        try:
            found = self._patience.ask(lambda: self._inquire(lease))
        except sanlock.SanlockException as e:
            if e.errno in (errno.EPIPE, errno.ECONNRESET, errno.ESRCH, errno.ENOENT):
                return False  # the daemon dropped our connection, and the lease with it
            raise LockNotInspected(self._sd_id, lease.name, text_of(e)) from e
        except TimeoutError as e:
            raise LockNotInspected(self._sd_id, lease.name, text_of(e)) from e
        wanted = (self._name, lease.name.encode(), _disks(lease))
        return any((r["lockspace"], r["resource"], r["disks"]) == wanted for r in found)

    def _inquire(self, lease: Lease) -> list[dict[str, Any]]:
        with self._talking:
            fd = self._held.get(lease)
            return [] if fd is None else sanlock.inquire(slkfd=fd)

    def inspect(self, lease: Lease) -> Owner:
        try:
            return self._patience.ask(lambda: self._inspect(lease))
        except TimeoutError as e:
            raise LockNotInspected(self._sd_id, lease.name, text_of(e)) from e

    def _inspect(self, lease: Lease) -> Owner:
        try:
            read = sanlock.read_resource(lease.path, lease.offset, align=self._align, sector=self._sector)
            if read["resource"] != lease.name.encode():
                raise LockNotInspected(self._sd_id, lease.name, f"the lease there is called {read['resource']!r}")
            owners = sanlock.read_resource_owners(
                self._name, lease.name.encode(), _disks(lease), align=self._align, sector=self._sector
            )
        except sanlock.SanlockException as e:
            raise LockNotInspected(self._sd_id, lease.name, text_of(e)) from e
        version = int(read["version"])
        if not owners:
            return Owner(version, None)
        owner_id = int(owners[0]["host_id"])
        return Owner(version, owner_id if self._is_alive(owner_id, int(owners[0]["generation"]), lease) else None)

    def _is_alive(self, host_id: int, generation: int, lease: Lease) -> bool:
        """Can the owner still use what it took? When that is not known, it is assumed."""
        try:
            host = sanlock.get_hosts(self._name, host_id)[0]
        except sanlock.SanlockException as e:
            if e.errno in (errno.EAGAIN, errno.ENOENT):  # no renewal seen yet, or not joined
                return True
            raise LockNotInspected(self._sd_id, lease.name, text_of(e)) from e
        return host["flags"] not in _GONE_OWNERS and int(host["generation"]) <= generation


class LeaseValue:
    """The value block of a lease that is held. Every method raises LockNotInspected."""

    def __init__(self, sd_id: str, lease: Lease, sector: int, patience: Patience) -> None:
        self._sd_id = sd_id
        self._lease = lease
        self._sector = sector
        self._patience = patience

    def read(self) -> bytes:
        """What was written last, NUL bytes behind it."""
        try:
            return self._patience.ask(
                lambda: bytes(
                    sanlock.get_lvb(self._sd_id.encode(), self._lease.name.encode(), _disks(self._lease), self._sector)
                )
            )
        except (sanlock.SanlockException, TimeoutError) as e:
            raise LockNotInspected(self._sd_id, self._lease.name, text_of(e)) from e

    def write(self, data: bytes) -> None:
        """Not stored before the lease is let go."""
        try:
            self._patience.change(
                lambda: sanlock.set_lvb(
                    self._sd_id.encode(),
                    self._lease.name.encode(),
                    _disks(self._lease),
                    data.ljust(self._sector, b"\0"),
                )
            )
        except (sanlock.SanlockException, TimeoutError) as e:
            raise LockNotInspected(self._sd_id, self._lease.name, text_of(e)) from e


def _disks(lease: Lease) -> list[tuple[str, int]]:
    return [(lease.path, lease.offset)]
