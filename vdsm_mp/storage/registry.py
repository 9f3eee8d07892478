# SPDX-License-Identifier: Apache-2.0
"""The storage domains this host can see: looked up by id below the connected roots, one `FileDomain` and one I/O
child for each. Handed to whoever needs it; keeps no opinion about their health (that is `monitor.py`).

A domain that is on several roots stays on the one where it is used, as long as it is there. Used nowhere yet, it is
taken from any when all are the same directory (a server by two names), else from none: one is a copy, of a snapshot of
the storage maybe, what was written there would be lost, and no lock of it keep other hosts off.
"""

import itertools
import logging
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from vdsm_mp.api.errors_storage import DomainNotFound, DomainTwice, StaleHandle, StorageFileMissing
from vdsm_mp.api.ports import Children
from vdsm_mp.common.errors import Error
from vdsm_mp.storage.connections import Connections
from vdsm_mp.storage.domain_file import FileDomain, domains_on
from vdsm_mp.storage.domain_io import DomainIO

_log = logging.getLogger("storage.registry")

#: A mount that does not list its domains by then holds up the lookup no longer.
SCAN_DEADLINE_S = 10.0


class Domains:
    """{sd_id: FileDomain}, filled by lookups. Thread-safe."""

    def __init__(self, connections: Connections, children: Children) -> None:
        self._connections = connections
        self._children = children
        self._lock = threading.Lock()
        self._scanning = threading.Lock()
        self._mount_names = itertools.count(1)
        #: {sd_id: the root it is used on}
        self._roots: dict[str, str] = {}
        #: {sd_id: {root where it was seen: inode of its `dom_md` there}}
        self._seen: dict[str, dict[str, int]] = {}
        self._domains: dict[str, FileDomain] = {}

    def find(self, sd_id: str, *, deadline_s: float | None = None) -> FileDomain:
        """The domain, read from storage when it was not known (within deadline_s, when one is given).

        Raises: DomainNotFound (on no connected storage), DomainTwice, DomainMetadataInvalid, DomainSealBroken, storage
        errors.
        """
        domain = self._domains.get(sd_id)
        if domain is not None:
            return domain
        root = self._root_of(sd_id)
        with self._lock:
            domain = self._domains.get(sd_id)
            if domain is None:
                domain = FileDomain(sd_id, DomainIO(self._children, sd_id, root, sd_id))
                self._domains[sd_id] = domain
        try:
            domain.refresh(deadline_s=deadline_s)
        except Error:
            self.forget(sd_id)
            raise
        return domain

    def known(self, sd_id: str) -> FileDomain | None:
        """From memory; None when it was not looked up yet."""
        return self._domains.get(sd_id)

    def path_if_known(self, sd_id: str) -> str | None:
        """Where a domain is, if a lookup or a scan has seen it."""
        root = self._roots.get(sd_id)
        return f"{root}/{sd_id}" if root else None

    def all_known(self) -> list[FileDomain]:
        return list(self._domains.values())

    def forget(self, sd_id: str) -> None:
        """Drop what is known and end the child; the next `find` looks again."""
        with self._lock:
            domain = self._domains.pop(sd_id, None)
            self._roots.pop(sd_id, None)
            self._seen.pop(sd_id, None)
        if domain is not None:
            domain.io.close()

    def look_elsewhere(self, sd_id: str) -> None:
        """It is not where it was: when other connected storage has it, the next `find` goes there.

        Else all stay with it, the tasks of an SPM too: its child goes by the name, and goes on when that is back.
        """
        if sd_id not in self._domains:  # nothing stays with it, and the next `find` looks itself
            return
        was = self._roots.get(sd_id)
        with self._scanning:
            self.scan()
        if self._roots.get(sd_id) != was:
            self.forget(sd_id)

    def forget_root(self, root: str) -> None:
        """Everything below a root that is about to be unmounted."""
        for sd_id in self.on_root(root):
            self.forget(sd_id)
        with self._lock:
            self._gone_from(root, keep=())

    def on_root(self, root: str) -> list[str]:
        """Ids of the domains that are used, or would be, below a root."""
        return [sd_id for sd_id, where in list(self._roots.items()) if where == root]

    def learn(self, sd_id: str, root: str) -> None:
        """A domain has just been made there."""
        with self._lock:
            self._roots[sd_id] = root
            self._seen[sd_id] = {root: 0}

    def learn_root(self, root: str) -> list[str]:
        """Look which domains a root has. Raises: storage errors."""
        try:
            with self.mount_io(root, deadline_s=SCAN_DEADLINE_S) as io:
                found = domains_on(io)
        except (StaleHandle, StorageFileMissing):
            with self._lock:
                self._gone_from(root, keep=())
            raise
        with self._lock:
            self._gone_from(root, keep=found)
            for sd_id, inode in found.items():
                self._seen.setdefault(sd_id, {})[root] = inode
                self._choose(sd_id)
        return list(found)

    def _gone_from(self, root: str, *, keep: Collection[str]) -> None:
        """Under the lock. Seen nowhere else, it stays where it was: it may come back there."""
        for sd_id, places in list(self._seen.items()):
            if sd_id not in keep and places.pop(root, None) is not None and places:
                self._choose(sd_id)

    def _choose(self, sd_id: str) -> None:
        """Under the lock."""
        places, now = self._seen[sd_id], self._roots.get(sd_id)
        if now in places and (sd_id in self._domains or len(set(places.values())) == 1):
            if len(places) > 1:
                _log.warning("domain %s is used on %s, and is on %s, too", sd_id, now, sorted(places.keys() - {now}))
            return
        chosen = min(places) if len(set(places.values())) == 1 else self._linked(sd_id, places)
        if chosen is not None:
            self._roots[sd_id] = chosen
        else:
            self._roots.pop(sd_id, None)

    def _linked(self, sd_id: str, places: Mapping[str, int]) -> str | None:
        """Where the pool's link says that it was used, before this worker began."""
        for link in Path(self._connections.mnt_dir).parent.glob(f"*/{sd_id}"):
            if link.is_symlink():
                target = os.readlink(link)  # noqa: PTH115 -- the link, not what it names
                return next((root for root in places if target == f"{root}/{sd_id}"), None)
        return None

    def scan(self) -> list[str]:
        """Ids of all domains on connected storage; a root that does not answer is left out and logged."""
        roots = list(self._connections.roots())
        if len(roots) <= 1:
            found = [self._learn_or_log(root) for root in roots]
        else:
            with ThreadPoolExecutor(min(32, len(roots)), thread_name_prefix="scan") as pool:
                found = list(pool.map(self._learn_or_log, roots))
        return sorted({sd_id for ids in found for sd_id in ids})

    def drop_all(self) -> None:
        for sd_id in list(self._domains):
            self.forget(sd_id)

    @contextmanager
    def mount_io(self, root: str, *, deadline_s: float = 60.0) -> Iterator[DomainIO]:
        """A child on the mount point itself, for creating and destroying domains; ends with the block."""
        # Numbered: a second child of one name would end the first.
        name = f"mount-{next(self._mount_names)}"
        io = DomainIO(self._children, name, root, deadline_s=deadline_s)
        try:
            yield io
        finally:
            io.close()

    @contextmanager
    def unborn(self, sd_id: str, root: str, directory: str) -> Iterator[FileDomain]:
        """A domain that is still being made in `directory`; known to nobody else."""
        io = DomainIO(self._children, f"new-{sd_id}", root, directory)
        try:
            yield FileDomain(sd_id, io)
        finally:
            io.close()

    def root_of(self, sd_id: str) -> str:
        """The root a domain is on. Raises: DomainNotFound."""
        return self._root_of(sd_id)

    def _root_of(self, sd_id: str) -> str:
        if sd_id not in self._roots:
            with self._scanning:  # one scan answers all who wait for one
                if sd_id not in self._roots:
                    self.scan()
        with self._lock:
            root, places = self._roots.get(sd_id), sorted(self._seen.get(sd_id, ()))
        if root is not None:
            return root
        if len(places) > 1:
            raise DomainTwice(sd_id, f"it is on {' and on '.join(places)}, and these differ; disconnect the copy")
        raise DomainNotFound(sd_id)

    def _learn_or_log(self, root: str) -> list[str]:
        try:
            return self.learn_root(root)
        except Error as e:
            _log.warning("domains of %s are not seen: %s", root, e)
            return []
