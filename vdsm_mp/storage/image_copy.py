# SPDX-License-Identifier: Apache-2.0
"""Copies of volumes and images: one volume collapsed into another, and whole chains to another domain.

A volume that is being filled is ILLEGAL; what a copy makes has its recoveries stored before, but after what it
replaces is gone: a copy that is stopped earlier must not take the image that was there. The caller holds the source
shared and the destination exclusively.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from vdsm_mp.api.errors_volume import (
    CopyImageFailed,
    ImageDoesNotExist,
    InvalidVolumeParameter,
    PrepareIllegalVolume,
    VolumeAlreadyExists,
    VolumeCopyFailed,
    VolumeDoesNotExist,
)
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.storage import fake_template, image_delete, qemuimg, volume_create, volume_undo
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.image_prepare import check_chain
from vdsm_mp.storage.volume_create import QEMU_FORMAT, LeaseWriter, VolumeSpec
from vdsm_mp.storage.volume_file import (
    META,
    ImageFiles,
    change_metadata,
    image_path,
    read_image,
    read_volume,
    share,
    volume_path,
)
from vdsm_mp.storage.volume_metadata import VolumeMetadata
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.tasks.record import Recovery
from vdsm_mp.tasks.registry import TaskRun

_log = logging.getLogger("storage.copy")


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


# --- one volume out of a chain


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
    """Raises: VolumeAlreadyExists, when the destination is there and may not be replaced."""
    target = spec.target
    try:
        image: ImageFiles | None = read_image(target.domain, target.image_id)
    except ImageDoesNotExist:
        image = None
    if image is not None and (target.volume_id in image.files or target.volume_id + META in image.files):
        known = image.volumes.get(target.volume_id)
        if not spec.force and (known is None or known.legality == "LEGAL"):
            raise VolumeAlreadyExists(target.volume_id)


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
        _remove_image(target.domain, target.image_id, run.progress)
    run.push(
        volume_undo.image_created(target.domain, target.image_id),
        volume_undo.volume_half_made(target.domain, target.image_id, target.volume_id),
        volume_undo.metadata_made(target.domain, target.image_id, target.volume_id),
    )
    metadata = image.metadata(source.volume_id)
    wanted = VolumeSpec(
        image_id=target.image_id,
        volume_id=target.volume_id,
        capacity=volume_create.round_up(metadata.capacity, volume_create.BLOCK),
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


def _remove_image(target: FileDomain, image_id: str, progress: Progress) -> None:
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


# --- whole chains


class Clone(msgspec.Struct, frozen=True):
    """chain: of image, its base first. force: a LEGAL image at the destination is replaced."""

    target: FileDomain
    leases: LeaseWriter | None
    image: ImageFiles
    chain: list[str]
    force: bool


def plan_clone(
    source: FileDomain, target: FileDomain, leases: LeaseWriter | None, image_id: str, *, force: bool
) -> Clone:
    """Raises: ImageDoesNotExist, ImageIsNotLegalChain, VolumeAlreadyExists (what is there may not be replaced)."""
    image = read_image(source, image_id)
    plan = Clone(target, leases, image, image.chain(), force)
    _check_replaceable(plan)
    return plan


def _check_replaceable(plan: Clone) -> None:
    try:
        there = read_image(plan.target, plan.image.image_id)
    except ImageDoesNotExist:
        return
    if not plan.force and any(one.legality == "LEGAL" for one in there.volumes.values()):
        raise VolumeAlreadyExists(next(iter(there.volumes)))


def _clone_recoveries(plan: Clone) -> list[Recovery]:
    target, image_id = plan.target, plan.image.image_id
    steps = [volume_undo.image_created(target, image_id)]
    for one in plan.chain:
        if plan.image.metadata(one).image_id == image_id:
            steps.append(volume_undo.volume_half_made(target, image_id, one, one_of_many=True))
            steps.append(volume_undo.metadata_made(target, image_id, one, one_of_many=True))
        else:
            steps.append(volume_undo.volume_shared(target, image_id, one))
    return steps


def clone_structure(plan: Clone, run: TaskRun, *, legal: bool) -> None:
    """Empty volumes by the same ids. A template, or its placeholder, must be on the target already.

    legal: a VM may write to them at once (live storage migration); otherwise ILLEGAL until their data is there.
    """
    target, image, chain = plan.target, plan.image, plan.chain
    image_id = image.image_id
    _check_replaceable(plan)  # again: a task before this one may have made it
    _remove_image(target, image_id, run.progress)
    run.push(*_clone_recoveries(plan))
    for n, one in enumerate(chain):
        run.progress.check()
        metadata = image.metadata(one)
        if metadata.image_id != image_id:
            _share_template(target, metadata, one, image_id)
            continue
        parent = chain[n - 1] if n else BLANK
        # A template may be of another format there, and is a placeholder on an export domain.
        parent_metadata = read_volume(target, image_id, parent)[0] if n else None
        spec = VolumeSpec(
            image_id=image_id,
            volume_id=one,
            capacity=metadata.capacity,
            format=metadata.format,
            type=metadata.type,
            disk_type=metadata.disk_type,
            description=metadata.description,
            parent_image_id=image_id if n else BLANK,
            parent=parent,
            legal=legal,
            sequence=metadata.sequence,
        )
        volume_create.make(target, plan.leases, spec, run.progress, parent=parent_metadata)
        change_metadata(target, image_id, one, voltype=metadata.voltype, ctime=metadata.ctime)


def _share_template(target: FileDomain, metadata: VolumeMetadata, template: str, image_id: str) -> None:
    try:
        found, _ = read_volume(target, metadata.image_id, template)
    except VolumeDoesNotExist:
        found = None
    if found is None or not found.shared:
        raise CopyImageFailed(image_id, f"its template {template} is not on domain {target.sd_id}")
    target.io.mkdir(image_path(image_id), exist_ok=True)
    share(target, metadata.image_id, template, image_id)


def copy_layers(
    source: FileDomain, target: FileDomain, image: ImageFiles, chain: list[str], layers: list[str], progress: Progress
) -> None:
    """Data of `layers` (some of chain, base first), each on top of what is below it; each is LEGAL when it is done."""
    check_chain(source, image, chain)
    image_id = image.image_id
    total = sum(image.stat(one).allocated_bytes + 1 for one in layers)
    done = 0
    for one in layers:
        progress.check()
        size = image.stat(one).allocated_bytes + 1
        progress.part(100.0 * done / total, 100.0 * (done + size) / total)
        done += size
        metadata, path = image.metadata(one), volume_path(image_id, one)
        backing = chain[chain.index(one) - 1] if chain.index(one) else ""
        convert(
            source.io.path_of(path),
            metadata,
            target.io.path_of(path),
            metadata.format,
            progress,
            backing=backing,
            backing_fmt=QEMU_FORMAT[image.metadata(backing).format] if backing else "",
        )
        target.io.fsync(path)
        change_metadata(target, image_id, one, legality="LEGAL")


def layers_of(image: ImageFiles, chain: list[str], sync_type: str) -> list[str]:
    """Which volumes a synchronisation covers: ALL, INTERNAL (all but the leaf) or LEAF."""
    own = [one for one in chain if image.metadata(one).image_id == image.image_id]
    if sync_type == "ALL":
        return own
    if sync_type == "INTERNAL":
        return own[:-1]
    if sync_type == "LEAF":
        return own[-1:]
    raise InvalidVolumeParameter("syncType", sync_type)
