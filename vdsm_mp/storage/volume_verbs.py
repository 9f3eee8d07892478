# SPDX-License-Identifier: Apache-2.0
"""Handlers of Volume.*: who may ask, what is claimed, which task does it."""

from msgspec import UNSET

from vdsm_mp.api.errors_volume import DiscardNotSupported, VolumeAlreadyExists
from vdsm_mp.api.verb import handles
from vdsm_mp.api.volume import (
    CreateVolume,
    DeleteVolume,
    ExtendVolumeSize,
    RefreshVolume,
    SetVolumeDescription,
    SetVolumeLegality,
    TeardownVolume,
    VerifyUntrustedVolume,
)
from vdsm_mp.api.volume_look import (
    GetVolumeInfo,
    GetVolumeQemuImageInfo,
    GetVolumeSize,
    MeasureVolume,
    QemuBitmap,
    QemuImageInfo,
    VolumeInfo,
    VolumeMeasure,
    VolumeSize,
)
from vdsm_mp.storage import volume_change, volume_create, volume_delete, volume_look, volume_spec, volume_undo
from vdsm_mp.storage.volume_access import Volumes, key_of
from vdsm_mp.storage.volume_file import read_volume
from vdsm_mp.storage.volume_info import volume_info
from vdsm_mp.tasks.run import TaskRun


@handles(CreateVolume)
def create(volumes: Volumes, ask: CreateVolume) -> str:
    domain = volumes.of_spm(ask.pool_id, ask.sd_id)
    spec = volume_spec.spec_of(ask)
    plan = volume_create.Plan()
    exists = volumes.tasks.unfinished_about(spec.volume_id) is not None
    if not exists:
        try:
            plan = volume_create.plan(domain, spec)
        except VolumeAlreadyExists:
            exists = True

    def job(run: TaskRun) -> dict[str, str]:
        if exists:  # clients expect to learn this from the task, and the task has nothing to undo
            raise VolumeAlreadyExists(spec.volume_id)
        images = (spec.image_id, spec.parent_image_id) if spec.based_on_template else (spec.image_id,)
        with volumes.changing_as_spm(f"createVolume {spec.volume_id}", domain, *images, progress=run.progress):
            return volume_create.create(domain, volumes.leases_of(domain), spec, run, on_leaf=plan.on_leaf)

    return volumes.tasks.start("createVolume", job, spm=True, key=key_of(spec.image_id), recoveries=plan.recoveries)


@handles(DeleteVolume)
def delete(volumes: Volumes, ask: DeleteVolume) -> str:
    domain = volumes.of_spm(ask.pool_id, ask.sd_id)
    if ask.discard:
        raise DiscardNotSupported(ask.sd_id)

    def job(run: TaskRun) -> None:
        with volumes.changing_as_spm(f"deleteVolume {ask.volume_id}", domain, ask.image_id, progress=run.progress):
            volume_delete.delete(domain, ask.image_id, ask.volume_id, run.progress, wipe=ask.post_zero, force=ask.force)

    return volumes.tasks.start("deleteVolume", job, spm=True, key=key_of(ask.image_id))


@handles(ExtendVolumeSize)
def extend(volumes: Volumes, ask: ExtendVolumeSize) -> str:
    domain = volumes.of_spm(ask.pool_id, ask.sd_id)
    to_bytes = volume_spec.round_up(volume_spec.size_of("newSize", ask.new_size), volume_spec.BLOCK)

    def job(run: TaskRun) -> None:
        with volumes.changing_as_spm(f"extendImageSize {ask.volume_id}", domain, ask.image_id, progress=run.progress):
            volume_change.extend(domain, ask.image_id, ask.volume_id, to_bytes, run.progress)
        run.settle()

    steps = (volume_undo.size_changed(domain, ask.image_id, ask.volume_id),)
    return volumes.tasks.start("extendImageSize", job, spm=True, key=key_of(ask.image_id), recoveries=steps)


@handles(SetVolumeDescription)
def set_description(volumes: Volumes, ask: SetVolumeDescription) -> None:
    domain = volumes.of_spm(ask.pool_id, ask.sd_id)
    with volumes.changing_as_spm(f"setVolumeDescription {ask.volume_id}", domain, ask.image_id, within_s=30):
        volume_change.set_description(domain, ask.image_id, ask.volume_id, ask.description)


@handles(SetVolumeLegality)
def set_legality(volumes: Volumes, ask: SetVolumeLegality) -> None:
    domain = volumes.of_spm(ask.pool_id, ask.sd_id)
    with volumes.changing_as_spm(f"setVolumeLegality {ask.volume_id}", domain, ask.image_id, within_s=30):
        volume_change.set_legality(domain, ask.image_id, ask.volume_id, ask.legality)


@handles(GetVolumeInfo)
def info(volumes: Volumes, ask: GetVolumeInfo) -> VolumeInfo:
    domain = volumes.of_host(ask.pool_id, ask.sd_id)
    return volume_info(domain, volumes.lock_of(domain), ask.image_id, ask.volume_id)


@handles(GetVolumeSize)
def size(volumes: Volumes, ask: GetVolumeSize) -> VolumeSize:
    domain = volumes.of_host(ask.pool_id, ask.sd_id)
    _, file = read_volume(domain, ask.image_id, ask.volume_id)
    return VolumeSize(truesize=str(file.allocated_bytes), apparentsize=str(file.size_bytes))


@handles(GetVolumeQemuImageInfo)
def qemu_image_info(volumes: Volumes, ask: GetVolumeQemuImageInfo) -> QemuImageInfo:
    domain = volumes.of_host(ask.pool_id, ask.sd_id)
    with volumes.using(f"getQemuImageInfo {ask.volume_id}", domain, ask.image_id):
        found = volume_look.qemu_info(domain, ask.image_id, ask.volume_id)
    cow = found.format == "qcow2"
    return QemuImageInfo(
        format=found.format,
        virtualsize=found.virtual_size,
        clustersize=found.cluster_size if cow else UNSET,
        backingfile=found.backing_filename or UNSET,
        compat=found.compat or UNSET,
        bitmaps=[
            QemuBitmap(name=one["name"], granularity=one["granularity"], flags=one["flags"]) for one in found.bitmaps
        ]
        if cow
        else UNSET,
    )


@handles(MeasureVolume)
def measure(volumes: Volumes, ask: MeasureVolume) -> VolumeMeasure:
    domain = volumes.of_host(ask.pool_id, ask.sd_id)
    with volumes.using(f"measure {ask.volume_id}", domain, ask.image_id):
        found = volume_look.measure(domain, ask)
    return VolumeMeasure(required=found.required, fully_allocated=found.fully_allocated, bitmaps=found.bitmaps or UNSET)


@handles(VerifyUntrustedVolume)
def verify_untrusted(volumes: Volumes, ask: VerifyUntrustedVolume) -> None:
    domain = volumes.of_host(ask.pool_id, ask.sd_id)
    with volumes.using(f"verify {ask.volume_id}", domain, ask.image_id):
        volume_look.verify_untrusted(domain, ask.image_id, ask.volume_id)


@handles(RefreshVolume)
def refresh(volumes: Volumes, ask: RefreshVolume) -> None:
    """Files have nothing to refresh; that the volume is there is all there is to say."""
    read_volume(volumes.of_host(ask.pool_id, ask.sd_id), ask.image_id, ask.volume_id)


@handles(TeardownVolume)
def teardown(volumes: Volumes, ask: TeardownVolume) -> None:
    """Files are not activated, so a single volume of an image has nothing to be undone."""
    volumes.domains.find(ask.sd_id)
