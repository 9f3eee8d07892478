# SPDX-License-Identifier: Apache-2.0
"""STOMP frames as real clients write them, as bad ones do, and cut into pieces anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm_mp.wire import stomp
from vdsm_mp.wire.stomp import Broken, Frame, Parser, TooLong

CONNECT = b"CONNECT\naccept-version:1.2\nhost:null\nheart-beat:0,15000\n\n\0"
SEND = (
    b"SEND\ndestination:jms.topic.vdsm_requests\nreply-to:jms.topic.vdsm_responses\novirtCorrelationId:3f2a91c7\n"
    b'content-length:95\n\n{"jsonrpc":"2.0","method":"Host.ping2","params":{},'
    b'"id":"7b1b6a56-52a5-4f0c-8f43-1d1c0e6a9d10"}\0'
)


def all_of(octets: bytes, **limits: int) -> list[Frame]:
    parser = Parser(**limits)
    parser.feed(octets)
    return list(iter(parser.next, None))


def test_an_engines_first_frames_are_understood() -> None:
    connect, send = all_of(CONNECT + SEND)
    assert connect == Frame("CONNECT", {"accept-version": "1.2", "host": "null", "heart-beat": "0,15000"}, b"")
    assert send.headers["ovirtCorrelationId"] == "3f2a91c7"
    assert len(send.body) == 95


@pytest.mark.parametrize("size", [1, 2, 3, 7, 60])
def test_frames_may_arrive_in_pieces_of_any_size(size: int) -> None:
    octets = b"\n" + CONNECT + b"\r\n\n" + SEND + SEND
    parser, frames = Parser(), []
    for at in range(0, len(octets), size):
        parser.feed(octets[at : at + size])
        frames += list(iter(parser.next, None))
    assert frames == all_of(CONNECT + SEND + SEND)
    assert parser.pending == 0


def test_lines_may_end_with_cr_lf() -> None:
    assert all_of(b"SEND\r\ndestination:a\r\n\r\nbody\0") == [Frame("SEND", {"destination": "a"}, b"body")]


def test_mixed_line_ends_end_the_block_at_the_first_blank_line() -> None:
    assert all_of(b"SEND\ndestination:a\n\r\nb\n\nc\0") == [Frame("SEND", {"destination": "a"}, b"b\n\nc")]


def test_the_first_of_repeated_headers_wins() -> None:
    assert all_of(b"SEND\na:1\na:2\n\n\0")[0].headers == {"a": "1"}


def test_a_raw_second_colon_belongs_to_the_value() -> None:
    assert all_of(b"SEND\novirtCorrelationId:a:b:c\n\n\0")[0].headers == {"ovirtCorrelationId": "a:b:c"}


def test_escapes_are_undone_in_names_and_values_but_not_in_bodies() -> None:
    frame = all_of(b"SEND\na\\cb:c\\\\d\\ne\\rf\n\nx\\c\0")[0]
    assert frame == Frame("SEND", {"a:b": "c\\d\ne\rf"}, b"x\\c")


def test_a_body_with_content_length_may_hold_nul() -> None:
    assert all_of(b"SEND\ncontent-length:3\n\na\0b\0")[0].body == b"a\0b"


@pytest.mark.parametrize(
    "octets",
    [
        b"SEND\na\\t:b\n\n\0",
        b"SEND\na:b\\\n\n\0",
        b"SEND\nno colon\n\n\0",
        b"SEND\n:no name\n\n\0",
        b"SEND\na:\xff\n\n\0",
        b"SEND\na:\0\n\n\0",
        b"SEND\ncontent-length:-1\n\n\0",
        b"SEND\ncontent-length:NaN\n\n\0",
        b"SEND\ncontent-length:\n\n\0",
        b"SEND\ncontent-length: 1\n\na\0",
        b"SEND\ncontent-length:1_0\n\n\0",
        "SEND\ncontent-length:١\n\na\0".encode(),
        b"SEND\ncontent-length:10000000000\n\n",
        b"SEND\ncontent-length:" + b"9" * 5000 + b"\n\n",
        b"SEND\ncontent-length:2\n\nabc\0",
    ],
)
def test_what_is_not_stomp_is_refused(octets: bytes) -> None:
    with pytest.raises(Broken):
        all_of(octets)


def test_a_header_block_without_end_is_refused_at_its_limit() -> None:
    parser = Parser()
    for _ in range(4):
        parser.feed(b"x" * 16 * 1024)
        assert parser.next() is None
    parser.feed(b"x")
    with pytest.raises(Broken, match="header block"):
        parser.next()


def test_a_whole_header_block_above_the_limit_is_refused_too() -> None:
    with pytest.raises(Broken, match="header block"):
        all_of(b"SEND\na:" + b"x" * stomp.MAX_HEADER + b"\n\n\0")


def test_a_body_without_end_is_refused_at_the_limit_of_a_frame() -> None:
    with pytest.raises(Broken, match="larger"):
        all_of(b"SEND\n\n" + b"x" * 2000, max_frame=1000)


def test_a_frame_of_exactly_the_limit_is_read() -> None:
    head = b"SEND\ncontent-length:%d\n\n"
    size = 1000 - len(head % 900)
    assert len(all_of(head % size + b"x" * size + b"\0", max_frame=1000)[0].body) == size
    with pytest.raises(Broken):
        all_of(head % (size + 1), max_frame=1000)


def test_a_slow_sender_costs_no_repeated_searches() -> None:
    parser = Parser()
    parser.feed(b"SEND\n\n")
    for _ in range(20_000):
        parser.feed(b"x")
        assert parser.next() is None
    parser.feed(b"\0")
    assert parser.next() == Frame("SEND", {}, b"x" * 20_000)


def test_frames_are_written_as_the_engine_reads_them() -> None:
    assert stomp.encode("CONNECTED", (("version", "1.2"), ("heart-beat", "15000,0"))) == (
        b"CONNECTED\nversion:1.2\nheart-beat:15000,0\n\n\0"
    )
    assert stomp.encode("ERROR", (), b"Version unsupported") == b"ERROR\ncontent-length:19\n\nVersion unsupported\0"


def test_a_header_block_that_the_engine_cannot_read_is_never_written() -> None:
    with pytest.raises(TooLong):
        stomp.encode("MESSAGE", (("destination", "x" * 1000),), b"body")
    with pytest.raises(TooLong):
        stomp.encode("RECEIPT", (("receipt-id", "x" * 1100),))
    frame = stomp.encode("MESSAGE", (("destination", "x" * 900),), b"body")
    assert frame.index(b"\n\n") + 2 < 1024


_texts = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=20)
_names = _texts.filter(lambda text: text not in ("", "content-length"))


@given(st.lists(st.tuples(_names, _texts), max_size=5), st.binary(max_size=200), st.integers(1, 50))
def test_what_is_written_is_read_back(headers: list[tuple[str, str]], body: bytes, size: int) -> None:
    octets = stomp.with_body(stomp.head("MESSAGE", headers), body)
    parser, frames = Parser(), []
    for at in range(0, len(octets), size):
        parser.feed(octets[at : at + size])
        frames += list(iter(parser.next, None))
    expected: dict[str, str] = {}
    for name, value in headers:
        expected.setdefault(name, value)
    assert frames == [Frame("MESSAGE", expected | {"content-length": str(len(body))}, body)]


@given(st.binary(max_size=300), st.integers(1, 60))
def test_no_octets_do_more_than_break_the_connection(octets: bytes, size: int) -> None:
    parser = Parser(max_header=100, max_frame=200)
    try:
        for at in range(0, len(octets), size):
            parser.feed(octets[at : at + size])
            while parser.next() is not None:
                pass
            assert parser.pending <= 200 + size
    except Broken:
        pass


def test_a_flow_id_with_any_backslash_is_taken_as_it_is() -> None:
    parser = stomp.Parser()
    parser.feed(b"SEND\novirtCorrelationId:a\\b\\\\c\\cd\\\n\n\0")
    frame = parser.next()
    assert frame is not None and frame.headers["ovirtCorrelationId"] == "a\\b\\c:d\\"


def test_the_end_of_a_frame_without_its_beginning_is_found_out_at_once() -> None:
    parser = stomp.Parser()
    parser.feed(b'gin"},"id":"x"}\0')
    with pytest.raises(stomp.Broken, match="NUL"):
        parser.next()
