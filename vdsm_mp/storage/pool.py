# SPDX-License-Identifier: Apache-2.0
"""The storage pool this host is connected to: which domains it has, who is master, and the links that say so.

A host is in one pool at a time. Where the truth is depends on the engine: with `domainDict` it is what the engine
passed with the last connect ("memory"), without it, the pool's keys in the master's metadata ("disk"). What was
passed is also kept in a file of the run directory, so that a restarted worker watches the same domains again before
anybody asks.

Links: REPOSITORY/POOL/SD -> the domain, for each active one, and `mastersd`.
"""

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_storage import (
    ConnectedElsewhere,
    DomainNotFound,
    MasterNotFound,
    PoolIsConnected,
    PoolNotConnected,
    StorageAccessFailed,
    WrongMaster,
)
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.connect_local import replace_link
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import Role
from vdsm_mp.storage.domain_metadata import DomainMetadata, decode_pool, status_word, with_pool
from vdsm_mp.storage.monitors import Monitors
from vdsm_mp.storage.pool_links import sweep_links
from vdsm_mp.storage.pool_state import ACTIVE, PoolState, Wanted
from vdsm_mp.storage.registry import Domains

_log = logging.getLogger("storage.pool")


def check_is_master(meta: DomainMetadata, pool_id: str) -> None:
    """Raises: WrongMaster."""
    if meta.role is not Role.MASTER or pool_id not in meta.pool_ids:
        raise WrongMaster(pool_id, f"domain {meta.sd_id} is {meta.role.value} of pools {meta.pool_ids}")


class Pools:
    """The pool, if any. Changes are serialised by the callers' claim on it; readers take whole records."""

    def __init__(self, repository: str, state_file: str, domains: Domains, monitors: Monitors) -> None:
        self._repository = repository
        self._state_file = Path(state_file)
        self._domains = domains
        self._monitors = monitors
        self._state: PoolState | None = None
        self._linking = threading.Lock()
        #: Called before a connect with another master than until now counts: the lease of the role is on the old one.
        self.on_other_master: list[Callable[[], None]] = []
        monitors.on_verdict.append(self._on_verdict)

    @property
    def state(self) -> PoolState | None:
        return self._state

    def require(self, pool_id: str) -> PoolState:
        """Raises: PoolNotConnected (309)."""
        state = self._state
        if state is None or state.pool_id != pool_id:
            raise PoolNotConnected(pool_id, "this host is not connected to it")
        return state

    def has_left(self, sd_id: str) -> bool:
        """This host is in a pool, and the domain is none of it."""
        state = self._state
        return state is not None and sd_id not in state.domains

    def master(self, state: PoolState) -> FileDomain:
        """Raises: MasterNotFound (304)."""
        try:
            return self._domains.find(state.master_sd_id)
        except DomainNotFound as e:
            raise MasterNotFound(state.pool_id, f"master domain {state.master_sd_id} is not there") from e

    def watches(self, sd_id: str) -> bool:
        """Is it watched, by this pool or somebody else, so that this host keeps its id there?"""
        return self._monitors.watch_of(sd_id) is not None

    # --- joining and leaving

    def connect(self, wanted: Wanted) -> PoolState:
        """Join, or refresh when joined already; monitors of the active domains run when it returns.

        Raises: ConnectedElsewhere, PoolIsConnected (other host id, or back from memory to disk), MasterNotFound,
        WrongMaster, storage errors of the master. Nothing has changed then.
        """
        before = self._state
        if before is not None:
            _check_same(before, wanted)
        state = self._verified(wanted)
        if before is not None and before.master_sd_id != state.master_sd_id:
            for listener in self.on_other_master:
                listener()
        self._become(state)
        return state

    def _verified(self, wanted: Wanted) -> PoolState:
        master = self._find_master(wanted)
        meta = master.refresh()
        check_is_master(meta, wanted.pool_id)
        if wanted.domains is None:
            pool = decode_pool(meta.sd_id, meta.pairs)
            if pool.master_version != wanted.master_version:
                raise WrongMaster(
                    wanted.pool_id, f"master version is {pool.master_version}, not {wanted.master_version}"
                )
            domains = dict(pool.domains or {})
        else:
            domains = {sd_id: word for sd_id, text in wanted.domains.items() if (word := status_word(text))}
            if domains.get(wanted.master_sd_id) != ACTIVE:
                raise WrongMaster(wanted.pool_id, f"master domain {wanted.master_sd_id} is not active in the list")
        return PoolState(
            pool_id=wanted.pool_id,
            host_id=wanted.host_id,
            master_sd_id=wanted.master_sd_id,
            master_version=wanted.master_version,
            domains=domains,
            memory=wanted.domains is not None,
        )

    def _find_master(self, wanted: Wanted) -> FileDomain:
        try:
            return self._domains.find(wanted.master_sd_id)
        except DomainNotFound as e:
            raise MasterNotFound(wanted.pool_id, f"master domain {wanted.master_sd_id} is not there") from e

    def disconnect(self) -> None:
        """Leave: monitors stop, host ids are given back, links go. Not being connected is fine."""
        state, self._state = self._state, None
        if state is None:
            return
        self._forget()
        self._monitors.stop(list(state.domains), release=True)
        self._unlink_all(state.pool_id)

    def restore(self) -> None:
        """After a restart: watch what was watched. Touches no storage; nothing remembered is fine."""
        self._recall()
        sweep_links(self._repository, keep=self._state.pool_id if self._state else "")

    def _recall(self) -> None:
        try:
            state = msgspec.json.decode(self._state_file.read_bytes(), type=PoolState)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as e:
            _log.warning("%s cannot be read, the pool is forgotten: %s", self._state_file, e)
            return
        self._state = state
        self._watch(state)
        _log.info("pool %s: connected as before the restart", state.pool_id)

    # --- changing members (the SPM does that)

    def set_status(self, sd_id: str, status: str | None) -> PoolState:
        """Record a domain as Active, Attached, or (None) not attached any more; in the master too, for "disk".

        Raises: storage errors of the master, StorageAccessFailed (the links; asking again is enough).
        """
        state = self._state
        assert state is not None
        domains = {**state.domains, sd_id: status} if status else {k: v for k, v in state.domains.items() if k != sd_id}
        after = msgspec.structs.replace(state, domains=domains)
        if not state.memory:
            self.master(state).change(lambda meta: _with_domains(meta, domains))
        self._become(after)
        return after

    def replace_state(self, state: PoolState) -> None:
        """The master has moved, on storage: links that cannot be made now follow with the next change or connect."""
        self._become(state, moved=True)

    def _become(self, state: PoolState, *, moved: bool = False) -> None:
        before = self._state
        self._state = state
        try:
            self._link_all(state)
        except Error as e:
            if not moved:
                self._state = before
                raise
            _log.error("pool %s: its links are not those of its new master yet: %s", state.pool_id, e)
        self._remember(state)
        left = [sd for sd, status in (before.domains.items() if before else ()) if status == ACTIVE]
        active = self._watch(state)
        self._monitors.stop([sd for sd in left if sd not in active], release=True)

    def _watch(self, state: PoolState) -> set[str]:
        active = {sd_id for sd_id, status in state.domains.items() if status == ACTIVE}
        for sd_id in sorted(active):
            self._monitors.start(sd_id, state.host_id)
        return active

    def _remember(self, state: PoolState) -> None:
        aside = self._state_file.with_suffix(".new")
        try:
            aside.write_bytes(msgspec.json.encode(state))
            aside.rename(self._state_file)
        except OSError as e:
            _log.warning("the pool is not remembered over a restart: %s", e)

    def _forget(self) -> None:
        try:
            self._state_file.unlink(missing_ok=True)
        except OSError as e:  # what is watched, and held on storage, is let go all the same
            _log.error("the pool is left, and would be connected again by a restart: %s", e)

    # --- links

    def _link_all(self, state: PoolState) -> None:
        directory = f"{self._repository}/{state.pool_id}"
        try:
            with self._linking:
                self._make_links(directory, state)
        except OSError as e:
            raise StorageAccessFailed(directory, "link", e.errno or 0, e.strerror or str(e)) from e

    def _make_links(self, directory: str, state: PoolState) -> None:
        Path(directory).mkdir(parents=True, exist_ok=True)
        wanted = self._targets(state)
        for name in os.listdir(directory):
            if name not in wanted and name not in state.domains and name != "mastersd":
                Path(f"{directory}/{name}").unlink()
        for sd_id, status in state.domains.items():
            if status != ACTIVE:
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{directory}/{sd_id}").unlink()
        for name, target in wanted.items():
            self._link(f"{directory}/{name}", target)

    def _targets(self, state: PoolState) -> dict[str, str]:
        """{link name: domain path} of what is known to be there; the rest is linked when its monitor sees it."""
        targets = {}
        for sd_id, status in state.domains.items():
            if status == ACTIVE and (path := self._domains.path_if_known(sd_id)):
                targets[sd_id] = path
        if state.master_sd_id in targets:
            targets["mastersd"] = targets[state.master_sd_id]
        return targets

    def _link(self, link: str, target: str) -> None:
        try:
            if os.readlink(link) == target:  # noqa: PTH115 -- the link, not what it names
                return
        except FileNotFoundError:
            pass
        replace_link(target, link, self._repository)

    def _unlink_all(self, pool_id: str) -> None:
        shutil.rmtree(f"{self._repository}/{pool_id}", ignore_errors=True)

    def _on_verdict(self, sd_id: str, valid: bool) -> None:
        try:
            with self._linking:  # and only then look at the state: links always follow the newest
                self._link_one(sd_id, valid)
        except (Error, OSError) as e:
            _log.warning("domain %s is not linked: %s", sd_id, e)

    def _link_one(self, sd_id: str, valid: bool) -> None:
        state = self._state
        if not valid or state is None or state.domains.get(sd_id) != ACTIVE:
            return
        for name, target in self._targets(state).items():
            if name in (sd_id, "mastersd"):
                self._link(f"{self._repository}/{state.pool_id}/{name}", target)


def _check_same(before: PoolState, wanted: Wanted) -> None:
    if before.pool_id != wanted.pool_id:
        raise ConnectedElsewhere(wanted.pool_id, f"this host is connected to pool {before.pool_id}")
    if before.host_id != wanted.host_id:
        raise PoolIsConnected(wanted.pool_id, f"this host is in it with host id {before.host_id}")
    if before.memory and wanted.domains is None:
        raise PoolIsConnected(wanted.pool_id, "the engine keeps its domains; disconnect first")


def _with_domains(meta: DomainMetadata, domains: Mapping[str, str]) -> DomainMetadata:
    return with_pool(meta, replace(decode_pool(meta.sd_id, meta.pairs), domains=domains))
