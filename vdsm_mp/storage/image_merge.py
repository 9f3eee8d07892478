# SPDX-License-Identifier: Apache-2.0
"""Cold merge: a volume's data goes down into its parent, and the volume out of the chain, while no VM uses the image.

Three steps, which the engine runs one after the other, each of which may simply be run again: `prepare` and `finalize`
on the SPM, the data in between as a job on any host. The engine deletes the merged volume afterwards.
"""

import logging

from msgspec.structs import replace

from vdsm_mp.api.errors_volume import (
    ImageIsNotLegalChain,
    UnexpectedVolumeState,
    VolumeExtendFailed,
    WrongParentVolume,
)
from vdsm_mp.api.sdm import Subchain
from vdsm_mp.api.types import BLANK
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.storage import bitmaps, qemuimg
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.image_prepare import check_chain, header_of
from vdsm_mp.storage.qcow2 import HEADER_BYTES, lost_bitmaps
from vdsm_mp.storage.volume_change import grow_raw
from vdsm_mp.storage.volume_file import (
    ImageFiles,
    change_metadata,
    read_image,
    read_volume,
    volume_path,
    write_metadata,
)
from vdsm_mp.storage.volume_spec import QEMU_FORMAT
from vdsm_mp.tasks.progress import Progress

_log = logging.getLogger("storage.merge")


def _read(domain: FileDomain, subchain: Subchain) -> ImageFiles:
    """The image, when base and top are in it as asked. Raises: VolumeDoesNotExist, WrongParentVolume, …"""
    image = read_image(domain, subchain.image_id)
    base, top = image.metadata(subchain.base_id), image.metadata(subchain.top_id)
    if top.parent != subchain.base_id:
        raise WrongParentVolume(subchain.top_id, subchain.base_id, top.parent)
    if base.shared or top.shared:
        raise UnexpectedVolumeState(subchain.base_id, "a template takes part in no merge")
    if len(image.children(subchain.base_id)) > 1:
        raise UnexpectedVolumeState(subchain.base_id, "more than one volume stands on it")
    return image


def prepare(domain: FileDomain, subchain: Subchain, progress: Progress) -> None:
    """Make the base large enough, and drop bitmaps of it that the top does not continue."""
    image = _read(domain, subchain)
    base, top = image.metadata(subchain.base_id), image.metadata(subchain.top_id)
    path = volume_path(subchain.image_id, subchain.base_id)
    absolute = domain.io.path_of(path)
    try:
        if base.cow:
            _drop_doubtful(domain, subchain)
            kept = bitmaps.usable(qemuimg.info(_path(domain, subchain, subchain.top_id), "qcow2").bitmaps)
            for one in qemuimg.info(absolute, "qcow2").bitmaps:
                if one["name"] not in kept:
                    qemuimg.bitmap(absolute, one["name"], "--remove")
        if base.capacity < top.capacity:
            if base.cow:
                qemuimg.resize(absolute, "qcow2", top.capacity)
            else:
                size = image.stat(subchain.base_id).size_bytes
                grow_raw(domain, path, size, top.capacity, progress, allocate=base.type == "PREALLOCATED")
            change_metadata(domain, subchain.image_id, subchain.base_id, capacity=top.capacity)
    except (CommandFailed, CommandOverdue) as e:
        raise VolumeExtendFailed(subchain.base_id, str(e)) from e


def commit(domain: FileDomain, subchain: Subchain, progress: Progress, *, merge_bitmaps: bool) -> None:
    """The data of the top into the base. Raises: CommandFailed, TaskAborted; the top still has all of it then."""
    image = _read(domain, subchain)
    check_chain(domain, image, image.chain_to(subchain.top_id))
    top, base = _path(domain, subchain, subchain.top_id), _path(domain, subchain, subchain.base_id)
    top_format = QEMU_FORMAT[image.metadata(subchain.top_id).format]
    with_bitmaps = merge_bitmaps and image.metadata(subchain.base_id).cow and top_format == "qcow2"
    if with_bitmaps:
        _drop_doubtful(domain, subchain)
    qemuimg.commit(top, top_format, subchain.base_id, progress)
    if with_bitmaps:
        bitmaps.merge(top, base)
    domain.io.fsync(volume_path(subchain.image_id, subchain.base_id))


def _drop_doubtful(domain: FileDomain, subchain: Subchain) -> None:
    """Before anything writes to the base: an earlier attempt may have been killed while it changed its bitmaps."""
    path = volume_path(subchain.image_id, subchain.base_id)
    lost = lost_bitmaps(domain.io.read(path, offset=0, length=HEADER_BYTES, direct=False))
    bitmaps.drop_doubtful(_path(domain, subchain, subchain.top_id), domain.io.path_of(path), lost=lost)


def finalize(domain: FileDomain, subchain: Subchain) -> None:
    """Take the top out of the chain: ILLEGAL, and its child, if it has one, on the base."""
    image = read_image(domain, subchain.image_id)
    children = image.children(subchain.top_id)
    top = image.metadata(subchain.top_id)
    base = image.metadata(subchain.base_id)
    if top.parent != subchain.base_id:
        raise WrongParentVolume(subchain.top_id, subchain.base_id, top.parent)
    change_metadata(domain, subchain.image_id, subchain.top_id, legality="ILLEGAL")
    for child in children:
        qemuimg.rebase_unsafe(_path(domain, subchain, child), subchain.base_id, QEMU_FORMAT[base.format])
        domain.io.fsync(volume_path(subchain.image_id, child))
        change_metadata(domain, subchain.image_id, child, parent=subchain.base_id)


def reconcile(domain: FileDomain, image_id: str, leaf_id: str) -> list[str]:
    """After a live merge that was cut short, of a VM that is gone. Returns the chain, base first.

    A leaf is ILLEGAL from just before QEMU leaves it for the volume below. Whether it had cannot be seen in the files,
    but when it had, all that the guest wrote since is below and nowhere else: there the image ends, as VDSM has it.
    """
    image = read_image(domain, image_id)
    if leaf_id in image.volumes and not image.metadata(leaf_id).legal:
        below = actual_chain(domain, image, leaf_id)[-2:-1]
        if below and not image.metadata(below[0]).shared:
            _log.warning("volume %s was being left for %s, where the image ends now", leaf_id, below[0])
            leaf_id = below[0]
    chain = follow(domain, image_id, leaf_id)
    make_leaf(domain, image_id, leaf_id)
    return chain


def make_leaf(domain: FileDomain, image_id: str, leaf_id: str) -> None:
    """Let its metadata say that nothing stands on it. No effect on a template."""
    leaf, _ = read_volume(domain, image_id, leaf_id)
    if leaf.voltype != "LEAF" and not leaf.shared:
        write_metadata(domain, image_id, leaf_id, replace(leaf, voltype="LEAF"))


def follow(domain: FileDomain, image_id: str, leaf_id: str) -> list[str]:
    """The headers of the volumes up to a leaf that is known are right: make the metadata so.

    Returns the chain by the headers, base first.
    """
    image = read_image(domain, image_id)
    actual = actual_chain(domain, image, leaf_id)
    wanted = image.chain_to(leaf_id) if leaf_id in image.volumes else actual
    for n, one in enumerate(actual):
        metadata = image.metadata(one)
        parent = actual[n - 1] if n else BLANK
        if not metadata.shared and metadata.parent != parent:
            _log.warning("volume %s: its parent is %s, metadata said %s", one, parent, metadata.parent)
            change_metadata(domain, image_id, one, parent=parent)
    for one in wanted:
        # The volume that was merged away: the engine deletes what is ILLEGAL.
        if one not in actual and image.metadata(one).legal:
            change_metadata(domain, image_id, one, legality="ILLEGAL")
    if wanted == actual and not image.metadata(leaf_id).legal:
        change_metadata(domain, image_id, leaf_id, legality="LEGAL")
    return actual


def actual_chain(domain: FileDomain, image: ImageFiles, leaf_id: str) -> list[str]:
    """The chain by the qcow2 headers, base first. Raises: VolumeDoesNotExist, ImageIsNotLegalChain."""
    chain = [leaf_id]
    while image.metadata(chain[-1]).cow:
        backing = header_of(domain, image, chain[-1]).backing
        if backing is None:
            break
        if backing in chain:
            raise ImageIsNotLegalChain(image.image_id, f"volume {backing} is its own ancestor")
        chain.append(backing)
    return chain[::-1]


def _path(domain: FileDomain, subchain: Subchain, volume_id: str) -> str:
    return domain.io.path_of(volume_path(subchain.image_id, volume_id))
