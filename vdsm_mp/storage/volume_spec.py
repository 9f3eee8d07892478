# SPDX-License-Identifier: Apache-2.0
"""What a new volume is to be: the words and numbers of the wire, checked as far as that needs no storage. Pure."""

import msgspec
from msgspec.structs import replace

from vdsm_mp.api.errors_volume import IncorrectFormat, IncorrectType, InvalidVolumeParameter
from vdsm_mp.api.types import BLANK
from vdsm_mp.api.volume import CreateVolume
from vdsm_mp.storage.volume_metadata import DISK_TYPES, MAX_SEQUENCE, description_of

FORMATS = {4: "COW", 5: "RAW"}
ALLOCATIONS = {1: "PREALLOCATED", 2: "SPARSE"}


class _QemuFormats(dict[str, str]):
    """Metadata are read with any word: it fails where it would be used."""

    def __missing__(self, word: str) -> str:
        raise IncorrectFormat(f"format {word[:20]!r} is neither COW nor RAW")


#: QEMU's names. Raises: IncorrectFormat.
QEMU_FORMAT = _QemuFormats(COW="qcow2", RAW="raw")
#: Capacities are whole blocks of 4K sectors.
BLOCK = 4096
#: What VDSM allows a qcow2 file to take beyond its capacity.
COW_OVERHEAD = 1.1
MIB = 2**20


class VolumeSpec(msgspec.Struct, frozen=True):
    """A volume to be made. parent_image_id: of the template, or image_id itself; BLANK like parent for a base."""

    image_id: str
    volume_id: str
    capacity: int
    format: str
    type: str
    disk_type: str
    description: str
    parent_image_id: str = BLANK
    parent: str = BLANK
    initial_bytes: int | None = None
    legal: bool = True
    sequence: int = 0
    add_bitmaps: bool = False
    bitmap: str | None = None

    @property
    def based_on_template(self) -> bool:
        return self.parent != BLANK and self.parent_image_id != self.image_id


def spec_of(ask: CreateVolume) -> VolumeSpec:
    """Check everything that needs no storage. Raises: IncorrectFormat, IncorrectType, InvalidVolumeParameter."""
    if ask.vol_format not in FORMATS:
        raise IncorrectFormat(f"format {ask.vol_format} is neither COW (4) nor RAW (5)")
    if ask.preallocate not in ALLOCATIONS:
        raise IncorrectType(f"allocation {ask.preallocate} is neither preallocated (1) nor sparse (2)")
    if ask.disk_type not in DISK_TYPES:
        raise InvalidVolumeParameter("diskType", ask.disk_type)
    if (ask.sequence or 0) not in range(MAX_SEQUENCE + 1):
        raise InvalidVolumeParameter("sequence", str(ask.sequence))
    spec = VolumeSpec(
        image_id=ask.image_id,
        volume_id=ask.volume_id,
        capacity=round_up(size_of("size", ask.size), BLOCK),
        format=FORMATS[ask.vol_format],
        type=ALLOCATIONS[ask.preallocate],
        disk_type=ask.disk_type,
        description=description_of(ask.desc),
        parent_image_id=ask.src_image_id,
        parent=ask.src_volume_id,
        initial_bytes=size_of("initialSize", ask.initial_size) if ask.initial_size not in (None, "", "0") else None,
        legal=ask.legal is not False,
        sequence=ask.sequence or 0,
        add_bitmaps=bool(ask.add_bitmaps),
        bitmap=ask.bitmap,
    )
    return _checked(spec)


def _checked(spec: VolumeSpec) -> VolumeSpec:
    if spec.parent == BLANK:
        if spec.add_bitmaps:
            raise InvalidVolumeParameter("addBitmaps", "there is no parent to take bitmaps from")
    elif spec.format != "COW":
        raise IncorrectFormat("a volume with a parent must be COW")
    if spec.parent != BLANK and spec.parent_image_id == BLANK:
        spec = replace(spec, parent_image_id=spec.image_id)
    if spec.parent == spec.volume_id:
        raise InvalidVolumeParameter("srcVolUUID", "a volume cannot be its own parent")
    if spec.capacity < 1:
        raise InvalidVolumeParameter("size", str(spec.capacity))
    if (spec.add_bitmaps or spec.bitmap) and spec.format != "COW":
        raise IncorrectFormat("only COW volumes have bitmaps")
    if spec.initial_bytes is not None:
        if spec.format == "RAW" and spec.type == "SPARSE":
            raise InvalidVolumeParameter("initialSize", "not for a sparse raw volume")
        if spec.format == "COW" and spec.initial_bytes > round_up(int(spec.capacity * COW_OVERHEAD), MIB):
            raise InvalidVolumeParameter("initialSize", "more than the volume can take")
    return spec


def size_of(name: str, text: str | None) -> int:
    """A size in bytes from the wire's digits. Raises: InvalidVolumeParameter."""
    digits = (text or "").strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
        raise InvalidVolumeParameter(name, repr(text)[:60])
    return int(digits)


def round_up(size: int, step: int) -> int:
    return -(-size // step) * step
