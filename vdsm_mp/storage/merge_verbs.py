# SPDX-License-Identifier: Apache-2.0
"""Handlers of the steps of a cold merge that the SPM does, and of mending a chain after a live one."""

from vdsm_mp.api.cold_merge import FinalizeMerge, PrepareMerge
from vdsm_mp.api.image import ReconcileImageVolumeChain
from vdsm_mp.api.verb import handles
from vdsm_mp.storage import image_merge, volume_undo
from vdsm_mp.storage.volume_access import Volumes, key_of
from vdsm_mp.tasks.run import TaskRun


@handles(PrepareMerge)
def prepare_merge(volumes: Volumes, ask: PrepareMerge) -> str:
    subchain = ask.subchain
    domain = volumes.of_spm(ask.pool_id, subchain.sd_id)

    def job(run: TaskRun) -> None:
        with volumes.changing_as_spm(
            f"prepareMerge {subchain.top_id}", domain, subchain.image_id, progress=run.progress
        ):
            image_merge.prepare(domain, subchain, run.progress)
        run.settle()

    # The base may have grown without its metadata.
    steps = (volume_undo.size_changed(domain, subchain.image_id, subchain.base_id),)
    return volumes.tasks.start("prepareMerge", job, spm=True, key=key_of(subchain.image_id), recoveries=steps)


@handles(FinalizeMerge)
def finalize_merge(volumes: Volumes, ask: FinalizeMerge) -> str:
    subchain = ask.subchain
    domain = volumes.of_spm(ask.pool_id, subchain.sd_id)

    def job(run: TaskRun) -> None:
        with volumes.changing_as_spm(
            f"finalizeMerge {subchain.top_id}", domain, subchain.image_id, progress=run.progress
        ):
            image_merge.finalize(domain, subchain)

    return volumes.tasks.start("finalizeMerge", job, spm=True, key=key_of(subchain.image_id))


@handles(ReconcileImageVolumeChain)
def reconcile(volumes: Volumes, ask: ReconcileImageVolumeChain) -> list[str]:
    domain = volumes.of_spm(ask.pool_id, ask.sd_id)
    with volumes.changing_as_spm(f"reconcileVolumeChain {ask.image_id}", domain, ask.image_id, within_s=30):
        return image_merge.reconcile(domain, ask.image_id, ask.leaf_volume_id)
