# SPDX-License-Identifier: Apache-2.0
"""Handlers of Volume.create and Volume.getInfo: who may ask, what is claimed, which task does it."""

from vdsm_mp.api.errors_volume import VolumeAlreadyExists
from vdsm_mp.api.verb import handles
from vdsm_mp.api.volume import CreateVolume, GetVolumeInfo, VolumeInfo
from vdsm_mp.storage import volume_create
from vdsm_mp.storage.volume_access import Volumes, key_of
from vdsm_mp.storage.volume_info import volume_info
from vdsm_mp.tasks.record import Recovery
from vdsm_mp.tasks.registry import TaskRun


@handles(CreateVolume)
def create(volumes: Volumes, ask: CreateVolume) -> str:
    domain = volumes.of_spm(ask.pool_id, ask.sd_id)
    spec = volume_create.spec_of(ask)
    steps: tuple[Recovery, ...] = ()
    exists = volumes.tasks.unfinished_about(spec.volume_id) is not None
    if not exists:
        try:
            steps = volume_create.recoveries(domain, spec)
        except VolumeAlreadyExists:
            exists = True

    def job(run: TaskRun) -> dict[str, str]:
        if exists:  # clients expect to learn this from the task, and the task has nothing to undo
            raise VolumeAlreadyExists(spec.volume_id)
        images = (spec.image_id, spec.parent_image_id) if spec.based_on_template else (spec.image_id,)
        with volumes.changing(f"createVolume {spec.volume_id}", domain, *images):
            return volume_create.create(domain, volumes.leases_of(domain), spec, run)

    return volumes.tasks.start("createVolume", job, spm=True, key=key_of(spec.image_id), recoveries=steps)


@handles(GetVolumeInfo)
def info(volumes: Volumes, ask: GetVolumeInfo) -> VolumeInfo:
    domain = volumes.of_host(ask.pool_id, ask.sd_id)
    return volume_info(domain, volumes.lock_of(domain), ask.image_id, ask.volume_id)
