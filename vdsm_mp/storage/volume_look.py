# SPDX-License-Identifier: Apache-2.0
"""Looking into volumes with qemu-img: what it says of one, how large it would be elsewhere, may it be trusted."""

from vdsm_mp.api.errors_volume import ImageVerificationFailed, IncorrectFormat, VolumeNotInChain
from vdsm_mp.api.volume_look import MeasureVolume
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.storage import qemuimg
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.volume_file import read_image, volume_path
from vdsm_mp.storage.volume_spec import FORMATS, QEMU_FORMAT


def qemu_info(domain: FileDomain, image_id: str, volume_id: str) -> qemuimg.ImageInfo:
    """Raises: ImageDoesNotExist, VolumeDoesNotExist, CommandFailed."""
    image = read_image(domain, image_id)
    metadata = image.metadata(volume_id)
    image.stat(volume_id)
    return qemuimg.info(domain.io.path_of(volume_path(image_id, volume_id)), QEMU_FORMAT[metadata.format])


def measure(domain: FileDomain, ask: MeasureVolume) -> qemuimg.Measured:
    """Raises: ImageDoesNotExist, VolumeDoesNotExist, VolumeNotInChain, IncorrectFormat, CommandFailed."""
    if ask.dst_vol_format not in FORMATS:
        raise IncorrectFormat(f"format {ask.dst_vol_format} is neither COW (4) nor RAW (5)")
    image = read_image(domain, ask.image_id)
    chain = image.chain_to(ask.volume_id)
    if ask.base_id is not None:
        if ask.base_id not in chain:
            raise VolumeNotInChain(ask.base_id, ask.image_id)
        layers = chain[chain.index(ask.base_id) :]
    else:
        layers = chain if ask.backing_chain is not False else [ask.volume_id]
    described = [
        (domain.io.path_of(volume_path(ask.image_id, one)), QEMU_FORMAT[image.metadata(one).format]) for one in layers
    ]
    return qemuimg.measure(described, QEMU_FORMAT[FORMATS[ask.dst_vol_format]])


def verify_untrusted(domain: FileDomain, image_id: str, volume_id: str) -> None:
    """Somebody wrote the whole volume, header included: is it still what its metadata says, and nothing more?

    Raises: ImageVerificationFailed with the reason.
    """
    image = read_image(domain, image_id)
    metadata = image.metadata(volume_id)
    image.stat(volume_id)
    path = domain.io.path_of(volume_path(image_id, volume_id))
    fmt = QEMU_FORMAT[metadata.format]
    try:
        found = qemuimg.info(path, fmt, untrusted=True)
    except (CommandFailed, CommandOverdue) as e:
        raise ImageVerificationFailed(volume_id, str(e)) from e
    wanted = metadata.parent if metadata.has_parent else None
    if found.backing_filename != wanted:
        raise ImageVerificationFailed(volume_id, f"its backing file is {found.backing_filename!r}, not {wanted!r}")
    if found.external_data:
        raise ImageVerificationFailed(volume_id, "it keeps its data in another file")
    if fmt == "qcow2":
        allowed = ("0.10", "1.1") if domain.format.qcow2_compat == "1.1" else ("0.10",)
        if found.compat not in allowed:
            raise ImageVerificationFailed(volume_id, f"its compat level is {found.compat}, the domain takes {allowed}")
    if found.virtual_size > metadata.capacity:
        raise ImageVerificationFailed(
            volume_id, f"its virtual size is {found.virtual_size}, its capacity {metadata.capacity}"
        )
