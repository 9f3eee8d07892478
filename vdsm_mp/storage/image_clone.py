# SPDX-License-Identifier: Apache-2.0
"""Whole chains to another domain by the same ids: the empty volumes first, then their data layer by layer.

What is replaced goes, and what undoes the rest is stored, as `image_copy` says. The caller holds the source shared and
the destination exclusively.
"""

import msgspec

from vdsm_mp.api.errors_volume import (
    CopyImageFailed,
    ImageDoesNotExist,
    InvalidVolumeParameter,
    VolumeAlreadyExists,
    VolumeDoesNotExist,
)
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage import qemuimg, volume_create, volume_undo
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.image_copy import as_copy_failure, convert, remove_image
from vdsm_mp.storage.image_prepare import check_chain
from vdsm_mp.storage.volume_create import LeaseWriter
from vdsm_mp.storage.volume_file import (
    ImageFiles,
    change_metadata,
    image_path,
    read_image,
    read_volume,
    share,
    volume_path,
)
from vdsm_mp.storage.volume_metadata import VolumeMetadata
from vdsm_mp.storage.volume_spec import QEMU_FORMAT, VolumeSpec
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.tasks.record import Recovery
from vdsm_mp.tasks.run import TaskRun


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
    if plan.force:
        return
    try:
        there = read_image(plan.target, plan.image.image_id)
    except ImageDoesNotExist:
        return
    # A template's link is not of the image.
    own = (one for one, metadata in there.volumes.items() if metadata.image_id == plan.image.image_id)
    for one in (*there.broken, *(one for one in own if there.metadata(one).legality == "LEGAL")):
        raise VolumeAlreadyExists(one)


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
    remove_image(target, image_id, run.progress)
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
        if metadata.type != "SPARSE":  # qemu-img punches holes where the source has zeros
            with as_copy_failure(one):
                qemuimg.fallocate(target.io.path_of(path), 0, metadata.capacity, progress)
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
