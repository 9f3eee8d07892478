# SPDX-License-Identifier: Apache-2.0
"""SDM.*: data operations as host jobs, on whichever host the engine picks. Safe by volume lease and generation."""

from collections.abc import Callable
from typing import Any

from vdsm_mp.api.errors_volume import (
    IncorrectFormat,
    InvalidVolumeParameter,
    VolumeUpdateRefused,
)
from vdsm_mp.api.sdm import (
    AddBitmap,
    AmendVolume,
    ClearBitmaps,
    MergeSubchain,
    RemoveBitmap,
    SparsifyVolume,
    UpdateVolume,
    VolumeRef,
)
from vdsm_mp.api.verb import handles
from vdsm_mp.storage import bitmaps, image_merge, image_sparsify, qemuimg
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.image_prepare import check_chain
from vdsm_mp.storage.volume_access import Volumes, key_of
from vdsm_mp.storage.volume_file import change_metadata, read_image, volume_path
from vdsm_mp.storage.volume_metadata import GENERATIONS, VolumeMetadata, description_of
from vdsm_mp.storage.volume_operation import operation
from vdsm_mp.storage.volume_spec import QEMU_FORMAT
from vdsm_mp.tasks.jobs import Jobs
from vdsm_mp.tasks.progress import Progress


@handles(MergeSubchain)
def merge(volumes: Volumes, jobs: Jobs, ask: MergeSubchain) -> None:
    subchain = ask.subchain

    def work(progress: Progress) -> None:
        domain = volumes.domains.find(subchain.sd_id)
        with (
            volumes.changing(f"merge {ask.job_id}", domain, subchain.image_id),
            operation(
                volumes,
                domain,
                subchain.image_id,
                subchain.base_id,
                generation=subchain.base_generation,
                set_illegal=False,
            ),
        ):
            image_merge.commit(domain, subchain, progress, merge_bitmaps=bool(ask.merge_bitmaps))

    jobs.start(ask.job_id, "merge_subchain", work, key=key_of(subchain.image_id))


@handles(AmendVolume)
def amend(volumes: Volumes, jobs: Jobs, ask: AmendVolume) -> None:
    if ask.qcow2.compat not in ("0.10", "1.1"):
        raise InvalidVolumeParameter("compat", ask.qcow2.compat)

    def change(domain: FileDomain, metadata: VolumeMetadata, progress: Progress) -> None:
        if domain.format.qcow2_compat != "1.1" and ask.qcow2.compat == "1.1":
            raise VolumeUpdateRefused(ask.volume.volume_id, f"domain {domain.sd_id} takes no compat 1.1")
        qemuimg.amend(_path(domain, ask.volume), ask.qcow2.compat)

    _start_on_cow(volumes, jobs, ask.job_id, "amend_volume", ask.volume, change)


@handles(AddBitmap)
def add_bitmap(volumes: Volumes, jobs: Jobs, ask: AddBitmap) -> None:
    def change(domain: FileDomain, metadata: VolumeMetadata, progress: Progress) -> None:
        # At the same generation, an attempt that was cut short cannot be told from a bitmap that was added before.
        bitmaps.add(_path(domain, ask.volume), ask.bitmap, again=ask.volume.generation is not None)

    _start_on_cow(volumes, jobs, ask.job_id, "add_bitmap", ask.volume, change)


@handles(RemoveBitmap)
def remove_bitmap(volumes: Volumes, jobs: Jobs, ask: RemoveBitmap) -> None:
    def change(domain: FileDomain, metadata: VolumeMetadata, progress: Progress) -> None:
        bitmaps.remove(_path(domain, ask.volume), ask.bitmap)

    _start_on_cow(volumes, jobs, ask.job_id, "remove_bitmap", ask.volume, change)


@handles(ClearBitmaps)
def clear_bitmaps(volumes: Volumes, jobs: Jobs, ask: ClearBitmaps) -> None:
    def change(domain: FileDomain, metadata: VolumeMetadata, progress: Progress) -> None:
        bitmaps.clear(_path(domain, ask.volume))

    _start_on_cow(volumes, jobs, ask.job_id, "clear_bitmaps", ask.volume, change)


@handles(SparsifyVolume)
def sparsify(volumes: Volumes, jobs: Jobs, ask: SparsifyVolume) -> None:
    image_id, volume_id = ask.volume.image_id, ask.volume.volume_id
    image_sparsify.require_program(image_id)
    image_sparsify.check_leaf(read_image(volumes.domains.find(ask.volume.sd_id), image_id), volume_id)

    def change(domain: FileDomain, metadata: VolumeMetadata, progress: Progress) -> None:
        image_sparsify.check_leaf(read_image(domain, image_id), volume_id)
        image_sparsify.sparsify(image_id, _path(domain, ask.volume), QEMU_FORMAT[metadata.format], progress)

    _start_on(volumes, jobs, ask.job_id, "sparsify_volume", ask.volume, change)


@handles(UpdateVolume)
def update_volume(volumes: Volumes, jobs: Jobs, ask: UpdateVolume) -> None:
    wanted = ask.attributes
    if wanted.legality not in (None, "LEGAL", "ILLEGAL"):
        raise InvalidVolumeParameter("legality", str(wanted.legality))
    if wanted.type not in (None, "SPARSE", "PREALLOCATED"):
        raise InvalidVolumeParameter("type", str(wanted.type))
    if wanted.generation is not None and not 0 <= wanted.generation < GENERATIONS:
        raise InvalidVolumeParameter("generation", str(wanted.generation))
    changes: dict[str, Any] = {
        name: value
        for name, value in (
            ("generation", wanted.generation),
            ("description", None if wanted.description is None else description_of(wanted.description)),
            ("legality", wanted.legality),
            ("type", wanted.type),
        )
        if value is not None
    }

    def work(progress: Progress) -> None:
        domain, ref = volumes.domains.find(ask.volume.sd_id), ask.volume
        with (
            volumes.changing(f"update_volume {ask.job_id}", domain, ref.image_id),
            operation(
                volumes,
                domain,
                ref.image_id,
                ref.volume_id,
                generation=ref.generation,
                set_illegal=False,
                raise_generation=False,
            ) as metadata,
        ):
            if metadata.shared and wanted.legality == "ILLEGAL":
                raise VolumeUpdateRefused(ref.volume_id, "a template stays legal")
            change_metadata(domain, ref.image_id, ref.volume_id, **changes)

    jobs.start(ask.job_id, "update_volume", work, key=key_of(ask.volume.image_id))


Change = Callable[[FileDomain, VolumeMetadata, Progress], None]


def _start_on_cow(volumes: Volumes, jobs: Jobs, job_id: str, what: str, ref: VolumeRef, change: Change) -> None:
    def only_cow(domain: FileDomain, metadata: VolumeMetadata, progress: Progress) -> None:
        if not metadata.cow:
            raise IncorrectFormat(f"volume {ref.volume_id} is not COW")
        change(domain, metadata, progress)

    _start_on(volumes, jobs, job_id, what, ref, only_cow)


def _start_on(volumes: Volumes, jobs: Jobs, job_id: str, what: str, ref: VolumeRef, change: Change) -> None:
    """A job that changes one volume in place and counts its generation on."""

    def work(progress: Progress) -> None:
        domain = volumes.domains.find(ref.sd_id)
        with volumes.changing(f"{what} {job_id}", domain, ref.image_id):
            image = read_image(domain, ref.image_id)
            check_chain(domain, image, image.chain_to(ref.volume_id))
            with operation(
                volumes, domain, ref.image_id, ref.volume_id, generation=ref.generation, set_illegal=False
            ) as metadata:
                change(domain, metadata, progress)

    jobs.start(job_id, what, work, key=key_of(ref.image_id))


def _path(domain: FileDomain, ref: VolumeRef) -> str:
    return domain.io.path_of(volume_path(ref.image_id, ref.volume_id))
