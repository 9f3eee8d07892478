# SPDX-License-Identifier: Apache-2.0
import pytest

from vdsm_mp.api.errors_storage import (
    BlockSizeMismatch,
    DomainMetadataRefused,
    DomainTypeUnsupported,
    DomainVersionUnsupported,
    ServerParametersInvalid,
)
from vdsm_mp.storage.domain_format import (
    MIB,
    DomainClass,
    DomainType,
    Format,
    NewDomains,
    alignment_of,
    block_size_of,
    check_description,
    check_version,
)
from vdsm_mp.storage.mount import escape, normalize

LOCAL, NFS, POSIX = DomainType.LOCALFS, DomainType.NFS, DomainType.POSIXFS


@pytest.mark.parametrize(
    ("kind", "version", "asked", "probed", "expected"),
    [
        (LOCAL, 5, 0, 1, 512),
        (LOCAL, 5, 0, 4096, 4096),
        (LOCAL, 5, 4096, 1, 4096),
        (LOCAL, 5, 512, 512, 512),
        (NFS, 5, 512, 1, 512),
        (POSIX, 5, 512, 512, 512),
        (LOCAL, 4, 512, 1, 512),
    ],
)
def test_block_size_is_what_was_asked_and_the_storage_has(
    kind: DomainType, version: int, asked: int, probed: int, expected: int
) -> None:
    assert block_size_of("sd", Format(kind, version), asked, probed) == expected


@pytest.mark.parametrize(
    ("kind", "version", "asked", "probed", "error"),
    [
        (NFS, 5, 0, 1, DomainMetadataRefused),
        (NFS, 5, 4096, 4096, DomainMetadataRefused),
        (LOCAL, 4, 4096, 4096, DomainMetadataRefused),
        (LOCAL, 4, 0, 1, DomainMetadataRefused),
        (LOCAL, 5, 1024, 1, DomainMetadataRefused),
        (LOCAL, 5, 512, 4096, BlockSizeMismatch),
        (POSIX, 5, 512, 4096, BlockSizeMismatch),
    ],
)
def test_a_block_size_that_cannot_be_is_refused(
    kind: DomainType, version: int, asked: int, probed: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        block_size_of("sd", Format(kind, version), asked, probed)


def test_large_blocks_on_gluster_are_the_operator_s_choice() -> None:
    fmt, never = Format(DomainType.GLUSTERFS, 5), NewDomains(gluster_4k=False)
    assert [block_size_of("sd", fmt, asked, 4096) for asked in (0, 4096)] == [4096, 4096]
    assert block_size_of("sd", fmt, 512, 1, never) == 512
    for asked in (0, 4096):
        with pytest.raises(DomainMetadataRefused):
            block_size_of("sd", fmt, asked, 4096, never)


@pytest.mark.parametrize(
    ("block", "hosts", "align"),
    [(512, 2000, 1), (4096, 250, 1), (4096, 251, 2), (4096, 1000, 4), (4096, 2000, 8)],
)
def test_alignment_has_room_for_the_hosts(block: int, hosts: int, align: int) -> None:
    assert alignment_of("sd", block, hosts) == align * MIB


def test_impossible_numbers_are_refused() -> None:
    for hosts in (0, 2001):
        with pytest.raises(DomainMetadataRefused):
            alignment_of("sd", 4096, hosts)
    for version, cls in ((0, DomainClass.DATA), (2, DomainClass.DATA), (1, DomainClass.ISO), (6, DomainClass.BACKUP)):
        with pytest.raises(DomainVersionUnsupported):
            check_version("sd", version, cls)
    for number in (0, 8, -1):
        with pytest.raises(DomainTypeUnsupported):
            DomainType.of(number)
    with pytest.raises(DomainMetadataRefused):
        check_description("sd", "two\nlines")


def test_type_numbers_are_those_of_the_api() -> None:
    assert [DomainType.of(n).value for n in (1, 4, 6, 7)] == ["NFS", "LOCALFS", "POSIXFS", "GLUSTERFS"]
    assert DomainType.POSIXFS.number == 6


def test_what_a_format_has() -> None:
    assert not Format(LOCAL, 5).volume_leases
    assert not Format(LOCAL, 5).external_leases
    assert Format(NFS, 3).volume_leases
    assert not Format(NFS, 3).external_leases
    assert Format(NFS, 4).external_leases


@pytest.mark.parametrize(
    ("remote", "normal", "escaped"),
    [
        ("server:/export/a_b", "server:/export/a_b", "server:_export_a__b"),
        ("server:/a//b/", "server:/a/b", "server:_a_b"),
        ("server:/", "server:/", "server:_"),
        ("server:2049:/a/", "server:2049:/a", "server:2049:_a"),
        ("[fe80::1]:/a//b", "[fe80::1]:/a/b", "[fe80::1]:_a_b"),
        ("/srv//data/", "/srv/data", "_srv_data"),
        ("/", "/", "_"),
        ("/with:colon/x", "/with:colon/x", "_with:colon_x"),
    ],
)
def test_remote_paths_have_one_spelling_and_one_directory_name(remote: str, normal: str, escaped: str) -> None:
    assert normalize(remote) == normal
    assert escape(normal) == escaped
    assert normalize(normal) == normal


@pytest.mark.parametrize("bad", ["", "/a/../b", "server:/..", "a\0b", "/a\nb"])
def test_paths_that_lead_elsewhere_are_refused(bad: str) -> None:
    with pytest.raises(ServerParametersInvalid):
        normalize(bad)
