# SPDX-License-Identifier: Apache-2.0
"""One volume of a chain, with all below it, collapsed into a new one; and what copies of whole chains share with that.

A volume that is being filled is ILLEGAL; what a copy makes has its recoveries stored before, but after what it
replaces is gone: a copy that is stopped earlier must not take the image that was there. The caller holds the source
shared and the destination exclusively.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from vdsm_mp.api.errors_volume import (
    ImageDoesNotExist,
    PrepareIllegalVolume,
    VolumeAlreadyExists,
    VolumeCopyFailed,
    VolumeDoesNotExist,
)
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.storage import fake_template, image_delete, qemuimg, volume_create, volume_undo
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.image_prepare import check_chain
from vdsm_mp.storage.volume_create import LeaseWriter
from vdsm_mp.storage.volume_file import (
    META,
    change_metadata,
    read_image,
    read_volume,
    volume_path,
)
from vdsm_mp.storage.volume_metadata import VolumeMetadata
from vdsm_mp.storage.volume_spec import BLOCK, QEMU_FORMAT, VolumeSpec, round_up
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.tasks.run import TaskRun


class Place(msgspec.Struct, frozen=True):
    """One volume somewhere. leases: None where volumes have none."""

    domain: FileDomain
    leases: LeaseWriter | None
    image_id: str
    volume_id: str

    @property
    def metadata(self) -> VolumeMetadata | None:
        """None when there is no such volume."""
        try:
            return read_volume(self.domain, self.image_id, self.volume_id)[0]
        except VolumeDoesNotExist:
            return None

    @property
    def path(self) -> str:
        return self.domain.io.path_of(volume_path(self.image_id, self.volume_id))


class CopySpec(msgspec.Struct, frozen=True):
    """vol_type: LEAF, or SHARED for a template. force: an existing destination is deleted first."""

    source: Place
    target: Place
    description: str
    vol_type: str
    format: str
    type: str
    force: bool


def check_free(spec: CopySpec) -> None:
    """Raises: VolumeAlreadyExists, when the destination is there and may not be replaced.

    What may is a volume that is ILLEGAL or a placeholder. Its whole image goes, so all of it must be so.
    """
    target = spec.target
    try:
        image = read_image(target.domain, target.image_id)
    except ImageDoesNotExist:
        return
    if spec.force or not (target.volume_id in image.files or target.volume_id + META in image.files):
        return
    own = {one: metadata for one, metadata in image.volumes.items() if metadata.image_id == target.image_id}
    legal = [one for one, metadata in own.items() if metadata.legality == "LEGAL"]
    if legal or image.broken or target.volume_id not in own:
        raise VolumeAlreadyExists(legal[0] if legal else target.volume_id)


def collapse(spec: CopySpec, run: TaskRun) -> dict[str, str]:
    """The job: the whole chain of the source as one new volume. Raises: VolumeCopyFailed, what creating raises, …"""
    source, target = spec.source, spec.target
    image = read_image(source.domain, source.image_id)
    chain = image.chain_to(source.volume_id)
    for one in chain:
        if not image.metadata(one).legal:
            raise PrepareIllegalVolume(one)
    check_chain(source.domain, image, chain)
    check_free(spec)  # again: a task before this one may have made it
    if spec.force or target.metadata is not None:
        remove_image(target.domain, target.image_id, run.progress)
    run.push(
        volume_undo.image_created(target.domain, target.image_id),
        volume_undo.volume_half_made(target.domain, target.image_id, target.volume_id),
        volume_undo.metadata_made(target.domain, target.image_id, target.volume_id),
    )
    metadata = image.metadata(source.volume_id)
    wanted = VolumeSpec(
        image_id=target.image_id,
        volume_id=target.volume_id,
        capacity=round_up(metadata.capacity, BLOCK),
        format=spec.format,
        type=spec.type,
        disk_type=metadata.disk_type,
        description=spec.description or metadata.description,
        legal=False,
        sequence=metadata.sequence,
    )
    volume_create.make(target.domain, target.leases, wanted, run.progress)
    convert(source.path, metadata, target.path, wanted.format, run.progress, known_zero=True)
    target.domain.io.fsync(volume_path(target.image_id, target.volume_id))
    change_metadata(target.domain, target.image_id, target.volume_id, legality="LEGAL", voltype=spec.vol_type)
    if spec.vol_type == "SHARED":
        fake_template.relink(target.domain, target.image_id, target.volume_id)
    run.settle(
        volume_undo.image_created(target.domain, target.image_id),
        volume_undo.volume_created(target.domain, target.image_id, target.volume_id),
    )
    return {"uuid": target.volume_id}


def remove_image(target: FileDomain, image_id: str, progress: Progress) -> None:
    """All of it, not only what comes anew: a volume of an older chain would be a second leaf."""
    try:
        remnant = image_delete.take_away(target, image_id, wipe=False)
    except ImageDoesNotExist:  # or nothing but a template's links, which are made anew
        return
    image_delete.remove_remnant(target, remnant, progress)


def convert(
    source: str,
    metadata: VolumeMetadata,
    target: str,
    target_format: str,
    progress: Progress,
    *,
    known_zero: bool = False,
    backing: str = "",
    backing_fmt: str = "",
) -> None:
    """Data of a volume (with all below it, up to `backing` of the target) into one that exists.

    known_zero: the target is new. Raises: VolumeCopyFailed, TaskAborted.
    """
    with as_copy_failure(source.rpartition("/")[2]):
        qemuimg.convert(
            source,
            QEMU_FORMAT[metadata.format],
            target,
            QEMU_FORMAT[target_format],
            progress,
            create=False,
            target_is_zero=known_zero,
            backing=backing,
            backing_fmt=backing_fmt,
        )


@contextmanager
def as_copy_failure(volume_id: str) -> Iterator[None]:
    """What a program says becomes 225."""
    try:
        yield
    except (CommandFailed, CommandOverdue) as e:
        raise VolumeCopyFailed(volume_id, str(e)) from e
