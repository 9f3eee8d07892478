# SPDX-License-Identifier: Apache-2.0
"""A new volume: raw or qcow2, sparse or preallocated, with or without a parent. The job of a `createVolume` task.

Order: image directory, template's links, parent INTERNAL, empty file, content, metadata, lease. Each step has its
recovery stored before it, so a death between any two leaves what the roll-back removes; the metadata makes the volume
visible to others and is therefore late.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_storage import StorageFileExists
from vdsm_mp.api.errors_volume import (
    ImageDoesNotExist,
    InvalidVolumeParameter,
    ParentIsIllegal,
    VolumeAlreadyExists,
    VolumeCreationFailed,
    VolumeHasChildren,
    VolumeNotShareable,
)
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.storage import bitmaps, qemuimg, volume_undo
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.locks import Lease
from vdsm_mp.storage.qcow2_empty import Empty, empty
from vdsm_mp.storage.volume_file import (
    LEASE,
    META,
    VOLUME_MODE,
    ImageFiles,
    image_path,
    read_image,
    share,
    volume_path,
    write_metadata,
)
from vdsm_mp.storage.volume_info import lease_of
from vdsm_mp.storage.volume_metadata import VolumeMetadata, to_bytes
from vdsm_mp.storage.volume_spec import BLOCK, QEMU_FORMAT, VolumeSpec, round_up
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.tasks.record import Recovery
from vdsm_mp.tasks.run import TaskRun

_log = logging.getLogger("storage.create")


class LeaseWriter(Protocol):
    def write_lease(self, lease: Lease) -> None: ...


class Plan(msgspec.Struct, frozen=True):
    """What undoes a whole creation, to be stored before it begins. on_leaf: the parent was a leaf of the image then."""

    recoveries: tuple[Recovery, ...] = ()
    on_leaf: bool = False


def plan(domain: FileDomain, spec: VolumeSpec) -> Plan:
    """Raises: VolumeAlreadyExists; nothing of this task may then be undone, least of all that volume."""
    image_id, volume_id = spec.image_id, spec.volume_id
    try:
        image: ImageFiles | None = read_image(domain, image_id)
    except ImageDoesNotExist:
        image = None
    if image is not None and (volume_id in image.files or volume_id + META in image.files):
        raise VolumeAlreadyExists(volume_id)
    steps = []
    if image is None:
        steps.append(volume_undo.image_created(domain, image_id))
    if spec.based_on_template and (image is None or spec.parent not in image.files):
        steps.append(volume_undo.volume_shared(domain, image_id, spec.parent))
    if spec.parent != BLANK and not spec.based_on_template:
        # Undone after what takes up room is gone: on a full file system this write would keep that from going.
        steps.append(volume_undo.parent_made_internal(domain, image_id, spec.parent))
    steps.append(volume_undo.volume_half_made(domain, image_id, volume_id))
    steps.append(volume_undo.metadata_made(domain, image_id, volume_id))
    own = None if image is None or spec.based_on_template else image.volumes.get(spec.parent)
    return Plan(tuple(steps), on_leaf=own is not None and own.voltype == "LEAF")


def create(
    domain: FileDomain, leases: LeaseWriter | None, spec: VolumeSpec, run: TaskRun, *, on_leaf: bool = False
) -> dict[str, str]:
    """The job. The caller holds the image exclusively. Returns {"uuid": …}. leases: None where volumes have none.

    on_leaf: the parent was a leaf when this was asked for. Is it none by now, somebody else has been quicker, and the
    image would have two ends; who asks for a volume on an inner one wants that, to look at a snapshot.
    Raises: VolumeAlreadyExists, ImageDoesNotExist, VolumeDoesNotExist, VolumeNotShareable, ParentIsIllegal,
    VolumeHasChildren, InvalidVolumeParameter, VolumeCreationFailed, storage errors; the task's recoveries then undo
    what was done.
    """
    run.check()
    new_image = any(r.function == "create_image_rollback" for r in run.recoveries)
    if spec.based_on_template:
        domain.io.mkdir(image_path(spec.image_id), mode=0o755, exist_ok=True)
    parent = _prepare_parent(domain, spec, on_leaf=on_leaf) if spec.parent != BLANK else None
    run.check()
    try:
        make(domain, leases, spec, run.progress, parent=parent)
    except VolumeAlreadyExists:
        run.settle(save=True)  # it is not ours to undo
        raise
    done = [volume_undo.volume_created(domain, spec.image_id, spec.volume_id)]
    if new_image:
        done.insert(0, volume_undo.image_created(domain, spec.image_id))
    run.settle(*done)
    return {"uuid": spec.volume_id}


def make(
    domain: FileDomain,
    leases: LeaseWriter | None,
    spec: VolumeSpec,
    progress: Progress,
    *,
    parent: VolumeMetadata | None = None,
) -> None:
    """File, content, metadata, lease; its parent, if any, is in the image already. Cut short, the recoveries clean up.

    Raises: VolumeAlreadyExists (untouched), VolumeCreationFailed, TaskAborted, storage errors.
    """
    backing, backing_fmt = (spec.parent, QEMU_FORMAT[parent.format]) if parent is not None else ("", "")
    file = empty_file(domain, spec.format, spec.capacity, backing=backing, backing_fmt=backing_fmt)
    try:
        domain.io.begin_volume(
            image_path(spec.image_id),
            spec.volume_id,
            mode=VOLUME_MODE,
            size=file.size_bytes if file is not None else 0,
            pieces=file.pieces if file is not None else {},
        )
    except StorageFileExists:
        raise VolumeAlreadyExists(spec.volume_id) from None
    with as_creation_failure(spec.volume_id):
        if file is None:
            _have_made(domain, spec, parent)
        _fill(domain, spec, progress)
    progress.check()
    text = to_bytes(spec.volume_id, _metadata(domain, spec), domain.meta.version).decode()
    domain.io.finish_volume(image_path(spec.image_id), spec.volume_id, spec.volume_id + META, text)
    _add_lease(domain, leases, spec)


@contextmanager
def as_creation_failure(volume_id: str) -> Iterator[None]:
    """What a program says becomes 205."""
    try:
        yield
    except (CommandFailed, CommandOverdue) as e:
        raise VolumeCreationFailed(volume_id, str(e)) from e


def _metadata(domain: FileDomain, spec: VolumeSpec) -> VolumeMetadata:
    return VolumeMetadata(
        capacity=spec.capacity,
        ctime=int(time.time()),
        description=spec.description,
        disk_type=spec.disk_type,
        sd_id=domain.sd_id,
        format=spec.format,
        generation=0,
        image_id=spec.image_id,
        legality="LEGAL" if spec.legal else "ILLEGAL",
        parent=spec.parent,
        type=spec.type,
        voltype="LEAF",
        sequence=spec.sequence,
    )


def _prepare_parent(domain: FileDomain, spec: VolumeSpec, *, on_leaf: bool) -> VolumeMetadata:
    """Check the parent, bring a template's links into this image, and make a leaf INTERNAL."""
    image = read_image(domain, spec.parent_image_id)
    parent = image.metadata(spec.parent)
    if on_leaf and (children := image.children(spec.parent)):
        raise VolumeHasChildren(spec.parent, ", ".join(children))
    if spec.based_on_template and not parent.shared:
        raise VolumeNotShareable(spec.parent)
    if not parent.legal:
        raise ParentIsIllegal(spec.parent)
    if spec.capacity < parent.capacity:
        raise InvalidVolumeParameter("size", f"{spec.capacity} is less than the parent's {parent.capacity}")
    if spec.based_on_template:
        share(domain, spec.parent_image_id, spec.parent, spec.image_id)
    elif parent.voltype == "LEAF":
        write_metadata(domain, spec.image_id, spec.parent, replace(parent, voltype="INTERNAL"))
    return parent


def empty_file(
    domain: FileDomain, fmt: str, capacity: int, *, backing: str = "", backing_fmt: str = ""
) -> Empty | None:
    """What the file of a volume is at first; None when only QEMU can make it (or must refuse it).

    fmt: as metadata say it. backing: a name beside it. backing_fmt: QEMU's name.
    """
    if fmt == "RAW":
        # QEMU, too, allocates the first block of a raw image: it finds the alignment by reading it.
        return Empty(capacity, {0: bytes(BLOCK)})
    return empty(capacity, compat=domain.format.qcow2_compat, backing=backing, backing_fmt=backing_fmt)


def _have_made(domain: FileDomain, spec: VolumeSpec, parent: VolumeMetadata | None) -> None:
    qemuimg.create(
        domain.io.path_of(volume_path(spec.image_id, spec.volume_id)),
        "qcow2",
        spec.capacity,
        compat=domain.format.qcow2_compat,
        backing=spec.parent if parent is not None else "",
        backing_fmt=QEMU_FORMAT[parent.format] if parent is not None else "",
    )


def _fill(domain: FileDomain, spec: VolumeSpec, progress: Progress) -> None:
    """What QEMU adds to the file: bitmaps, and room that is taken at once."""
    path = domain.io.path_of(volume_path(spec.image_id, spec.volume_id))
    start = BLOCK
    if spec.format == "COW":
        if spec.add_bitmaps:
            bitmaps.copy_names(domain.io.path_of(volume_path(spec.image_id, spec.parent)), path)
        if spec.bitmap:
            qemuimg.bitmap(path, spec.bitmap, "--add", "--enable")
        if spec.type == "PREALLOCATED":
            start = round_up(qemuimg.end_offset(path, "qcow2"), BLOCK)
    if spec.type == "PREALLOCATED":
        qemuimg.fallocate(path, start, spec.capacity - start, progress)


def _add_lease(domain: FileDomain, leases: LeaseWriter | None, spec: VolumeSpec) -> None:
    lease = lease_of(domain, spec.image_id, spec.volume_id)
    if lease is None or leases is None:
        return
    path = volume_path(spec.image_id, spec.volume_id) + LEASE
    try:
        domain.io.create(path, mode=VOLUME_MODE)
    except StorageFileExists:  # VDSM leaves it when it undoes a volume; this one has just been made
        domain.io.unlink(path)
        domain.io.create(path, mode=VOLUME_MODE)
    leases.write_lease(lease)
