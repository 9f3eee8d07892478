# SPDX-License-Identifier: Apache-2.0
"""Handlers that copy between volumes, images and domains as SPM tasks: Volume.copy, Image.move and its steps."""

from functools import partial

from vdsm_mp.api.errors_volume import (
    DiscardNotSupported,
    IncorrectFormat,
    IncorrectType,
    InvalidVolumeParameter,
    TemplateInUse,
    VolumeAlreadyExists,
)
from vdsm_mp.api.image import CloneImageStructure, MoveImage, SyncImageData
from vdsm_mp.api.verb import handles
from vdsm_mp.api.volume import CopyVolume
from vdsm_mp.storage import fake_template, image_clone, image_copy, image_prepare, volume_undo
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import DomainClass
from vdsm_mp.storage.image_copy import CopySpec, Place
from vdsm_mp.storage.volume_access import Volumes, key_of
from vdsm_mp.storage.volume_file import ImageFiles, images_of, read_image
from vdsm_mp.storage.volume_metadata import description_of
from vdsm_mp.storage.volume_spec import ALLOCATIONS, FORMATS
from vdsm_mp.tasks.run import Job, TaskRun

_VOL_TYPES = {6: "SHARED", 8: "LEAF"}
_COPY, _MOVE = 1, 2


@handles(CopyVolume)
def copy_volume(volumes: Volumes, ask: CopyVolume) -> str:
    source = volumes.of_spm(ask.pool_id, ask.sd_id)
    target = volumes.of_spm(ask.pool_id, ask.dst_sd_id)
    spec = _copy_spec(volumes, ask, source, target)
    image_copy.check_free(spec)

    def job(run: TaskRun) -> dict[str, str]:
        with volumes.copying(
            f"copyImage {ask.volume_id}", (source, ask.image_id), (target, ask.dst_image_id), run.progress
        ):
            _refuse_while_undone(volumes, ask.dst_image_id, ask.dst_volume_id)
            return image_copy.collapse(spec, run)

    return _start(volumes, "copyImage", job, ask.dst_sd_id, ask.dst_image_id)


def _copy_spec(volumes: Volumes, ask: CopyVolume, source: FileDomain, target: FileDomain) -> CopySpec:
    if ask.discard:
        raise DiscardNotSupported(ask.dst_sd_id)
    if ask.vol_type not in _VOL_TYPES:
        raise InvalidVolumeParameter("volType", str(ask.vol_type))
    if (ask.sd_id, ask.image_id) == (ask.dst_sd_id, ask.dst_image_id):
        raise InvalidVolumeParameter("dstImgUUID", "an image is not copied into itself")
    metadata = read_image(source, ask.image_id).metadata(ask.volume_id)
    # 3 and 0 mean "as the source".
    fmt = metadata.format if ask.vol_format == 3 else FORMATS.get(ask.vol_format)
    allocation = metadata.type if ask.preallocate == 0 else ALLOCATIONS.get(ask.preallocate)
    if fmt is None:
        raise IncorrectFormat(f"format {ask.vol_format}")
    if allocation is None:
        raise IncorrectType(f"allocation {ask.preallocate}")
    return CopySpec(
        source=Place(source, volumes.leases_of(source), ask.image_id, ask.volume_id),
        target=Place(target, volumes.leases_of(target), ask.dst_image_id, ask.dst_volume_id),
        description=description_of(ask.desc),
        vol_type=_VOL_TYPES[ask.vol_type],
        format=fmt,
        type=allocation,
        force=ask.force,
    )


@handles(MoveImage)
def move_image(volumes: Volumes, ask: MoveImage) -> str:
    if ask.operation not in (_COPY, _MOVE):
        raise InvalidVolumeParameter("operation", str(ask.operation))
    source, target = _two_domains(volumes, ask.pool_id, ask.sd_id, ask.dst_sd_id)
    plan_now = partial(image_clone.plan_clone, source, target, volumes.leases_of(target), ask.image_id, force=ask.force)
    plan_now()
    if ask.operation == _MOVE:
        _refuse_template_in_use(source, ask.image_id)

    def job(run: TaskRun) -> None:
        with volumes.copying(f"moveImage {ask.image_id}", (source, ask.image_id), (target, ask.image_id), run.progress):
            plan = plan_now()  # tasks before this one may have made snapshots, or merged them
            image, chain = plan.image, plan.chain
            _refuse_while_undone(volumes, ask.image_id, chain[-1])
            if ask.operation == _MOVE:
                _refuse_template_in_use(source, ask.image_id)
            image_prepare.check_chain(source, image, chain)  # before the last export gives way
            base = image.metadata(chain[0])
            if target.meta.cls is DomainClass.BACKUP and base.image_id != ask.image_id:
                with volumes.changing_as_spm(f"moveImage {ask.image_id}", target, base.image_id, progress=run.progress):
                    fake_template.ensure(target, volumes.leases_of(target), chain[0], base, run.progress)
            image_clone.clone_structure(plan, run, legal=False)
            own = image_clone.layers_of(image, chain, "ALL")
            image_clone.copy_layers(source, target, image, chain, own, run.progress)
            for template in (one for one in own if image.metadata(one).shared):
                fake_template.relink(target, ask.image_id, template)
            run.settle()
            if ask.operation == _MOVE:
                # Not before the success is stored: until then the copy is what would be undone.
                run.finish = volume_undo.source_to_go(source, target, ask.image_id, wipe=ask.post_zero)

    return _start(volumes, "moveImage", job, ask.dst_sd_id, ask.image_id)


def _refuse_while_undone(volumes: Volumes, image_id: str, volume_id: str) -> None:
    """Of a copy that was cut short, with its worker or its SPM: the roll-back would take the new one.

    Raises: VolumeAlreadyExists; ask again when that task is over.
    """
    if volumes.tasks.being_undone(image_id):
        raise VolumeAlreadyExists(volume_id)


def _refuse_template_in_use(source: FileDomain, image_id: str) -> None:
    image = read_image(source, image_id)
    own = [one for one, metadata in image.volumes.items() if metadata.shared and metadata.image_id == image_id]
    users = images_of(source) if own else {}
    if any(users.get(one, set()) - {image_id} for one in own):
        raise TemplateInUse(image_id)


@handles(CloneImageStructure)
def clone_structure(volumes: Volumes, ask: CloneImageStructure) -> str:
    source, target = _two_domains(volumes, ask.pool_id, ask.sd_id, ask.dst_sd_id)
    plan_now = partial(image_clone.plan_clone, source, target, volumes.leases_of(target), ask.image_id, force=False)
    plan_now()

    def job(run: TaskRun) -> None:
        with volumes.copying(
            f"cloneImageStructure {ask.image_id}", (source, ask.image_id), (target, ask.image_id), run.progress
        ):
            plan = plan_now()
            _refuse_while_undone(volumes, ask.image_id, plan.chain[-1])
            image_clone.clone_structure(plan, run, legal=True)
        run.settle()

    return _start(volumes, "cloneImageStructure", job, ask.dst_sd_id, ask.image_id)


def _start(volumes: Volumes, verb: str, job: Job, sd_id: str, image_id: str) -> str:
    """Of a copy that may take away what is by its name on that domain."""
    left = partial(volumes.remnants.expect, sd_id)
    return volumes.tasks.start(verb, job, spm=True, key=key_of(image_id), on_failure=left)


@handles(SyncImageData)
def sync_data(volumes: Volumes, ask: SyncImageData) -> str:
    source, target = _two_domains(volumes, ask.pool_id, ask.sd_id, ask.dst_sd_id)

    def look() -> tuple[ImageFiles, list[str], list[str]]:
        image = read_image(source, ask.image_id)
        chain = image.chain()
        return image, chain, image_clone.layers_of(image, chain, ask.sync_type)

    look()

    def job(run: TaskRun) -> None:
        # The leaf is being written by a VM meanwhile; the layers below it are nobody else's.
        with volumes.copying(
            f"syncImageData {ask.image_id}", (source, ask.image_id), (target, ask.image_id), run.progress
        ):
            image_clone.copy_layers(source, target, *look(), run.progress)

    return volumes.tasks.start("syncImageData", job, spm=True, key=key_of(ask.image_id))


def _two_domains(volumes: Volumes, pool_id: str, sd_id: str, dst_sd_id: str) -> tuple[FileDomain, FileDomain]:
    if sd_id == dst_sd_id:
        raise InvalidVolumeParameter("dstSdUUID", "source and destination are the same domain")
    return volumes.of_spm(pool_id, sd_id), volumes.of_spm(pool_id, dst_sd_id)
