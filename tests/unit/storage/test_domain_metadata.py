# SPDX-License-Identifier: Apache-2.0
"""The text of domain metadata: what is read, what is refused, what is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm_mp.api.errors_storage import (
    DomainMetadataInvalid,
    DomainMetadataRefused,
    DomainSealBroken,
    DomainVersionUnsupported,
)
from vdsm_mp.storage import domain_metadata as dm
from vdsm_mp.storage.domain_format import LINE_ENDS, DomainClass, DomainType, Role

SD = "4d1fd8fb-2a4a-4a51-9f64-5d3b5b3c0a01"
POOL = "8ead07c2-1a1b-5811-8654-a091e70f97a2"

EXAMPLE = f"""\
ALIGNMENT=1048576
BLOCK_SIZE=512
CLASS=Data
DESCRIPTION=storage domain
IOOPTIMEOUTSEC=10
LEASERETRIES=3
LEASETIMESEC=60
LOCKPOLICY=
LOCKRENEWALINTERVALSEC=5
POOL_UUID=
REMOTE_PATH=server:/export
ROLE=Regular
SDUUID={SD}
TYPE=NFS
VERSION=5
_SHA_CKSUM=1442c2b26907c87f9f915576d67ca397f7a1d8ab
""".encode()


def test_the_seal_is_that_of_vdsm() -> None:
    assert dm.seal_of({"key 1": "value 1", "key 2": "value 2"}) == "ad4e8ffdd89dde809bf1ed700838b590b08a3826"
    assert dm.seal_of({"int_str": "1", "str_str": "2"}) == "fd58b7962408a4956bd694d617a1201306b363c2"


def test_the_example_is_read_and_written_byte_for_byte() -> None:
    meta = dm.decode(SD, dm.parse(SD, EXAMPLE))
    assert (meta.kind, meta.cls, meta.role, meta.version) == (DomainType.NFS, DomainClass.DATA, Role.REGULAR, 5)
    assert (meta.pool_ids, meta.block_size, meta.alignment) == ((), 512, 2**20)
    assert dm.serialize(SD, dm.encode(meta)) == EXAMPLE


text = st.text(st.characters(blacklist_characters=[*LINE_ENDS, "\0"], blacklist_categories=["Cs"]), max_size=60)
keys = st.text("ABCDEFGHIJ_0123456789", min_size=1, max_size=12).filter(lambda k: k != dm.SEAL)


@given(st.dictionaries(keys, text))
def test_any_pairs_survive_writing_and_reading(pairs: dict[str, str]) -> None:
    assert dm.parse(SD, dm.serialize(SD, pairs)) == pairs
    assert dm.parse(SD, dm.serialize(SD, pairs) + b"\0" * 100) == pairs


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_is_no_domain(data: bytes) -> None:
    try:
        pairs = dm.parse(SD, data)
    except (DomainMetadataInvalid, DomainSealBroken):
        return
    with pytest.raises(DomainMetadataInvalid):
        dm.decode(SD, pairs)


@given(st.integers(0, len(EXAMPLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_changes_the_meaning_unnoticed(where: int, by: int) -> None:
    mutant = bytearray(EXAMPLE)
    mutant[where] ^= by
    original = dm.decode(SD, dm.parse(SD, EXAMPLE))
    try:
        meta = dm.decode(SD, dm.parse(SD, bytes(mutant)))
    except (DomainMetadataInvalid, DomainSealBroken):
        return
    # What is left is a damaged name of the seal's key: the file then counts as one that has no seal.
    assert all(meta.pairs[key] == value for key, value in original.pairs.items())


@given(st.integers(0, len(EXAMPLE) - 2))
def test_a_truncated_file_is_refused(length: int) -> None:
    with pytest.raises((DomainMetadataInvalid, DomainSealBroken)):
        meta = dm.decode(SD, dm.parse(SD, EXAMPLE[:length]))
        if meta.pairs == dm.parse(SD, EXAMPLE):  # cut exactly in or before the seal's line: nothing is lost
            raise DomainSealBroken(SD, "whole")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("VERSION", "five"),
        ("VERSION", ""),
        ("VERSION", None),
        ("SDUUID", POOL),
        ("SDUUID", None),
        ("TYPE", "FLOPPY"),
        ("CLASS", None),
        ("ROLE", "King"),
        ("BLOCK_SIZE", "1024"),
        ("ALIGNMENT", "3145728"),
        ("ALIGNMENT", "٣"),
    ],
)
def test_a_key_that_cannot_be_is_refused_by_name(key: str, value: str | None) -> None:
    pairs = dm.parse(SD, EXAMPLE)
    pairs.pop(key)
    if value is not None:
        pairs[key] = value
    sealed = dm.parse(SD, dm.serialize(SD, pairs))
    with pytest.raises(DomainMetadataInvalid, match=f"dom_md/metadata: {key}"):
        dm.decode(SD, sealed)


@pytest.mark.parametrize("version", ["1", "6", "-1"])
def test_a_version_that_nobody_knows_is_told_as_one(version: str) -> None:
    with pytest.raises(DomainVersionUnsupported):
        dm.decode(SD, dm.parse(SD, EXAMPLE) | {"VERSION": version})


def test_a_domain_that_says_nothing_of_blocks_has_the_usual_ones() -> None:
    """VDSM opens such a domain of version 5; the seal tells whether something was lost."""
    pairs = {key: value for key, value in dm.parse(SD, EXAMPLE).items() if key not in ("BLOCK_SIZE", "ALIGNMENT")}
    meta = dm.decode(SD, pairs)
    assert (meta.version, meta.block_size, meta.alignment) == (5, 512, 2**20)
    assert dm.encode(meta) == dm.parse(SD, EXAMPLE)


@pytest.mark.parametrize("other", [{"BLOCK_SIZE": "4096"}, {"ALIGNMENT": "8388608"}])
def test_an_old_format_has_no_other_blocks(other: dict[str, str]) -> None:
    old = dm.parse(SD, EXAMPLE) | {"VERSION": "4"}
    assert (dm.decode(SD, old).block_size, dm.decode(SD, old).alignment) == (512, 2**20)
    with pytest.raises(DomainMetadataRefused):
        dm.decode(SD, old | other)


def test_a_wrong_seal_is_refused() -> None:
    with pytest.raises(DomainSealBroken):
        dm.parse(SD, EXAMPLE.replace(b"Regular", b"Master"))


def test_the_last_of_two_equal_keys_counts() -> None:
    sealed = dm.serialize(SD, {"A": "2", "B": "x=y"})
    assert dm.parse(SD, b"A=1\nno equals sign\n" + sealed) == {"A": "2", "B": "x=y"}


def test_unknown_keys_and_odd_lease_numbers_are_kept_or_defaulted() -> None:
    pairs = dm.parse(SD, EXAMPLE) | {"FUTURE": "thing", "LEASERETRIES": "many"}
    meta = dm.decode(SD, pairs)
    assert meta.lease.retries == 3
    assert dm.encode(meta)["FUTURE"] == "thing"


@pytest.mark.parametrize("bad", ["a\nb", "a\u2028b", "a\x85", "a\x1cb"])
def test_a_value_that_would_break_the_seal_is_not_written(bad: str) -> None:
    with pytest.raises(DomainMetadataRefused):
        dm.serialize(SD, {"DESCRIPTION": bad})


def test_pool_keys_round_trip_and_leave_with_the_pool() -> None:
    meta = dm.decode(SD, dm.parse(SD, EXAMPLE))
    pool = dm.PoolMetadata(name="dc é", domains={SD: "Active", POOL: "Attached"}, master_version=3)
    mastered = dm.decode(SD, dm.parse(SD, dm.serialize(SD, dm.encode(dm.with_pool(meta, pool)))))
    assert dm.decode_pool(SD, mastered.pairs) == pool
    taken = dm.with_pool_role(mastered, 7, 12)
    assert (dm.decode_pool(SD, taken.pairs).spm_id, dm.decode_pool(SD, taken.pairs).lver) == (7, 12)
    assert dm.serialize(SD, dm.encode(dm.without_pool(mastered))) == EXAMPLE


def test_the_pool_of_a_domain_leaves_out_the_blank_id() -> None:
    pairs = dm.parse(SD, EXAMPLE) | {"POOL_UUID": f"00000000-0000-0000-0000-000000000000,{POOL}"}
    assert dm.decode(SD, pairs).pool_ids == (POOL,)


def test_a_pool_with_an_unreadable_member_is_refused_whole() -> None:
    with pytest.raises(DomainMetadataInvalid, match="POOL_DOMAINS"):
        dm.decode_pool(SD, {"POOL_DOMAINS": f"{SD}:Active,{POOL}:Sleepy"})
    assert dm.decode_pool(SD, {"POOL_DOMAINS": f"{SD}:Inactive"}).domains == {SD: "Attached"}
    words = f"{SD}:active,{POOL}:Unattached,5d000000-0000-4000-8000-000000000009:Unknown"
    assert dm.decode_pool(SD, {"POOL_DOMAINS": words}).domains == {SD: "Active"}


def test_members_in_quotes_are_members_as_well() -> None:
    """VDSM takes both forms; a list is written anew only when a domain comes or goes."""
    quoted = f"'{SD}':'Active','{POOL}':'attached'"
    assert dm.decode_pool(SD, {"POOL_DOMAINS": quoted}).domains == {SD: "Active", POOL: "Attached"}


def test_a_line_that_is_read_can_be_written_again_however_odd() -> None:
    """Otherwise such a domain could never be changed."""
    pairs = {"": "no key", "NUL": "a\0b", **dm.parse(SD, EXAMPLE)}
    assert dm.parse(SD, dm.serialize(SD, pairs)) == pairs
    meta = dm.decode(SD, pairs)
    assert dm.parse(SD, dm.serialize(SD, dm.encode(meta))) == pairs
