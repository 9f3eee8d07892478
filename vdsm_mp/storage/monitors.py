# SPDX-License-Identifier: Apache-2.0
"""Watching domains: one check for each every ten seconds, in threads of its own, and never two at once of one domain.

A check reads the domain's metadata past the cache (the read's time is the reported delay), verifies it, asks for
free space and whether the host id is ours, and asks for the host id when it is not. A domain that hangs costs one
thread until the check's deadline; after that its checks only look whether the hung request has ended, so that any
number of dead domains leaves the healthy ones their pace.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_storage import DomainNotFound, IoTimedOut, StaleHandle, StoragePathBlocked
from vdsm_mp.api.events import DomainValidityChanged
from vdsm_mp.api.ports import Background, Publisher, Timer
from vdsm_mp.common.clock import mono_s
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_format import DomainClass
from vdsm_mp.storage.locks import Locks
from vdsm_mp.storage.monitor import Checked, Told, Watch, checked, reported
from vdsm_mp.storage.monitor_space import DEFAULT, Limits, Space
from vdsm_mp.storage.registry import Domains

_log = logging.getLogger("storage.monitor")

READ_TIMEOUT = 2001
_THREADS = 32
#: A request that hangs for longer is worth another attempt (which may replace the I/O child).
_RETRY_STUCK_AFTER_S = 30.0
_JITTER = 0.1


class Monitors:
    """{sd_id: Watch}. Thread-safe; `vitals` never waits for storage."""

    def __init__(
        self,
        domains: Domains,
        locks: Locks,
        publish: Publisher,
        background: Background,
        *,
        period_s: float = 10.0,
        limits: Limits = DEFAULT,
    ) -> None:
        self._domains = domains
        self._locks = locks
        self._publish = publish
        self._background = background
        self._period_s = period_s
        self._limits = limits
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="monitor")
        self._lock = threading.Lock()
        self._watches: dict[str, Watch] = {}
        self._holders: dict[str, set[str]] = {}
        self._timers: dict[str, Timer] = {}
        self._due: dict[str, float] = {}
        self._in_flight: set[str] = set()
        #: Called with (sd_id, valid) after a verdict is new or has changed, from the checking thread.
        self.on_verdict: list[Callable[[str, bool], None]] = []

    def start(self, sd_id: str, host_id: int, *, holder: str = "pool") -> None:
        """Watch a domain from now on; being watched already is fine. Touches no storage itself.

        holder: who wants it; it is watched until the last holder stops.
        """
        with self._lock:
            self._holders.setdefault(sd_id, set()).add(holder)
            if sd_id in self._watches:
                return
            self._watches[sd_id] = Watch(sd_id, host_id, mono_s(), limits=self._limits)
            self._due[sd_id] = mono_s()
        self._submit(sd_id)

    def stop(self, sd_ids: Iterable[str], *, release: bool, holder: str = "pool") -> None:
        """Stop watching: the domains vanish from the reports at once. release: give their host ids back, and wait.

        A domain that another holder wants goes on being watched.

        What cannot be given back is logged: nobody could do anything about it here.
        """
        gone = []
        for sd_id in sd_ids:
            with self._lock:
                holders = self._holders.get(sd_id, set())
                holders.discard(holder)
                if holders:
                    continue
                self._holders.pop(sd_id, None)
                watch = self._watches.pop(sd_id, None)
                timer = self._timers.pop(sd_id, None)
                self._due.pop(sd_id, None)
            if timer is not None:
                timer.cancel()
            if watch is not None:
                gone.append(watch)
                self._publish.publish(DomainValidityChanged(sd_id=sd_id, valid=watch.valid, gone=True))
        if release and gone:
            with ThreadPoolExecutor(min(16, len(gone)), thread_name_prefix="leave") as pool:
                list(pool.map(self._leave, gone))

    def watched(self) -> list[str]:
        return list(self._watches)

    def watch_of(self, sd_id: str) -> Watch | None:
        return self._watches.get(sd_id)

    def vitals(self) -> dict[str, dict[str, object]]:
        """{sd_id: entry of Host.getStats.storageDomains}."""
        now = mono_s()
        return {sd_id: reported(watch, now) for sd_id, watch in list(self._watches.items())}

    def beat(self) -> None:
        """Start checks that are overdue (their timer was lost)."""
        late = mono_s() - self._period_s
        for sd_id, due in list(self._due.items()):
            if due < late:
                self._submit(sd_id)

    def check_soon(self, sd_id: str) -> None:
        """Something about this domain has changed; do not wait for its turn."""
        self._submit(sd_id)

    def close(self) -> None:
        """End of the worker: no new checks. Host ids stay, so that what runs on this host keeps its leases."""
        with self._lock:
            self._watches.clear()
            self._due.clear()
            timers, self._timers = list(self._timers.values()), {}
        for timer in timers:
            timer.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # --- one check

    def _submit(self, sd_id: str) -> None:
        with self._lock:
            if sd_id in self._in_flight or sd_id not in self._watches or self._background.draining:
                return
            self._in_flight.add(sd_id)
            self._due[sd_id] = mono_s() + self._period_s
        try:
            self._pool.submit(self._run, sd_id)
        except RuntimeError:  # shut down meanwhile
            self._in_flight.discard(sd_id)

    def _run(self, sd_id: str) -> None:
        watch = self._watches.get(sd_id)
        try:
            if watch is not None:
                self._take(watch, self._check(watch))
        except Exception:
            _log.exception("the check of domain %s failed in a way nobody foresaw", sd_id)
            if watch is not None:
                self._take(watch, Checked(mono_s(), code=200, reason="internal error of the check"))
        finally:
            self._in_flight.discard(sd_id)
            self._again(sd_id)

    def _again(self, sd_id: str) -> None:
        delay_s = self._period_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 -- spreads load, guards nothing
        with self._lock:
            if sd_id not in self._watches or self._background.draining:
                return
            self._due[sd_id] = mono_s() + delay_s
            with suppress(Busy):  # the next beat finds it overdue
                self._timers[sd_id] = self._background.later(
                    delay_s, f"check {sd_id}", lambda: self._submit(sd_id), key=f"check {sd_id}"
                )

    def _check(self, watch: Watch) -> Checked:
        try:
            return self._look(watch)
        except (DomainNotFound, StaleHandle) as e:
            self._domains.look_elsewhere(watch.sd_id)
            return Checked(mono_s(), code=e.code, reason=str(e))
        except (IoTimedOut, StoragePathBlocked) as e:
            return Checked(mono_s(), code=READ_TIMEOUT, reason=str(e))
        except Error as e:
            return Checked(mono_s(), code=e.kept_code or 200, reason=str(e))

    def _look(self, watch: Watch) -> Checked:
        domain = self._domains.find(watch.sd_id)
        health = domain.io.health()
        if health["stuck"] and health["stuck_s"] < _RETRY_STUCK_AFTER_S:
            raise StoragePathBlocked(domain.path, "an earlier check still hangs")
        began = mono_s()
        meta = domain.refresh(deadline_s=self._period_s)
        delay_s = mono_s() - began
        space = domain.io.statvfs(deadline_s=self._period_s)
        lock = self._locks.of(domain)
        acquired = lock.has_host_id(watch.host_id)
        if not acquired and meta.cls is not DomainClass.ISO:
            lock.request_host_id(watch.host_id)
            if watch.sd_id not in self._watches and not self._background.draining:
                self._leave(watch)  # who has stopped it meanwhile may have done that before this
            acquired = lock.has_host_id(watch.host_id)  # at once on a local domain
        return Checked(
            at_mono=mono_s(),
            delay_s=delay_s,
            version=meta.version,
            total_bytes=space.total_bytes,
            free_bytes=space.free_bytes,
            acquired=acquired,
        )

    def _take(self, watch: Watch, result: Checked) -> None:
        with self._lock:
            current = self._watches.get(watch.sd_id)
            if current is None or current.begun_mono != watch.begun_mono:
                return  # stopped (and perhaps begun anew) meanwhile
            after, told = checked(current, result)
            self._watches[watch.sd_id] = after
        if after.space is not current.space:
            self._tell_space(after)
        if told is not None:
            self._tell(watch.sd_id, told)

    def _tell(self, sd_id: str, told: Told) -> None:
        if told.valid:
            _log.info("domain %s is valid", sd_id)
        else:
            _log.warning("domain %s is not valid: %s", sd_id, told.reason)
        self._publish.publish(DomainValidityChanged(sd_id=sd_id, valid=told.valid))
        for listener in self.on_verdict:
            listener(sd_id, told.valid)

    def _tell_space(self, watch: Watch) -> None:
        domain, last = self._domains.known(watch.sd_id), watch.last
        if domain is None or last is None or domain.meta.cls is DomainClass.ISO:  # those are filled and stay so
            return
        level = logging.INFO if watch.space is Space.ENOUGH else logging.WARNING
        left = f"{last.free_bytes} of {last.total_bytes} bytes are free"
        _log.log(level, "domain %s: free space is %s, %s", watch.sd_id, watch.space.name.lower(), left)

    def _leave(self, watch: Watch) -> None:
        domain = self._domains.known(watch.sd_id)
        if domain is None:
            return
        try:
            if domain.meta.cls is not DomainClass.ISO:
                self._locks.of(domain).release_host_id(watch.host_id)
        except Error as e:
            _log.warning("%s", e)
