# SPDX-License-Identifier: Apache-2.0
"""Handlers of Image.*, and of preparing and tearing down disks for the virt worker."""

import logging

from msgspec import UNSET

from vdsm_mp.api.errors_storage import IoChildDied, IoTimedOut
from vdsm_mp.api.errors_volume import DiscardNotSupported
from vdsm_mp.api.image import (
    DeleteImage,
    DeleteImageVolumes,
    GetImageVolumes,
    PreparedImagePaths,
    PreparedVolume,
    PrepareImage,
    TeardownImage,
    VmVolume,
)
from vdsm_mp.api.internal import ChainLink, PreparedDrive, PrepareDrive, TeardownDrive
from vdsm_mp.api.types import BLANK
from vdsm_mp.api.verb import handles
from vdsm_mp.common.errors import Error
from vdsm_mp.storage import fake_template, image_delete, volume_delete
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.domain_format import DomainClass
from vdsm_mp.storage.image_prepare import PreparedImage, prepare
from vdsm_mp.storage.volume_access import Volumes, key_of
from vdsm_mp.storage.volume_file import read_image, volume_path
from vdsm_mp.storage.volume_info import lease_of
from vdsm_mp.storage.volume_metadata import VolumeMetadata
from vdsm_mp.tasks.run import TaskRun

_log = logging.getLogger("storage.image")


@handles(PrepareImage)
def prepare_image(volumes: Volumes, ask: PrepareImage) -> PreparedImagePaths:
    done = _prepare(volumes, ask)
    leaf = done.domain.io.path_of(volume_path(done.image.image_id, done.leaf))
    path = f"{done.run_path}/{done.leaf}" if ask.pool_id == BLANK else leaf
    return PreparedImagePaths(
        path=path,
        info=VmVolume(type="file", path=path),
        volumes=[_public(done, one) for one in done.chain],
    )


@handles(TeardownImage)
def teardown_image(volumes: Volumes, ask: TeardownImage) -> None:
    if ask.pool_id != BLANK:
        volumes.pools.require(ask.pool_id)
    volumes.links.remove(ask.sd_id, ask.image_id)


@handles(PrepareDrive)
def prepare_drive(volumes: Volumes, ask: PrepareDrive) -> PreparedDrive:
    done = _prepare(volumes, ask)
    metadata, file = done.image.metadata(done.leaf), done.image.stat(done.leaf)
    return PreparedDrive(
        path=f"{done.run_path}/{done.leaf}",
        format="cow" if metadata.cow else "raw",
        block=False,
        apparent_size_bytes=file.size_bytes,
        true_size_bytes=file.allocated_bytes,
        capacity_bytes=metadata.capacity,
        chain=[_internal(done, one) for one in done.chain],
    )


@handles(TeardownDrive)
def teardown_drive(volumes: Volumes, ask: TeardownDrive) -> None:
    volumes.links.remove(ask.sd_id, ask.image_id)


@handles(DeleteImage)
def delete_image(volumes: Volumes, ask: DeleteImage) -> str:
    domain = volumes.of_spm(ask.pool_id, ask.sd_id)
    if ask.discard:
        raise DiscardNotSupported(ask.sd_id)

    def job(run: TaskRun) -> None:
        for volume_id, metadata in used.items():
            with volumes.changing_as_spm(f"deleteImage {ask.image_id}", domain, ask.image_id, progress=run.progress):
                fake_template.ensure(domain, volumes.leases_of(domain), volume_id, metadata, run.progress)
        image_delete.remove_remnant(domain, remnant, run.progress)

    # Within one claim: what is swept as a remnant cannot be put back.
    with volumes.changing_as_spm(f"deleteImage {ask.image_id}", domain, ask.image_id, within_s=30):
        used = _templates_in_use(domain, ask.image_id)
        try:
            remnant = image_delete.take_away(domain, ask.image_id, wipe=ask.post_zero)
        except (IoTimedOut, IoChildDied):
            volumes.remnants.expect(domain.sd_id)
            raise
        try:
            return volumes.tasks.start(
                "deleteImage",
                job,
                spm=True,
                key=key_of(ask.image_id),
                job_name="purgeImage",
                on_failure=lambda: volumes.remnants.expect(domain.sd_id),
            )
        except Error:
            image_delete.put_back(domain, ask.image_id, remnant)
            raise


def _templates_in_use(domain: FileDomain, image_id: str) -> dict[str, VolumeMetadata]:
    """On an export domain a template that is used may go; a placeholder takes its place."""
    if domain.meta.cls is not DomainClass.BACKUP:
        return {}
    image = read_image(domain, image_id)
    return {one: image.metadata(one) for one in image_delete.used_templates(domain, image)}


@handles(DeleteImageVolumes)
def delete_volumes(volumes: Volumes, ask: DeleteImageVolumes) -> str:
    domain = volumes.of_spm(ask.pool_id, ask.sd_id)
    if ask.discard:
        raise DiscardNotSupported(ask.sd_id)

    def job(run: TaskRun) -> None:
        with volumes.changing_as_spm(f"deleteVolume {ask.image_id}", domain, ask.image_id, progress=run.progress):
            for n, volume_id in enumerate(ask.volume_list):
                run.check()
                run.progress.part(100.0 * n / len(ask.volume_list), 100.0 * (n + 1) / len(ask.volume_list))
                volume_delete.delete(
                    domain, ask.image_id, volume_id, run.progress, wipe=bool(ask.post_zero), force=bool(ask.force)
                )

    return volumes.tasks.start("deleteVolume", job, spm=True, key=key_of(ask.image_id))


@handles(GetImageVolumes)
def get_volumes(volumes: Volumes, ask: GetImageVolumes) -> list[str]:
    image = read_image(volumes.of_host(ask.pool_id, ask.sd_id), ask.image_id)
    return sorted([*image.volumes, *image.broken])


def _prepare(volumes: Volumes, ask: PrepareImage | PrepareDrive) -> PreparedImage:
    domain = volumes.of_host(ask.pool_id, ask.sd_id)
    with volumes.preparing(domain, ask.image_id):
        return prepare(domain, volumes.links, ask.image_id, ask.volume_id, allow_illegal=bool(ask.allow_illegal))


def _public(done: PreparedImage, volume_id: str) -> PreparedVolume:
    image_id = done.image.image_id
    lease = lease_of(done.domain, image_id, volume_id)
    return PreparedVolume(
        domain=done.domain.sd_id,
        image=image_id,
        volume=volume_id,
        path=done.domain.io.path_of(volume_path(image_id, volume_id)),
        lease_path=UNSET if lease is None else lease.path,
        lease_offset=UNSET if lease is None else lease.offset,
    )


def _internal(done: PreparedImage, volume_id: str) -> ChainLink:
    image_id = done.image.image_id
    lease = lease_of(done.domain, image_id, volume_id)
    return ChainLink(
        sd_id=done.domain.sd_id,
        image_id=image_id,
        volume_id=volume_id,
        path=f"{done.run_path}/{volume_id}",
        lease_path=None if lease is None else lease.path,
        lease_offset=None if lease is None else lease.offset,
    )
