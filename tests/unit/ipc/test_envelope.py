# SPDX-License-Identifier: Apache-2.0
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdsm_mp.ipc.envelope import (
    BUS_VERSION,
    MAX_HEADER_BYTES,
    Broken,
    Notice,
    OtherVersion,
    Request,
    Seal,
    notices,
    replies,
    requests,
)

SEAL = Seal("token")
REQUEST = Request(BUS_VERSION, "call", 7, "clientif", 3, "virt", "VM.pause", 12.5, "flow", "::1:5000")


def sealed(raw: bytes, body: bytes = b"", seal: Seal = SEAL) -> bytes:
    """A frame with a good seal around any header."""
    return seal._seal(raw, body, b"") + raw


def test_a_header_comes_back_as_it_was() -> None:
    assert SEAL.open(requests, SEAL.close(REQUEST, b"{}"), b"{}") == REQUEST


def test_the_token_never_travels() -> None:
    assert b"token" not in SEAL.close(REQUEST, b"")


@pytest.mark.parametrize(
    ("frame", "body"),
    [
        (Seal("another").close(REQUEST, b"{}"), b"{}"),
        (SEAL.close(REQUEST, b"{}"), b"{} "),
        (SEAL.close(REQUEST, b"{}", b"topic"), b"{}"),
        (bytes(16) + msgspec.json.encode(REQUEST), b"{}"),
        (b"", b"{}"),
        (bytes(16), b"{}"),
        (bytes(MAX_HEADER_BYTES + 1), b"{}"),
    ],
)
def test_what_was_not_sealed_with_our_token_is_refused(frame: bytes, body: bytes) -> None:
    with pytest.raises(Broken):
        SEAL.open(requests, frame, body)


def test_a_message_of_one_kind_is_not_one_of_another() -> None:
    with pytest.raises(Broken):
        SEAL.open(replies, SEAL.close(REQUEST, b""), b"")


def test_a_request_of_another_version_can_be_answered() -> None:
    raw = msgspec.json.encode([BUS_VERSION + 1, "call", 42, "with", {"more": "fields"}])
    with pytest.raises(OtherVersion) as caught:
        SEAL.open(requests, sealed(raw), b"")
    assert caught.value.request_id == 42
    assert str(BUS_VERSION + 1) in str(caught.value)


def test_an_event_of_another_version_is_refused() -> None:
    frame = SEAL.close(Notice(BUS_VERSION + 1, "event", "virt", 1, 1), b"{}")
    with pytest.raises(Broken, match="version"):
        SEAL.open(notices, frame, b"{}")


def test_a_house_without_a_token_is_not_possible() -> None:
    with pytest.raises(ValueError, match="token"):
        Seal("")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=200) | JSON.map(msgspec.json.encode))
def test_no_bytes_under_a_good_seal_do_more_than_be_refused(raw: bytes) -> None:
    for decoder in (requests, replies, notices):
        try:
            SEAL.open(decoder, sealed(raw), b"")
        except Broken:
            continue


@settings(max_examples=200, deadline=None)
@given(frame=st.binary(max_size=300), body=st.binary(max_size=50))
def test_no_bytes_without_a_seal_pass(frame: bytes, body: bytes) -> None:
    with pytest.raises(Broken):
        SEAL.open(requests, frame, body)


def test_a_header_nested_too_deeply_is_refused() -> None:
    with pytest.raises(Broken):
        SEAL.open(requests, sealed(b"[" * 2000), b"")
