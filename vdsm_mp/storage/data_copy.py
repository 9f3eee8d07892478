# SPDX-License-Identifier: Apache-2.0
"""SDM.copy_data: what is in one end into another. An end is a volume, or the device of a managed volume.

A volume that is written is guarded by its lease, its generation and its legality (`volume_operation`); a device has
nothing of its own, so a lease of the job's keeps them (`job_lease`). On this host both are claimed, devices by their
number: whoever detaches one waits, and then is refused.

Both kinds have: identity; label, for messages; key, of background work in order; names and domains, to be claimed;
look(), as a source; writing(), begun and not ended for whoever looks, then done or failed; fill(), inside that.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from vdsm_mp.api.errors_volume import InvalidVolumeParameter, SharedVolumeNotWritable, VolumeCopyFailed
from vdsm_mp.api.lease import LeaseName
from vdsm_mp.api.sdm import CopyData, CopyEndpoint, VolumeRef
from vdsm_mp.api.verb import handles
from vdsm_mp.common.command import CommandFailed, CommandOverdue
from vdsm_mp.storage import bitmaps, job_lease, qemuimg
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.image_copy import as_copy_failure
from vdsm_mp.storage.image_prepare import check_chain
from vdsm_mp.storage.managed import Device, ManagedVolumes
from vdsm_mp.storage.resources import Name
from vdsm_mp.storage.volume_access import Volumes, key_of
from vdsm_mp.storage.volume_create import empty_file
from vdsm_mp.storage.volume_file import read_image, read_volume, volume_path
from vdsm_mp.storage.volume_metadata import VolumeMetadata
from vdsm_mp.storage.volume_operation import operation
from vdsm_mp.storage.volume_spec import QEMU_FORMAT
from vdsm_mp.tasks.jobs import Jobs
from vdsm_mp.tasks.progress import Progress

#: Names of an endpoint's formats -> QEMU's.
_FORMATS = {"raw": "raw", "cow": "qcow2"}


class Data(msgspec.Struct, frozen=True):
    """What QEMU may open. format: QEMU's name."""

    path: str
    format: str
    virtual_bytes: int


@handles(CopyData)
def copy_data(volumes: Volumes, managed: ManagedVolumes, jobs: Jobs, ask: CopyData) -> None:
    source, target = (_end(volumes, managed, ask.job_id, one) for one in (ask.source, ask.destination))
    if isinstance(target, DeviceEnd) and target.lease is None:
        raise InvalidVolumeParameter("lease", "a device is written under one only")
    if source.identity == target.identity:
        raise InvalidVolumeParameter("destination", "it is the source")

    def work(progress: Progress) -> None:
        shared = (*source.domains, *source.names, *target.domains)
        with volumes.resources.claim(f"copy_data {ask.job_id}", shared=shared, exclusive=target.names):
            data = source.look()
            with target.writing(), as_copy_failure(source.label):
                target.fill(data, progress, with_bitmaps=bool(ask.copy_bitmaps))

    jobs.start(ask.job_id, "copy_data", work, key=target.key)


def _end(volumes: Volumes, managed: ManagedVolumes, job_id: str, asked: CopyEndpoint) -> "VolumeEnd | DeviceEnd":
    """Raises: InvalidVolumeParameter, ManagedVolumeHelperFailed."""
    if asked.endpoint_type == "external":
        fmt = _FORMATS.get(asked.format or "raw")
        if fmt is None:
            raise InvalidVolumeParameter("format", f"{asked.format}: it is none of {', '.join(_FORMATS)}")
        return DeviceEnd(volumes, managed, job_id, asked, fmt)
    if asked.endpoint_type != "div":
        raise InvalidVolumeParameter("endpoint_type", asked.endpoint_type)
    if asked.sd_id is None or asked.image_id is None or asked.volume_id is None:
        raise InvalidVolumeParameter("endpoint", "sd_id, img_id or vol_id is missing")
    ref = VolumeRef(sd_id=asked.sd_id, image_id=asked.image_id, volume_id=asked.volume_id, generation=asked.generation)
    return VolumeEnd(volumes, ref)


def _begins_empty(metadata: VolumeMetadata) -> bool:
    """A new file is exactly as sparse as the data; what has a parent or must stay allocated keeps its shape."""
    return metadata.type == "SPARSE" and not metadata.has_parent


class VolumeEnd:
    def __init__(self, volumes: Volumes, ref: VolumeRef) -> None:
        self._volumes = volumes
        self._ref = ref

    @property
    def identity(self) -> Name:
        return ("volume", self._ref.sd_id, self._ref.image_id, self._ref.volume_id)

    @property
    def label(self) -> str:
        return self._ref.volume_id

    @property
    def key(self) -> str:
        return key_of(self._ref.image_id)

    @property
    def names(self) -> tuple[Name, ...]:
        return (("image", self._ref.sd_id, self._ref.image_id),)

    @property
    def domains(self) -> tuple[Name, ...]:
        return (("domain", self._ref.sd_id),)

    def look(self) -> Data:
        """Raises: what makes it no source."""
        metadata = self._checked()
        return Data(self._path, QEMU_FORMAT[metadata.format], metadata.capacity)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raises: what `operation` does; nothing has changed then."""
        ref, image = self._ref, read_image(self._domain, self._ref.image_id)
        if image.metadata(ref.volume_id).shared:  # others stand on what it holds
            raise SharedVolumeNotWritable(ref.volume_id)
        if not _begins_empty(image.metadata(ref.volume_id)):  # else nobody reads what an attempt before may have left
            check_chain(self._domain, image, image.chain_to(ref.volume_id))
        with operation(
            self._volumes, self._domain, ref.image_id, ref.volume_id, generation=ref.generation, set_illegal=True
        ):
            yield

    def fill(self, source: Data, progress: Progress, *, with_bitmaps: bool) -> None:
        """Raises: CommandFailed, CommandOverdue, TaskAborted."""
        domain, ref, path = self._domain, self._ref, self._path
        metadata, _ = read_volume(domain, ref.image_id, ref.volume_id)
        fmt = QEMU_FORMAT[metadata.format]
        anew = _begins_empty(metadata)
        made = anew and self._emptied(metadata, source)
        with_bitmaps = with_bitmaps and source.format == fmt == "qcow2"
        if with_bitmaps and not anew:
            bitmaps.clear(path)  # of a copy that was cut short: qemu-img adds to none that is there
        qemuimg.convert(
            source.path,
            source.format,
            path,
            fmt,
            progress,
            create=anew and not made,
            compat=domain.format.qcow2_compat if metadata.cow else "",
            backing=metadata.parent if metadata.has_parent else "",
            target_is_zero=made,
            bitmaps=with_bitmaps,
        )
        if metadata.type != "SPARSE":  # qemu-img punches holes where the source has zeros
            qemuimg.fallocate(path, 0, metadata.capacity, progress)
        if anew and not made and metadata.capacity > source.virtual_bytes:
            qemuimg.resize(path, fmt, metadata.capacity)
        domain.io.fsync(volume_path(ref.image_id, ref.volume_id))

    def _emptied(self, metadata: VolumeMetadata, source: Data) -> bool:
        """Made empty by us, where that can be done: QEMU removes a qcow2 file that it finds no room to make anew."""
        capacity, domain = max(metadata.capacity, source.virtual_bytes), self._domain
        file = empty_file(domain, metadata.format, capacity)
        if file is not None:
            path = volume_path(self._ref.image_id, self._ref.volume_id)
            domain.io.empty_volume(path, size=file.size_bytes, pieces=file.pieces)
        return file is not None

    @property
    def _domain(self) -> FileDomain:
        return self._volumes.domains.find(self._ref.sd_id)

    @property
    def _path(self) -> str:
        return self._domain.io.path_of(volume_path(self._ref.image_id, self._ref.volume_id))

    def _checked(self) -> VolumeMetadata:
        """Its chain leads nowhere but into its image."""
        domain, ref = self._domain, self._ref
        image = read_image(domain, ref.image_id)
        check_chain(domain, image, image.chain_to(ref.volume_id))
        return image.metadata(ref.volume_id)


class DeviceEnd:
    """Looked up by what the client calls it when the end is made, and again when it is used."""

    def __init__(self, volumes: Volumes, managed: ManagedVolumes, job_id: str, asked: CopyEndpoint, fmt: str) -> None:
        self._volumes = volumes
        self._managed = managed
        self._job_id = job_id
        self._url = asked.url or ""
        self._format = fmt
        self._is_zero = bool(asked.is_zero)
        self._generation = asked.generation
        self.lease: LeaseName | None = asked.lease
        self._claimed = managed.device_at(self._url)

    @property
    def identity(self) -> Name:
        return self._claimed.claim

    @property
    def label(self) -> str:
        return self._claimed.vol_id

    @property
    def key(self) -> str:
        return f"device {self._claimed.number}"

    @property
    def names(self) -> tuple[Name, ...]:
        return (self._claimed.claim,)

    @property
    def domains(self) -> tuple[Name, ...]:
        return (("domain", self.lease.sd_id),) if self.lease is not None else ()

    def look(self) -> Data:
        """What it holds is a guest's word: nothing else may be opened for it. Raises: VolumeCopyFailed, …"""
        device = self._device()
        try:
            found = qemuimg.info(device.path, self._format, shared=False, untrusted=True)
        except (CommandFailed, CommandOverdue) as e:
            raise VolumeCopyFailed(device.vol_id, str(e)) from e
        if found.backing_filename is not None or found.external_data:
            raise VolumeCopyFailed(device.vol_id, "its data are not all in it")
        return Data(device.path, self._format, found.virtual_size)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Raises: what `job_lease.working` does; nothing has changed then."""
        self._device()
        assert self.lease is not None, "a destination has one"
        with job_lease.working(self._volumes, self.lease, self._job_id, self._generation):
            yield

    def fill(self, source: Data, progress: Progress, *, with_bitmaps: bool) -> None:
        """Raises: CommandFailed, CommandOverdue, TaskAborted."""
        path, cow = self._device().path, self._format == "qcow2"
        qemuimg.convert(
            source.path,
            source.format,
            path,
            self._format,
            progress,
            create=cow,
            compat="1.1" if cow else "",
            target_is_zero=self._is_zero and not cow,
            unordered=not cow,
            bitmaps=with_bitmaps and cow and source.format == "qcow2",
        )
        qemuimg.flush(path, progress)

    def _device(self) -> Device:
        """As it is now; detached and attached again it may be another."""
        found = self._managed.device_at(self._url)
        if found != self._claimed:
            raise InvalidVolumeParameter("url", f"{self._url[:200]!r} is another device by now")
        return found
