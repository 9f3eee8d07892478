# SPDX-License-Identifier: Apache-2.0
"""Volume metadata: VDSM's files read and written again byte for byte, any record kept, mutants refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support import domains
from tests.support.storage_room import StorageRoom
from vdsm_mp.api.errors_volume import (
    InvalidVolumeParameter,
    VolumeMetadataBadValue,
    VolumeMetadataCleared,
    VolumeMetadataInvalid,
)
from vdsm_mp.api.types import BLANK
from vdsm_mp.storage.volume_metadata import (
    DISK_TYPES,
    MAX_BYTES,
    MAX_DESCRIPTION,
    MAX_SEQUENCE,
    VolumeMetadata,
    description_of,
    from_bytes,
    next_generation,
    to_bytes,
)

VOLUME = "4ae2f714-ef98-5c3a-a34d-1609bd786d49"

_records = st.builds(
    VolumeMetadata,
    capacity=st.integers(1, 2**55 // 512).map(lambda blocks: blocks * 512),
    ctime=st.integers(0, 2**33),
    description=st.text(st.characters(blacklist_categories=("Cs", "Cc"))).map(description_of),
    disk_type=st.sampled_from(sorted(DISK_TYPES)),
    sd_id=st.uuids().map(str),
    format=st.sampled_from(["RAW", "COW"]),
    generation=st.integers(0, 999),
    image_id=st.uuids().map(str),
    legality=st.sampled_from(["LEGAL", "ILLEGAL", "FAKE"]),
    parent=st.uuids().map(str) | st.just(BLANK),
    type=st.sampled_from(["PREALLOCATED", "SPARSE"]),
    voltype=st.sampled_from(["LEAF", "INTERNAL", "SHARED"]),
    sequence=st.integers(0, MAX_SEQUENCE),
)


@given(_records, st.sampled_from([3, 4, 5]))
def test_a_record_is_read_back_and_never_takes_more_than_512_bytes(record: VolumeMetadata, version: int) -> None:
    data = to_bytes(VOLUME, record, version)
    assert len(data) <= MAX_BYTES
    assert from_bytes(VOLUME, data) == (record if version == 5 else replace(record, sequence=0))


@given(st.text(), st.integers(0, 999))
def test_a_description_from_elsewhere_never_keeps_a_volume_from_being_updated(text: str, generation: int) -> None:
    record = replace(
        from_bytes(VOLUME, GOOD), description=text.encode("utf-8", "replace").decode(), generation=generation
    )
    assert from_bytes(VOLUME, to_bytes(VOLUME, record, 5)).generation == generation


def test_a_description_that_vdsm_stored_is_kept_as_long_as_it_fits() -> None:
    """VDSM lets it have 210 characters of any size, as long as the whole fits."""
    bare = replace(from_bytes(VOLUME, GOOD), description="", generation=999)
    room = MAX_BYTES - len(to_bytes(VOLUME, bare, 5))
    longest = replace(bare, description="é" * (room // 2))
    assert len(longest.description.encode()) > 222
    assert from_bytes(VOLUME, to_bytes(VOLUME, longest, 5)) == longest
    grown = from_bytes(VOLUME, to_bytes(VOLUME, replace(longest, capacity=2**50, sequence=MAX_SEQUENCE), 5))
    assert len(longest.description) - 10 < len(grown.description) < len(longest.description)


def test_what_vdsm_wrote_is_understood_and_written_again_byte_for_byte(tmp_path: Path) -> None:
    seen = 0
    for domain in domains.unpack(tmp_path).values():
        for path in domain.root.glob("images/*/*.meta"):
            data = path.read_bytes()
            volume_id = path.name.removesuffix(".meta")
            record = from_bytes(volume_id, data)
            assert to_bytes(volume_id, record, 5) == data
            facts = domain.facts["volumes"].get(volume_id)
            if facts is None:  # in an image that is being removed
                continue
            seen += 1
            assert record == VolumeMetadata(
                capacity=facts["capacity"],
                ctime=facts["ctime"],
                description=facts["description"],
                disk_type=facts["disktype"],
                sd_id=domain.sd_id,
                format=facts["format"],
                generation=facts["generation"],
                image_id=facts["image"],
                legality=facts["legality"],
                parent=facts["parent"],
                type=facts["type"],
                voltype=facts["voltype"],
                sequence=facts["sequence"],
            )
    assert seen > 10


GOOD = (
    b"CAP=1073741824\nCTIME=1795412905\nDESCRIPTION=\nDISKTYPE=DATA\nDOMAIN=341902da-7203-5546-a679-2e704137c1e4\n"
    b"FORMAT=COW\nGEN=0\nIMAGE=e00168d8-d6ea-5d01-9ef9-d7d8654856ce\nLEGALITY=LEGAL\n"
    b"PUUID=c2b1b64d-394a-5d8f-a0e4-e27215cb3753\nSEQ=1\nTYPE=SPARSE\nVOLTYPE=LEAF\nEOF\n"
)


@pytest.mark.parametrize(
    "key",
    ["CAP", "CTIME", "DESCRIPTION", "DISKTYPE", "DOMAIN", "FORMAT", "IMAGE", "LEGALITY", "PUUID", "TYPE", "VOLTYPE"],
)
def test_metadata_without_a_key_that_must_be_there_is_refused(key: str) -> None:
    lines = [line for line in GOOD.splitlines(keepends=True) if not line.startswith(key.encode() + b"=")]
    with pytest.raises(VolumeMetadataInvalid):
        from_bytes(VOLUME, b"".join(lines))


@pytest.mark.parametrize("key", ["CAP", "CTIME", "GEN", "SEQ"])
@pytest.mark.parametrize("value", ["", "x", "1.5", "0x10", "1e3", "١", "9" * 40])
def test_a_number_that_is_none_is_refused(key: str, value: str) -> None:
    lines = [line for line in GOOD.decode().splitlines() if not line.startswith(f"{key}=")]
    with pytest.raises(VolumeMetadataInvalid):
        from_bytes(VOLUME, "\n".join([f"{key}={value}", *lines]).encode())


def test_reading_is_as_tolerant_as_vdsm() -> None:
    plain = from_bytes(VOLUME, GOOD)
    assert from_bytes(VOLUME, GOOD.replace(b"EOF\n", b"")) == plain
    assert from_bytes(VOLUME, GOOD.replace(b"\n", b"\r\n")) == plain
    assert from_bytes(VOLUME, GOOD + b"\xff\xfe whatever stands behind the end") == plain
    assert from_bytes(VOLUME, b"FUTURE=1\nno equals sign\n" + GOOD) == plain
    assert from_bytes(VOLUME, GOOD.ljust(512, b"\0")) == plain
    assert from_bytes(VOLUME, b"FORMAT=RAW\n" + GOOD).format == "COW"
    assert from_bytes(VOLUME, GOOD.replace(b"GEN=0\n", b"").replace(b"SEQ=1\n", b"")).sequence == 0
    assert from_bytes(VOLUME, GOOD.replace(b"CAP=1073741824", b"SIZE=2097152")) == plain
    assert from_bytes(VOLUME, b"SIZE=1\n" + GOOD) == plain
    assert from_bytes(VOLUME, GOOD.replace(b"GEN=0", b"GEN=1000")).generation == 1000


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(VolumeMetadataInvalid):
        from_bytes(VOLUME, b"X=\xff\n" + GOOD)
    with pytest.raises(VolumeMetadataInvalid):
        from_bytes(VOLUME, b"")


def test_a_cleared_slot_is_told_apart() -> None:
    with pytest.raises(VolumeMetadataCleared):
        from_bytes(VOLUME, b"NONE=" + b"#" * 502 + b"\nEOF\n")


@given(st.binary(max_size=600))
def test_any_bytes_are_understood_or_refused_and_nothing_worse(data: bytes) -> None:
    try:
        from_bytes(VOLUME, data)
    except (VolumeMetadataInvalid, VolumeMetadataCleared):
        return


def test_numbers_out_of_range_are_never_written() -> None:
    good = from_bytes(VOLUME, GOOD)
    for bad in (replace(good, generation=1000), replace(good, sequence=2**32), replace(good, capacity=-1)):
        with pytest.raises(VolumeMetadataBadValue):
            to_bytes(VOLUME, bad, 5)


def test_generations_begin_again_after_999() -> None:
    assert (next_generation(0), next_generation(998), next_generation(999)) == (1, 999, 0)


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "nul\0", "\x1b[0m"])
def test_a_description_that_would_end_its_line_is_refused(text: str) -> None:
    with pytest.raises(InvalidVolumeParameter):
        description_of(text)


def test_a_long_description_is_cut_between_characters() -> None:
    assert description_of("x" * 500) == "x" * MAX_DESCRIPTION
    assert set(description_of("é" * 500)) == {"é"}


def test_keys_that_nobody_knows_may_take_more_than_any_metadata_of_ours(spm: StorageRoom) -> None:
    """They were cut off with what stood behind them, and the volume could not be used."""
    image_id, volume_id = spm.create()
    meta = spm.image(image_id) / f"{volume_id}.meta"
    more = "".join(f"A{n:03}={'x' * 40}\r\n" for n in range(60))
    meta.write_text(more + meta.read_text())
    assert spm.info(image_id, volume_id)["status"] == "OK"
    assert len(spm.call("Image.prepare", **spm.names(image_id, volume_id))["imgVolumesInfo"]) == 1
    assert spm.call("StorageDomain.dump", sd_id=spm.sd_id)["volumes"][volume_id]["status"] == "OK"
