# SPDX-License-Identifier: Apache-2.0
"""The storage domains this host can see: looked up by id below the connected roots, one `FileDomain` and one I/O
child for each. Handed to whoever needs it; keeps no opinion about their health (that is `monitor.py`).
"""

import itertools
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from vdsm_mp.api.errors_storage import DomainNotFound
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
        self._roots: dict[str, str] = {}
        self._domains: dict[str, FileDomain] = {}

    def find(self, sd_id: str, *, deadline_s: float | None = None) -> FileDomain:
        """The domain, read from storage when it was not known (within deadline_s, when one is given).

        Raises: DomainNotFound (on no connected storage), DomainMetadataInvalid, DomainSealBroken, storage errors.
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

    def on_root(self, root: str) -> list[str]:
        """Ids of the domains seen below a root."""
        return [sd_id for sd_id, where in list(self._roots.items()) if where == root]

    def learn(self, sd_id: str, root: str) -> None:
        """A domain has just been made there."""
        with self._lock:
            self._roots[sd_id] = root

    def learn_root(self, root: str) -> list[str]:
        """Look which domains a root has. Raises: storage errors."""
        with self.mount_io(root, deadline_s=SCAN_DEADLINE_S) as io:
            found = domains_on(io)
        with self._lock:
            self._roots.update(dict.fromkeys(found, root))
        return found

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
        try:
            return self._roots[sd_id]
        except KeyError:
            raise DomainNotFound(sd_id) from None

    def _learn_or_log(self, root: str) -> list[str]:
        try:
            return self.learn_root(root)
        except Error as e:
            _log.warning("domains of %s are not seen: %s", root, e)
            return []
