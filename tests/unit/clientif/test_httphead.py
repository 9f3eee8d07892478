# SPDX-License-Identifier: Apache-2.0
"""Heads of HTTP requests, as the engine writes them and as it does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm_mp.clientif.httphead import BadHead, Head, parse_head

PUT = (
    b"PUT / HTTP/1.1\r\nStorage-Pool-Id: p\r\nstorage-domain-id: d\r\nImage-Id: i\r\nVolume-Id: v\r\n"
    b"connection: close\r\nContent-Type: application/octet-stream\r\nContent-Length: 10240\r\nHost: h:54321"
)
GET = b"GET / HTTP/1.1\r\nStorage-Pool-Id: p\r\nStorage-Domain-Id: d\r\nImage-Id: i\r\nRange: bytes=0-10239"


def test_the_engines_requests_are_understood() -> None:
    assert parse_head(PUT) == Head("PUT", "p", "d", "i", "v", content_length=10240)
    assert parse_head(GET) == Head("GET", "p", "d", "i", None, last=10239)
    assert parse_head(PUT + b"\r\nExpect: 100-continue").expects_continue


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (PUT.replace(b"Content-Length: 10240", b"X: y"), 411),
        (PUT + b"\r\nTransfer-Encoding: chunked", 411),
        (PUT.replace(b"10240", b"-1"), 400),
        (PUT.replace(b"10240", b"1e3"), 400),
        (PUT.replace(b"10240", b"9" * 30), 400),
        (PUT.replace(b"10240", "١".encode()), 400),
        (PUT + b"\r\nContent-Length: 7", 400),
        (PUT.replace(b"Image-Id: i\r\n", b""), 400),
        (PUT.replace(b"PUT /", b"PUT x"), 400),
        (PUT.replace(b"PUT", b"POST"), 400),
        (PUT.replace(b"HTTP/1.1", b"HTTP/2"), 400),
        (PUT + b"\r\n folded", 400),
        (PUT + b"\r\nno colon", 400),
        (PUT + b"\r\nsp ace: x", 400),
        (GET.replace(b"Range: bytes=0-10239", b"X: y"), 400),
        (GET.replace(b"0-10239", b"1-10239"), 400),
        (GET.replace(b"0-10239", b"0-"), 400),
        (GET.replace(b"0-10239", b"0-5,7-9"), 400),
        (GET.replace(b"0-10239", b"-5"), 400),
        (b"", 400),
    ],
)
def test_what_is_missing_or_malformed_has_its_status(octets: bytes, status: int) -> None:
    with pytest.raises(BadHead) as caught:
        parse_head(octets)
    assert caught.value.status == status


@given(st.binary(max_size=200))
def test_no_octets_raise_anything_else(octets: bytes) -> None:
    for head in (octets, PUT + b"\r\n" + octets, GET + octets):
        try:
            parse_head(head)
        except BadHead:
            pass
