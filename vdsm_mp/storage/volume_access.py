# SPDX-License-Identifier: Apache-2.0
"""How a verb about volumes gets at what it names: role, pool, domain, claims. Composed once, handed to the handlers."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from vdsm_mp.api.errors_storage import DomainClassWrong, DomainNotInPool
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import DomainClass
from vdsm_mp.storage.image_prepare import RunLinks
from vdsm_mp.storage.image_remnants import Remnants
from vdsm_mp.storage.locks import ClusterLock, Locks
from vdsm_mp.storage.pool import Pools
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.sanlock import SanlockLock
from vdsm_mp.storage.spm import Spm
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.tasks.registry import Tasks


class Volumes(msgspec.Struct, frozen=True):
    """The volume side of the room. links: what is prepared on this host."""

    domains: Domains
    locks: Locks
    pools: Pools
    spm: Spm
    tasks: Tasks
    resources: Resources
    links: RunLinks
    remnants: Remnants

    def of_spm(self, pool_id: str, sd_id: str) -> FileDomain:
        """For verbs that only the SPM may serve; they are about volumes, of which an ISO domain has none.

        Raises: PoolNotConnected, NotSpm, DomainNotInPool, DomainNotFound, DomainClassWrong.
        """
        state = self.spm.require(pool_id)
        if sd_id not in state.domains:
            raise DomainNotInPool(sd_id, f"it is not attached to pool {pool_id}")
        domain = self.domains.find(sd_id)
        if domain.meta.cls is DomainClass.ISO:
            raise DomainClassWrong(sd_id, "an ISO domain has no volumes")
        return domain

    def require_member(self, sd_id: str) -> None:
        """For work of the SPM whose turn has come: the domain may have been detached, and be another pool's, by now.

        While the work has its claim on the domain it stays. Raises: NotSpm, DomainNotInPool.
        """
        self.spm.require_member(sd_id)

    def of_host(self, pool_id: str, sd_id: str) -> FileDomain:
        """For verbs that any host of the pool serves; with a blank pool, any host. Raises: PoolNotConnected, …"""
        if pool_id != BLANK:
            self.pools.require(pool_id)
        return self.domains.find(sd_id)

    def lock_of(self, domain: FileDomain) -> ClusterLock:
        return self.locks.of(domain)

    def leases_of(self, domain: FileDomain) -> SanlockLock | None:
        """Who writes and holds volume leases; None on a domain whose volumes have none."""
        lock = self.locks.of(domain)
        return lock if domain.format.volume_leases and isinstance(lock, SanlockLock) else None

    @contextmanager
    def changing(
        self,
        holder: str,
        domain: FileDomain,
        *image_ids: str,
        within_s: float = 120.0,
        progress: Progress | None = None,
    ) -> Iterator[None]:
        """Hold images exclusively and the domain shared. For work of any host; progress: as `Resources.claim`.

        Raises: what that raises.
        """
        names = tuple(("image", domain.sd_id, image_id) for image_id in image_ids)
        shared = (("domain", domain.sd_id),)
        with self.resources.claim(holder, shared=shared, exclusive=names, within_s=within_s, progress=progress):
            yield

    @contextmanager
    def changing_as_spm(
        self,
        holder: str,
        domain: FileDomain,
        *image_ids: str,
        within_s: float = 120.0,
        progress: Progress | None = None,
    ) -> Iterator[None]:
        """As `changing`, for work of the SPM role, task or not: the role does not end while it goes on.

        Raises: as `changing`; NotSpm, DomainNotInPool (while it waited).
        """
        with (
            self.changing(holder, domain, *image_ids, within_s=within_s, progress=progress),
            self.tasks.at_work(),
        ):
            self.require_member(domain.sd_id)
            yield

    @contextmanager
    def using(self, holder: str, domain: FileDomain, *image_ids: str, within_s: float = 60.0) -> Iterator[None]:
        """Hold images and the domain shared. Raises: ClaimTimedOut."""
        names = tuple(("image", domain.sd_id, image_id) for image_id in image_ids)
        with self.resources.claim(holder, shared=(("domain", domain.sd_id), *names), within_s=within_s):
            yield

    @contextmanager
    def preparing(self, domain: FileDomain, image_id: str) -> Iterator[None]:
        """Hold an image shared, but prepare it one at a time: that may correct its metadata. Raises: ClaimTimedOut."""
        with self.resources.claim(
            f"prepareImage {image_id}",
            shared=(("domain", domain.sd_id), ("image", domain.sd_id, image_id)),
            exclusive=(("prepare", domain.sd_id, image_id),),
            within_s=60,
        ):
            yield

    @contextmanager
    def copying(
        self, holder: str, source: tuple[FileDomain, str], target: tuple[FileDomain, str], progress: Progress
    ) -> Iterator[None]:
        """Hold one image shared and another exclusively; (domain, image id) each. Raises: as `changing_as_spm`."""
        shared = (
            ("domain", source[0].sd_id),
            ("domain", target[0].sd_id),
            ("image", source[0].sd_id, source[1]),
        )
        exclusive = (("image", target[0].sd_id, target[1]),)
        with self.resources.claim(holder, shared=shared, exclusive=exclusive, progress=progress):
            for domain, _ in (source, target):
                self.require_member(domain.sd_id)
            yield


def key_of(image_id: str) -> str:
    """Background work on one image runs in order."""
    return f"image {image_id}"
