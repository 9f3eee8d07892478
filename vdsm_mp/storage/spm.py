# SPDX-License-Identifier: Apache-2.0
"""The SPM role of this host: take it, keep it, give it up.

Its states, and that each step is taken once, are `spm_role.py`.

The role is the SDM lease of the master domain, held by this very process, plus the stored tasks in memory.

A restart of this process loses the role, on purpose. sanlock ties a lease to the process that registered: it is
dropped the moment we die, whoever survives us (a qemu-img of ours, say) does not hold it, and another host may have
taken it before we are back. A child that kept the lease for us would keep it also over writers nobody watches any
more. So a new worker starts FREE; the engine sees "Free" with its next poll and starts the role again, which reads
the tasks from storage and rolls back what was under way. On a local domain the lock is an flock and the same holds.

While the role lasts, hosts are answered (`mailbox.py`) and the lease is looked at every twenty seconds. When it is gone
the process ends at once (`panic`): stopping politely would mean more writes after another host may have begun its own.
"""

import logging
import threading
from collections.abc import Callable
from functools import partial

from vdsm_mp.api.errors_storage import (
    DomainNotInPool,
    DomainVersionTooNew,
    HostIdNotReleased,
    IsSpm,
    LockNotInspected,
    NotSpm,
    PoolNotConnected,
    WrongMaster,
)
from vdsm_mp.api.ports import Background
from vdsm_mp.api.spm import SpmStatus
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import Role
from vdsm_mp.storage.domain_metadata import DomainMetadata, decode_pool, with_pool_role
from vdsm_mp.storage.locks import ClusterLock, Locks
from vdsm_mp.storage.mailbox import Mailbox, Mailboxes
from vdsm_mp.storage.pool import Pools, check_is_master
from vdsm_mp.storage.pool_state import PoolState
from vdsm_mp.storage.pool_upgrade import Upgrades
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.spm_role import Role as SpmRole
from vdsm_mp.storage.spm_role import SpmState
from vdsm_mp.tasks.registry import Tasks
from vdsm_mp.tasks.run import TaskRun
from vdsm_mp.tasks.store import TaskStore

_log = logging.getLogger("storage.spm")

WATCHDOG_S = 20.0
#: sanlock may not answer for a moment; not for longer than this many looks.
_UNKNOWN_LOOKS = 3
TASKS_PATH = "master/tasks"
#: Hosts whose mailboxes are read, as long as nobody says how many there are.
_HOSTS = 250
#: For a client that waits for the id of a task.
_CLAIM_S = 50.0


def _of_master(pool: PoolState, master: FileDomain) -> DomainMetadata:
    """Who missed that the master has moved knows nothing of the role. Told 309, an engine connects again with the
    master that it knows; if that is the old one it hears 324, and rebuilds the master.

    Raises: PoolNotConnected, storage errors.
    """
    meta = master.refresh()
    try:
        check_is_master(meta, pool.pool_id)
    except WrongMaster as e:
        raise PoolNotConnected(pool.pool_id, f"{e.reason}: connect again") from e
    return meta


class Spm:
    """The role. Verbs that begin or end it have a claim on the pool; ends that cannot wait for one have not."""

    def __init__(
        self,
        pools: Pools,
        locks: Locks,
        tasks: Tasks,
        upgrades: Upgrades,
        mailboxes: Mailboxes,
        resources: Resources,
        background: Background,
        panic: Callable[[str], None],
    ) -> None:
        """panic: end this process now, saying why."""
        self._pools = pools
        self._locks = locks
        self._tasks = tasks
        self._upgrades = upgrades
        self._mailboxes = mailboxes
        self._resources = resources
        pools.on_other_master.append(lambda: self.stop_now("another domain is master"))
        self._mailbox: Mailbox | None = None
        self._hosts = _HOSTS
        #: Called in the background with the pool once the role is ours.
        self.after_start: Callable[[PoolState], None] | None = None
        self._background = background
        self._panic = panic
        self._role = SpmRole()
        self._lver = -1
        #: Ends the watch over the lease.
        self._given_up = threading.Event()
        self._unknown = 0

    @property
    def state(self) -> SpmState:
        """As clients read it."""
        return self._role.state

    @property
    def ours(self) -> bool:
        """Something of the role may begin."""
        return self._role.ours

    def require(self, pool_id: str) -> PoolState:
        """For verbs of the SPM. Raises: PoolNotConnected (309), NotSpm (654)."""
        state = self._pools.require(pool_id)
        if not self._role.ours:
            raise NotSpm(pool_id, "this host is not SPM")
        return state

    def require_any(self) -> PoolState:
        """For verbs that name no pool. Raises: NotSpm (654)."""
        state = self._pools.state
        if state is None or not self._role.ours:
            raise NotSpm(state.pool_id if state else "-", "this host is not SPM")
        return state

    def require_member(self, sd_id: str) -> PoolState:
        """For work of the SPM that has waited: the domain may have been detached, and be another pool's, by now.

        Raises: NotSpm (654), DomainNotInPool (353).
        """
        state = self.require_any()
        if sd_id not in state.domains:
            raise DomainNotInPool(sd_id, f"it is not attached to pool {state.pool_id} any more")
        return state

    def refuse_if_spm(self, pool_id: str) -> None:
        """Nor does it become SPM while the caller has its claim on the pool. Raises: IsSpm (656)."""
        if self._role.state is not SpmState.FREE:
            raise IsSpm(pool_id, f"this host is {self._role.state.value}")

    def status(self, pool_id: str) -> SpmStatus:
        """StoragePool.getSpmStatus. Raises: PoolNotConnected, also when the master has moved without this host."""
        pool = self._pools.require(pool_id)
        lver, spm_id = self._facts(pool)
        return SpmStatus(status=self.state.value, lver=lver, spm_id=spm_id)

    def _facts(self, pool: PoolState) -> tuple[int, int]:
        """(lver, host id) of whoever has the role; -1 when nobody, or when it cannot be told."""
        lver = self._lver  # before the state, after which it goes
        if self.state is SpmState.SPM:
            return lver, pool.host_id
        master = self._pools.master(pool)
        if not pool.memory:
            disk = decode_pool(master.sd_id, _of_master(pool, master).pairs)
            return disk.lver, disk.spm_id
        try:
            _of_master(pool, master)
        except PoolNotConnected:
            raise
        except Error as e:
            _log.warning("%s", e)
            return -1, -1
        lock = self._locks.of(master)
        try:
            owner = lock.inspect(lock.sdm)
        except LockNotInspected as e:
            _log.warning("%s", e)
            return -1, -1
        return (owner.version, owner.host_id) if owner.host_id is not None else (-1, -1)

    # --- taking it

    def start(self, pool_id: str, max_version: int | None, hosts: int | None = None) -> str:
        """Begin to become SPM; the id of the task that does it. hosts: with a mailbox each, by their highest id.

        Raises: PoolNotConnected, IsSpm (656).
        """
        self._pools.require(pool_id)
        self.refuse_if_spm(pool_id)  # before the wait for the claim, which whoever has the role may hold for long
        with self._resources.claim("StoragePool.spmStart", exclusive=(("pool", pool_id),), within_s=_CLAIM_S):
            self._pools.require(pool_id)
            self._role.contend(pool_id)
            times = self._role.times
            try:
                return self._tasks.start(
                    "spmStart",
                    lambda run: self._contend(run, pool_id, max_version, hosts or _HOSTS),
                    spm=False,
                    key=f"spm {pool_id}",
                    on_failure=lambda: self._never_begun(times),
                )
            except Error:
                self._role.ended()
                raise

    def _never_begun(self, times: int) -> None:
        """Its task was stopped before its turn; one that had it has given the role up by now."""
        with self._role.still():
            if self._role.times == times and self._role.begin_failure():
                self._role.ended()

    def _contend(self, run: TaskRun, pool_id: str, max_version: int | None, hosts: int) -> None:
        seat: tuple[PoolState, ClusterLock] | None = None
        lease: ClusterLock | None = None
        try:
            pool = self._pools.require(pool_id)
            master = self._pools.master(pool)
            version = master.refresh().version
            if max_version is not None and version > max_version:
                raise DomainVersionTooNew(master.sd_id, f"it has version {version}, the pool {max_version}")
            lock = self._locks.of(master)
            seat = pool, lock
            lock.wait_host_id(pool.host_id, wanted=partial(self._pools.watches, master.sd_id))
            run.check()
            lock.acquire(lock.sdm, pool.host_id)
            lease = lock
            with self._resources.claim("StoragePool.spmStart", exclusive=(("pool", pool_id),)):
                self._refuse_if_moved(pool)
                # Another host may have moved it before we had its lease, which that takes; then its SPM is there.
                check_is_master(master.refresh(), pool_id)
                self._begin(pool, master, lock, max_version, hosts)
            _log.info("pool %s: this host is SPM (lver %d)", pool_id, self._lver)
            if self.after_start is not None:
                self.after_start(pool)
        except Exception:
            self._contended_in_vain(lease)
            if seat is not None:
                self._leave_if_unwatched(*seat)
            raise

    def _contended_in_vain(self, lease: ClusterLock | None) -> None:
        if not self._role.begin_failure():
            return  # somebody else has given it up
        if lease is None:
            self._role.ended()
        else:
            self._give_back(lease)

    def _leave_if_unwatched(self, pool: PoolState, lock: ClusterLock) -> None:
        """The pool may have been left meanwhile, and nobody else would give the host id back."""
        if self._background.draining or self._pools.watches(pool.master_sd_id):
            return
        try:
            lock.release_host_id(pool.host_id)
        except HostIdNotReleased as e:
            _log.warning("%s", e)

    def _refuse_if_moved(self, pool: PoolState) -> None:
        """The lease is that of a master which an engine may have changed while we waited for it."""
        now = self._pools.require(pool.pool_id)
        if now.master_sd_id != pool.master_sd_id:
            raise WrongMaster(pool.pool_id, f"its master is {now.master_sd_id} meanwhile")

    def _begin(
        self, pool: PoolState, master: FileDomain, lock: ClusterLock, max_version: int | None, hosts: int
    ) -> None:
        self._lver = lock.inspect(lock.sdm).version
        if not pool.memory:
            self._lver = decode_pool(master.sd_id, master.meta.pairs).lver + 1
            master.change(lambda meta: with_pool_role(meta, pool.host_id, self._lver))
        if max_version is not None:
            self._upgrades.now_or_later(master, pool, max_version)
        master.make_master_tree()
        if not master.meta.kind.is_local:
            master.make_mailboxes()
        self._tasks.take_over(TaskStore(master.io, TASKS_PATH, store=master.io.path_of(TASKS_PATH)))
        with self._role.still():  # who ends it comes before all this, or after
            self._role.win()
            self._unknown = 0
            self._hosts = hosts
            self._open_mailbox(master)
            self._begin_watch()
            self._tasks.recover()
            if max_version is not None:
                self._upgrades.begin(pool, max_version)

    def follow_master(self, master: FileDomain) -> None:
        """The master has moved there, and the lease of the old one is still ours. Hosts are answered in its mailbox."""
        with self._role.still():
            if self._role.ours:
                self._close_mailbox()
                self._open_mailbox(master)

    def _open_mailbox(self, master: FileDomain) -> None:
        """A local domain has one host, which asks nobody."""
        if not master.meta.kind.is_local:
            self._mailbox = self._mailboxes.open(self._hosts)

    def _close_mailbox(self) -> None:
        mailbox, self._mailbox = self._mailbox, None
        if mailbox is not None and not mailbox.stop():
            self._panic("a write of the mailbox hangs; it must not come after another host's")

    # --- giving it up

    def stop(self, pool_id: str) -> None:
        """Give the role up. Raises: PoolNotConnected, NotSpm, TaskInProgress (406); the role stays then."""
        pool = self.require(pool_id)
        if not self._role.begin_end("it is given up"):
            raise NotSpm(pool_id, "this host is not SPM any more")
        try:
            self._tasks.refuse_while_uncleared()
            master = self._pools.master(pool)
            self._sign_off(pool, master)
        except BaseException:
            self._role.stays()
            raise
        self._end(pool, master)

    def stop_now(self, reason: str) -> None:
        """Give the role up whatever runs (fencing, end of the worker); tasks on storage are the next SPM's.

        Not being SPM is fine; never raises. A master that cannot be written goes on saying that this host has the role,
        as after a death; the lease is what decides.
        """
        if not self._role.begin_end(reason):
            return
        pool = self._pools.state
        assert pool is not None  # nobody leaves a pool as its SPM
        _log.warning("pool %s: the SPM role is given up: %s", pool.pool_id, reason)
        try:
            master = self._pools.master(pool)
            try:
                self._sign_off(pool, master)
            except Error as e:
                _log.error("pool %s: its master goes on saying that this host is SPM: %s", pool.pool_id, e)
            self._end(pool, master)
        except Error as e:
            self._panic(f"the SPM role could not be given up cleanly: {e}")

    def _sign_off(self, pool: PoolState, master: FileDomain) -> None:
        """Raises: storage errors."""
        if not pool.memory:
            # A pool that is destroyed has no keys there any more.
            master.change(lambda meta: with_pool_role(meta, -1, self._lver) if meta.role is Role.MASTER else meta)

    def _end(self, pool: PoolState, master: FileDomain) -> None:
        self._give_back(self._locks.of(master))
        _log.info("pool %s: this host is not SPM any more", pool.pool_id)

    def _give_back(self, lock: ClusterLock) -> None:
        self._given_up.set()
        self._upgrades.cancel()
        self._close_mailbox()
        if not self._tasks.let_go():
            self._panic("work of the SPM role goes on; it must not be written after another host's")
        try:
            lock.release(lock.sdm)
        finally:
            self._role.ended()  # not before: who takes it anew would be told that the lease is ours already
            self._lver = -1

    # --- keeping it

    def _begin_watch(self) -> None:
        """In a thread of its own: work that fills the background, or hangs in it, must not put this off."""
        times, self._given_up = self._role.times, threading.Event()
        given_up = self._given_up
        threading.Thread(target=lambda: self._watch(times, given_up), daemon=True, name="spm-lease").start()

    def _watch(self, times: int, given_up: threading.Event) -> None:
        """Goes on while the role ends: that may be refused."""
        try:
            while not given_up.wait(WATCHDOG_S):
                self._look(times)
        finally:
            if not given_up.is_set():
                self._panic("the SPM lease is watched no more")

    def _look(self, times: int) -> None:
        pool = self._pools.state
        if not self._is_still(times) or pool is None:
            return
        try:
            lock = self._locks.of(self._pools.master(pool))
            held = lock.holds(lock.sdm)
        except Error as e:
            self._unknown += 1
            _log.warning("whether the SPM lease is ours cannot be told (%d): %s", self._unknown, e)
            if self._unknown >= _UNKNOWN_LOOKS and self._is_still(times):
                self._panic("whether the SPM lease is ours cannot be told")
        else:
            self._unknown = 0
            # Given up meanwhile, it is gone for a reason.
            if not held and self._is_still(times):
                self._panic(f"the SPM lease of domain {pool.master_sd_id} is lost")

    def _is_still(self, times: int) -> bool:
        return self._role.ours and self._role.times == times and not self._background.draining
