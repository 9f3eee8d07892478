# SPDX-License-Identifier: Apache-2.0
"""How the steps of storage tasks are undone: recoveries by VDSM's names, made here and run here.

What another SPM of the pool stored is run by this one and the other way round, so a name means what it means to VDSM.
Every function may find its step not begun, half done, done, or undone before: all four are fine. Paths in parameters
are those of the host that wrote them; only their end (`SD/images/IMAGE/VOLUME`) is believed.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from msgspec.structs import replace

from vdsm_mp.api.errors_storage import StorageFileExists, StorageFileMissing
from vdsm_mp.api.errors_task import RecoveryInvalid
from vdsm_mp.api.errors_volume import ImageDoesNotExist, VolumeDoesNotExist, VolumeHasChildren
from vdsm_mp.api.types import UUID_PATTERN
from vdsm_mp.common.errors import Error
from vdsm_mp.storage import lease_undo
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.image_delete import remove_remnant, take_away
from vdsm_mp.storage.locks import Locks
from vdsm_mp.storage.registry import Domains
from vdsm_mp.storage.resources import Resources
from vdsm_mp.storage.volume_change import settle_size
from vdsm_mp.storage.volume_file import (
    LEASE,
    META,
    image_path,
    read_image,
    recheck_leaf,
    unlink_volume,
    volume_path,
)
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.tasks.record import FINISH, FINISHING, Recovery
from vdsm_mp.tasks.undoing import unknown_recovery

_log = logging.getLogger("storage.undo")

_ID = re.compile(UUID_PATTERN)
#: How the name of `source_to_go` begins; behind it the image's id, inode and time, and whether it is wiped.
_MOVED = f"{FINISHING}move "


# --- made


def image_created(domain: FileDomain, image_id: str) -> Recovery:
    """The image's directory is there because of this task."""
    where = domain.io.path_of(image_path(image_id))
    return Recovery(f"create image rollback: {image_id}", "sd", "StorageDomain", "create_image_rollback", (where,))


def volume_shared(domain: FileDomain, image_id: str, volume_id: str) -> Recovery:
    where = domain.io.path_of(volume_path(image_id, volume_id))
    return _of_file(f"share volume rollback: {where}", "shareVolumeRollback", where)


def volume_half_made(domain: FileDomain, image_id: str, volume_id: str, *, one_of_many: bool = False) -> Recovery:
    """Its file. one_of_many: names must be unique in a task."""
    where = domain.io.path_of(volume_path(image_id, volume_id))
    name = "Halfbaked volume rollback" + (f": {volume_id}" if one_of_many else "")
    return _of_file(name, "halfbakedVolumeRollback", domain.sd_id, volume_id, where)


def metadata_made(domain: FileDomain, image_id: str, volume_id: str, *, one_of_many: bool = False) -> Recovery:
    where = domain.io.path_of(volume_path(image_id, volume_id))
    name = "Create volume metadata rollback" + (f": {volume_id}" if one_of_many else "")
    return _of_file(name, "createVolumeMetadataRollback", where)


def parent_made_internal(domain: FileDomain, image_id: str, parent_id: str) -> Recovery:
    return Recovery(
        f"parent volume rollback: {parent_id}",
        "volume",
        "Volume",
        "parentVolumeRollback",
        (domain.sd_id, image_id, parent_id),
    )


def size_changed(domain: FileDomain, image_id: str, volume_id: str) -> Recovery:
    """A volume may have grown without its metadata."""
    return Recovery(
        f"extend size finalize: {volume_id}",
        "volume",
        "Volume",
        "extendSizeFinalize",
        (domain.sd_id, image_id, volume_id),
    )


def volume_created(domain: FileDomain, image_id: str, volume_id: str) -> Recovery:
    """The whole volume: what a finished creation leaves to be reverted."""
    where = domain.io.path_of(image_path(image_id))
    repository = domain.io.root.rpartition("/")[0]
    return _of_file(
        "Create volume rollback", "createVolumeRollback", repository, domain.sd_id, image_id, volume_id, where
    )


def source_to_go(source: FileDomain, target: FileDomain, image_id: str, *, wipe: bool) -> Recovery:
    """Of a finished move: the image leaves the domain it came from.

    The directory is written down as it is now: whatever else is in its place later stays. To VDSM it is a mark: of a
    task that is done it runs recoveries only to revert it, and then neither image may go. So after a VDSM has taken
    over the image stays on both domains. Raises: storage errors.
    """
    found = source.io.stat(image_path(image_id))
    how = "wipe" if wipe else "keep"
    name = f"{_MOVED}{image_id} {found.inode} {found.modified_at!r} {how}"
    return Recovery(name, *lease_undo.MARK, (source.sd_id, image_id, target.sd_id))


def _of_file(name: str, function: str, *params: str) -> Recovery:
    return Recovery(name, "fileVolume", "FileVolume", function, params)


# --- run


class _DomainLeft(Exception):
    """It was detached, or formatted, and may be another pool's."""


class Undoing:
    """Runs recoveries; an `Undo` of `tasks.registry`."""

    def __init__(
        self, domains: Domains, resources: Resources, locks: Locks, left: Callable[[str], bool] = lambda sd_id: False
    ) -> None:
        """left: is this domain none of our pool's any more? Nothing in it is ours to undo then."""
        self._domains = domains
        self._left = left
        self._resources = resources
        self._locks = locks
        #: Called with a domain on which a removal failed: something may be left of it.
        self.on_left: Callable[[str], None] | None = None
        volume: dict[str, Callable[[Recovery], None]] = {
            "startCreateVolumeRollback": self._mark,
            "killProcRollback": self._nothing,
            "halfbakedVolumeRollback": self._half_made,
            "createVolumeMetadataRollback": self._metadata,
            "createVolumeRollback": self._created,
            "shareVolumeRollback": self._shared,
            "parentVolumeRollback": self._parent,
            "extendSizeFinalize": self._extended,
            "renameVolumeRollback": self._renamed,
        }
        self._table: dict[tuple[str, str, str], Callable[[Recovery], None]] = {
            (module, owner, name): function
            for module, owner in (
                ("fileVolume", "FileVolume"),
                ("glusterVolume", "GlusterVolume"),
                ("volume", "Volume"),
            )
            for name, function in volume.items()
        }
        self._table["sd", "StorageDomain", "create_image_rollback"] = self._image
        self._table["image", FINISH, "removeSource"] = self._source_of_before
        self._table[lease_undo.MODULE, lease_undo.OWNER, lease_undo.FUNCTION] = self._lease

    def __call__(self, recovery: Recovery, task_id: str) -> None:
        """Raises: RecoveryInvalid (not known here), DomainNotFound, ClaimTimedOut, storage errors."""
        function = self._table.get((recovery.module, recovery.owner, recovery.function))
        if function is None:
            raise unknown_recovery(recovery)
        _log.info("task %s: %s %s", task_id, recovery.name, ",".join(recovery.params))
        try:
            function(recovery)
        except _DomainLeft as left:
            _log.warning("task %s: domain %s is none of the pool any more; %s", task_id, left, recovery.name)

    def _nothing(self, recovery: Recovery) -> None:
        """About a process that died with its worker."""

    def _mark(self, recovery: Recovery) -> None:
        """VDSM's does nothing, ours say by their names what they are."""
        if recovery.name.startswith(lease_undo.ADDED):
            self._lease(replace(recovery, params=recovery.params[:2]))
        elif recovery.name.startswith(_MOVED):
            words = recovery.name.split()
            if len(words) != 6 or len(recovery.params) != 3:
                raise RecoveryInvalid(recovery.name, f"parameters {recovery.params}")
            source_id, image_id, target_id = recovery.params
            self._remove_source(recovery, source_id, target_id, image_id, *words[3:])

    def _image(self, recovery: Recovery) -> None:
        found = self._image_at(recovery.params[0])
        if found is None:
            return
        domain, image_id = found
        with self._holding(domain, image_id):
            try:
                domain.io.rmdir(image_path(image_id), missing_ok=True)
            except StorageFileExists:  # ENOTEMPTY: somebody else's volumes are in it
                _log.info("image %s is not empty and stays", image_id)

    def _half_made(self, recovery: Recovery) -> None:
        """A volume with metadata is left alone: what this task made has lost them by now, if it got so far.

        VDSM stores this before it looks whether the volume is there already.
        """
        domain, image_id, volume_id = self._volume_at(recovery)
        with self._holding(domain, image_id):
            if domain.io.exists(volume_path(image_id, volume_id) + META):
                _log.warning("volume %s was there before the task that was to make it; it stays", volume_id)
                return
            for suffix in ("", LEASE):
                domain.io.unlink(volume_path(image_id, volume_id) + suffix, missing_ok=True)

    def _metadata(self, recovery: Recovery) -> None:
        domain, image_id, volume_id = self._volume_at(recovery)
        with self._holding(domain, image_id):
            for suffix in (LEASE, META + ".new", META):
                domain.io.unlink(volume_path(image_id, volume_id) + suffix, missing_ok=True)

    def _shared(self, recovery: Recovery) -> None:
        """Another task of the same image may have found the links, made a volume on them, and be done."""
        domain, image_id, volume_id = self._volume_at(recovery)
        with self._holding(domain, image_id):
            try:
                children = read_image(domain, image_id).children(volume_id)
            except ImageDoesNotExist:
                return
            if children:
                _log.info("template %s stays in image %s, where %s stands on it", volume_id, image_id, children[0])
                return
            unlink_volume(domain, image_id, volume_id)

    def _parent(self, recovery: Recovery) -> None:
        domain, image_id, volume_id = self._named(recovery, *recovery.params[:3])
        with self._holding(domain, image_id):
            domain.io.unlink(f"{volume_path(image_id, volume_id)}{META}.new", missing_ok=True)
            try:
                recheck_leaf(domain, image_id, volume_id)
            except (ImageDoesNotExist, VolumeDoesNotExist):
                _log.info("parent %s is gone", volume_id)

    def _extended(self, recovery: Recovery) -> None:
        domain, image_id, volume_id = self._named(recovery, *recovery.params[:3])
        with self._holding(domain, image_id):
            try:
                settle_size(domain, image_id, volume_id)
            except (ImageDoesNotExist, VolumeDoesNotExist):
                _log.info("volume %s is gone", volume_id)

    def _created(self, recovery: Recovery) -> None:
        if len(recovery.params) < 4:
            raise RecoveryInvalid(recovery.name, f"parameters {recovery.params}")
        domain, image_id, volume_id = self._named(recovery, *recovery.params[1:4])
        with self._holding(domain, image_id):
            remove_created(domain, image_id, volume_id)

    def _lease(self, recovery: Recovery) -> None:
        if len(recovery.params) != 2:
            raise RecoveryInvalid(recovery.name, f"parameters {recovery.params}")
        sd_id, lease_id = recovery.params
        lease_undo.undo(self._domain(sd_id), lease_id, self._locks, self._resources)

    def _source_of_before(self, recovery: Recovery) -> None:
        if len(recovery.params) != 6:
            raise RecoveryInvalid(recovery.name, f"parameters {recovery.params}")
        self._remove_source(recovery, *recovery.params)

    def _remove_source(
        self, recovery: Recovery, source_id: str, target_id: str, image_id: str, inode: str, modified_at: str, how: str
    ) -> None:
        source, _, _ = self._named(recovery, source_id, target_id, image_id)
        target = self._domain(target_id)
        with self._telling_what_is_left(source_id):
            with self._holding(source, image_id):
                try:
                    found = source.io.stat(image_path(image_id))
                except StorageFileMissing:  # it went before the death that brought us here
                    return
                if (str(found.inode), repr(found.modified_at)) != (inode, modified_at):
                    _log.warning("image %s on domain %s is not the one that was moved; it stays", image_id, source_id)
                    return
                moved = read_image(target, image_id)
                moved.chain()  # it is there, or nothing goes
                if more := sorted(set(read_image(source, image_id).chain()) - set(moved.volumes)):
                    _log.warning(
                        "image %s on domain %s has %s, which was not moved; it stays", image_id, source_id, more
                    )
                    return
                remnant = take_away(source, image_id, wipe=how == "wipe")
            remove_remnant(source, remnant, Progress())

    @contextmanager
    def _telling_what_is_left(self, sd_id: str) -> Iterator[None]:
        try:
            yield
        except Error:
            if self.on_left is not None:
                self.on_left(sd_id)
            raise

    def _renamed(self, recovery: Recovery) -> None:
        raise RecoveryInvalid(recovery.name, "renamed volumes are of a format that is not written any more")

    def _holding(self, domain: FileDomain, image_id: str) -> AbstractContextManager[None]:
        return self._resources.claim("roll-back", exclusive=(("image", domain.sd_id, image_id),))

    def _named(self, recovery: Recovery, *ids: str) -> tuple[FileDomain, str, str]:
        if len(ids) != 3 or not all(_ID.match(one) for one in ids):
            raise RecoveryInvalid(recovery.name, f"parameters {recovery.params}")
        return self._domain(ids[0]), ids[1], ids[2]

    def _volume_at(self, recovery: Recovery) -> tuple[FileDomain, str, str]:
        """Of a recovery whose last parameter is the path of a volume."""
        return self._named(recovery, *_end_of(recovery.params[-1], 4)[:1], *_end_of(recovery.params[-1], 4)[2:])

    def _image_at(self, path: str) -> tuple[FileDomain, str] | None:
        sd_id, images, image_id = _end_of(path, 3)
        if images != "images" or not _ID.match(sd_id) or not _ID.match(image_id):
            _log.warning("%s is no image directory; there is nothing to undo in it", path)
            return None
        return self._domain(sd_id), image_id

    def _domain(self, sd_id: str) -> FileDomain:
        """Raises: _DomainLeft, DomainNotFound, storage errors."""
        if self._left(sd_id):
            raise _DomainLeft(sd_id)
        return self._domains.find(sd_id)


def _end_of(path: str, count: int) -> list[str]:
    """The last parts of a path, empty strings before them when it has fewer."""
    return (["" for _ in range(count)] + path.split("/"))[-count:]


def remove_created(domain: FileDomain, image_id: str, volume_id: str) -> None:
    """A whole volume that nothing stands on; its image's directory too, when only a template's links are left in it.

    Cut short before, it may be gone while its parent is no leaf yet: every volume without children is looked at.
    Raises: VolumeHasChildren (a snapshot was made since; it stays), storage errors.
    """
    try:
        image = read_image(domain, image_id)
    except ImageDoesNotExist:
        return
    if children := image.children(volume_id):
        raise VolumeHasChildren(volume_id, ", ".join(children))
    unlink_volume(domain, image_id, volume_id)
    left = {one: other for one, other in image.volumes.items() if one != volume_id}
    if any(other.image_id == image_id for other in left.values()):
        for one, other in left.items():
            if other.voltype == "INTERNAL" and set(image.children(one)) <= {volume_id}:
                recheck_leaf(domain, image_id, one)
        return
    domain.io.remove_tree(image_path(image_id))
