# SPDX-License-Identifier: Apache-2.0
"""Make an image usable on this host, and undo it.

On file storage nothing has to be activated: the chain is checked, and a link below the run directory names the image's
directory for as long as it is in use. The link is what a running VM's disks go through, since the links of the
repository come and go with the pool; it lives on this host's own disk, so it is made and removed without the I/O child.

A disk's header is the guest's word. QEMU would open whatever file it names, so every volume's header is compared with
the chain before anybody opens it: a backing file is another volume of the same image or the image is refused.
"""

import logging
import os
import stat
import uuid
from pathlib import Path

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_volume import ImageIsNotLegalChain, PrepareIllegalVolume
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.qcow2 import HEADER_BYTES, NotQcow2, Qcow2Header, read_header
from vdsm_mp.storage.volume_file import ImageFiles, image_path, read_image, volume_path, write_metadata

_log = logging.getLogger("storage.prepare")


class PreparedImage(msgspec.Struct, frozen=True):
    """chain: volume ids, base first. run_path: directory through which a VM opens them."""

    domain: FileDomain
    image: ImageFiles
    chain: list[str]
    run_path: str

    @property
    def leaf(self) -> str:
        return self.chain[-1]


class RunLinks:
    """`RUN/storage/SD/IMAGE` -> the image's directory. What is prepared on this host, and survives the agent."""

    def __init__(self, run_dir: str) -> None:
        self._root = Path(run_dir) / "storage"

    def path(self, sd_id: str, image_id: str) -> str:
        return str(self._root / sd_id / image_id)

    def add(self, sd_id: str, image_id: str, target: str) -> None:
        """In one step, also over another link. Idempotent."""
        link = self._root / sd_id / image_id
        if link.is_symlink() and os.readlink(link) == target:  # noqa: PTH115 -- the link, not what it names
            return
        link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        aside = link.with_name(f".{uuid.uuid4()}")
        aside.symlink_to(target)
        aside.rename(link)

    def remove(self, sd_id: str, image_id: str) -> None:
        """Idempotent."""
        link = self._root / sd_id / image_id
        link.unlink(missing_ok=True)
        try:
            link.parent.rmdir()
        except OSError:  # other images of the domain are in use, or none ever was
            return

    def prepared(self) -> list[tuple[str, str]]:
        """[(sd_id, image_id)] of everything in use on this host."""
        return [(link.parent.name, link.name) for link in self._root.glob("*/*") if link.is_symlink()]


def prepare(
    domain: FileDomain, links: RunLinks, image_id: str, volume_id: str, *, allow_illegal: bool = False
) -> PreparedImage:
    """Check the chain up to `volume_id` and make it usable. Idempotent.

    Raises: ImageDoesNotExist, VolumeDoesNotExist, ImageIsNotLegalChain, PrepareIllegalVolume, VolumeMetadataInvalid,
    storage errors; nothing was prepared then.
    """
    image = read_image(domain, image_id)
    chain = image.chain_to(volume_id)
    for one in chain:
        if not allow_illegal and not image.metadata(one).legal:
            raise PrepareIllegalVolume(one)
    check_chain(domain, image, chain)
    links.add(domain.sd_id, image_id, domain.io.path_of(image_path(image_id)))
    return PreparedImage(domain, image, chain, links.path(domain.sd_id, image_id))


def check_chain(domain: FileDomain, image: ImageFiles, chain: list[str]) -> None:
    """Before any program opens these volumes. Raises: ImageIsNotLegalChain, VolumeDoesNotExist, storage errors."""
    for one in chain:
        _check_volume(domain, image, one)


def _check_volume(domain: FileDomain, image: ImageFiles, volume_id: str) -> None:
    """The file is what its metadata says. Repairs what VDSM repairs here: a capacity that is too small, group bits."""
    metadata, file = image.metadata(volume_id), image.stat(volume_id)
    path = volume_path(image.image_id, volume_id)
    user, group = file.mode >> 6 & 7, file.mode >> 3 & 7
    if user & ~group:
        domain.io.chmod(path, stat.S_IMODE(file.mode) | user << 3)
    virtual_bytes = file.size_bytes
    if metadata.cow:
        virtual_bytes = _check_header(domain, image, volume_id)
    if not metadata.shared and metadata.capacity < virtual_bytes:
        _log.warning("volume %s: capacity %d is corrected to %d", volume_id, metadata.capacity, virtual_bytes)
        write_metadata(domain, image.image_id, volume_id, replace(metadata, capacity=virtual_bytes))


def _check_header(domain: FileDomain, image: ImageFiles, volume_id: str) -> int:
    """Returns the virtual size. Raises: ImageIsNotLegalChain."""
    metadata, header = image.metadata(volume_id), header_of(domain, image, volume_id)
    if header.backing is None and metadata.has_parent:
        raise ImageIsNotLegalChain(image.image_id, f"volume {volume_id} has no backing file, only a parent")
    if header.backing is not None and header.backing != metadata.parent:
        # An interrupted live merge leaves this; the engine has it reconciled, and the data is found either way.
        _log.warning("volume %s: backed by %s, metadata says %s", volume_id, header.backing, metadata.parent)
    return header.virtual_bytes


def header_of(domain: FileDomain, image: ImageFiles, volume_id: str) -> Qcow2Header:
    """A header that leads nowhere but into the same image. Raises: ImageIsNotLegalChain, storage errors."""
    data = domain.io.read(volume_path(image.image_id, volume_id), offset=0, length=HEADER_BYTES, direct=False)
    try:
        header = read_header(data)
    except NotQcow2 as e:
        raise ImageIsNotLegalChain(image.image_id, f"volume {volume_id} is no qcow2 file: {e}") from e
    if header.external_data:
        raise ImageIsNotLegalChain(image.image_id, f"volume {volume_id} keeps its data in another file")
    if header.backing is not None and header.backing not in image.volumes:
        raise ImageIsNotLegalChain(image.image_id, f"volume {volume_id} is backed by {header.backing[:200]!r}")
    return header
