# SPDX-License-Identifier: Apache-2.0
"""The metadata of one volume: a record, and the at most 512 bytes of `KEY=VALUE` lines that other hosts read. Pure.

Reading is as tolerant as VDSM's (ranges and words are taken as they are) and refuses what it refuses; writing is
strict. Words are VDSM's: format RAW/COW, type PREALLOCATED/SPARSE, voltype LEAF/INTERNAL/SHARED, legality
LEGAL/ILLEGAL/FAKE.
"""

import re

import msgspec

from vdsm_mp.api.errors_volume import (
    InvalidVolumeParameter,
    VolumeMetadataBadValue,
    VolumeMetadataCleared,
    VolumeMetadataInvalid,
    VolumeMetadataTooLong,
)
from vdsm_mp.api.types import BLANK

MAX_BYTES = 512
MAX_DESCRIPTION = 210
#: GEN counts 0..999 and begins again.
GENERATIONS = 1000
MAX_SEQUENCE = 2**32 - 1

DISK_TYPES = frozenset({"DATA", "ISOF", "MEMD", "MEMM", "OVFS", "HEVD", "HESD", "HEMD", "HECI", "SCRD", "2", "1"})

#: Bytes everything but the description may ever take, so that a later change of a number always fits.
_REST_BYTES = 290
_LINE_ENDS = re.compile(r"\r\n|\r|\n")
#: What would end a line or vanish on reading.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


class VolumeMetadata(msgspec.Struct, frozen=True):
    """capacity: bytes the guest sees. ctime: seconds since the epoch. parent: BLANK for a base."""

    capacity: int
    ctime: int
    description: str
    disk_type: str
    sd_id: str
    format: str
    generation: int
    image_id: str
    legality: str
    parent: str
    type: str
    voltype: str
    sequence: int = 0

    @property
    def legal(self) -> bool:
        return self.legality != "ILLEGAL"

    @property
    def shared(self) -> bool:
        return self.voltype == "SHARED"

    @property
    def cow(self) -> bool:
        return self.format == "COW"

    @property
    def has_parent(self) -> bool:
        return self.parent != BLANK


def next_generation(generation: int) -> int:
    return (generation + 1) % GENERATIONS


def description_of(text: str) -> str:
    """A description as it is stored: at most 210 characters, and few enough bytes for the 512 of the whole.

    Raises: InvalidVolumeParameter for control characters, which would end the line or the file.
    """
    if _UNSAFE.search(text):
        raise InvalidVolumeParameter("description", "control characters")
    return _cut(text)


def _cut(text: str, most_bytes: int = MAX_BYTES - _REST_BYTES) -> str:
    raw = text[:MAX_DESCRIPTION].encode("utf-8", "replace")[:most_bytes]
    return raw.decode("utf-8", "ignore").strip()


def to_bytes(volume_id: str, metadata: VolumeMetadata, version: int) -> bytes:
    """The file. version: of the domain. Raises: VolumeMetadataTooLong, VolumeMetadataBadValue.

    A description that VDSM has stored may be longer than ours: it is cut only where it would not fit any more.
    """
    if not (
        0 <= metadata.generation < GENERATIONS and 0 <= metadata.sequence <= MAX_SEQUENCE and metadata.capacity >= 0
    ):
        raise VolumeMetadataBadValue(volume_id, "generation, sequence or capacity out of range")
    fields: dict[str, object] = {
        "CTIME": metadata.ctime,
        "DESCRIPTION": _cut(_UNSAFE.sub(" ", metadata.description), MAX_BYTES),
        "DISKTYPE": metadata.disk_type,
        "DOMAIN": metadata.sd_id,
        "FORMAT": metadata.format,
        "GEN": metadata.generation,
        "IMAGE": metadata.image_id,
        "LEGALITY": metadata.legality,
        "PUUID": metadata.parent,
        "TYPE": metadata.type,
        "VOLTYPE": metadata.voltype,
    }
    if version >= 5:
        fields |= {"CAP": metadata.capacity, "SEQ": metadata.sequence}
    else:
        fields |= {"SIZE": metadata.capacity // 512, "MTIME": 0}
    data = _lines(fields)
    if len(data) > MAX_BYTES:
        description = str(fields["DESCRIPTION"])
        left = len(description.encode()) - (len(data) - MAX_BYTES)
        data = _lines(fields | {"DESCRIPTION": _cut(description, max(0, left))})
    if len(data) > MAX_BYTES:
        raise VolumeMetadataTooLong(volume_id, len(data))
    return data


def _lines(fields: dict[str, object]) -> bytes:
    return "".join(f"{key}={fields[key]}\n" for key in sorted(fields)).encode() + b"EOF\n"


def from_bytes(volume_id: str, data: bytes) -> VolumeMetadata:
    """Raises: VolumeMetadataInvalid, VolumeMetadataCleared."""
    fields = _fields(volume_id, data.rstrip(b"\0"))
    if "NONE" in fields:
        raise VolumeMetadataCleared(volume_id)
    capacity = _number(volume_id, fields, "CAP") if "CAP" in fields else _number(volume_id, fields, "SIZE") * 512
    return VolumeMetadata(
        capacity=capacity,
        ctime=_number(volume_id, fields, "CTIME"),
        description=_text(volume_id, fields, "DESCRIPTION")[:MAX_DESCRIPTION],
        disk_type=_text(volume_id, fields, "DISKTYPE"),
        sd_id=_text(volume_id, fields, "DOMAIN"),
        format=_text(volume_id, fields, "FORMAT"),
        generation=_number(volume_id, fields, "GEN") if "GEN" in fields else 0,
        image_id=_text(volume_id, fields, "IMAGE"),
        legality=_text(volume_id, fields, "LEGALITY"),
        parent=_text(volume_id, fields, "PUUID"),
        type=_text(volume_id, fields, "TYPE"),
        voltype=_text(volume_id, fields, "VOLTYPE"),
        sequence=_number(volume_id, fields, "SEQ") if "SEQ" in fields else 0,
    )


def _fields(volume_id: str, data: bytes) -> dict[str, str]:
    """Up to a line that begins with EOF; what stands behind it need not even be text."""
    end = re.search(rb"(?:\A|[\r\n])EOF", data)
    try:
        text = (data[: end.start()] if end else data).decode("utf-8")
    except UnicodeDecodeError:
        raise VolumeMetadataInvalid(volume_id, "it is not text") from None
    found: dict[str, str] = {}
    for line in _LINE_ENDS.split(text):
        key, equals, value = line.partition("=")
        if equals:
            found[key.strip()] = value.strip()
    return found


def _text(volume_id: str, fields: dict[str, str], key: str) -> str:
    try:
        return fields[key]
    except KeyError:
        raise VolumeMetadataInvalid(volume_id, f"{key} is missing") from None


def _number(volume_id: str, fields: dict[str, str], key: str) -> int:
    text = _text(volume_id, fields, key)
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text):
        raise VolumeMetadataInvalid(volume_id, f"{key} is not a number: {text[:40]!r}")
    return int(text)
