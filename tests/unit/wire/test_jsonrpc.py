# SPDX-License-Identifier: Apache-2.0
"""Envelopes: what is a request, what is not, and what the sender of either is told."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm_mp.wire import jsonrpc
from vdsm_mp.wire.jsonrpc import INVALID_REQUEST, PARSE_ERROR, Refused, Request


def only(body: bytes | str) -> Request | Refused:
    parsed = jsonrpc.parse(body.encode() if isinstance(body, str) else body)
    assert not parsed.batch
    (item,) = parsed.items
    return item


def refused(body: bytes | str) -> tuple[int, bytes]:
    item = only(body)
    assert isinstance(item, Refused), item
    return item.code, item.id


def test_a_call_keeps_its_params_and_id_as_they_came() -> None:
    body = '{"jsonrpc":"2.0","method":"VM.pause","params":{ "vmID" : "x", "n":1.50},"id":"a\\u0041"}'
    assert only(body) == Request("VM.pause", b'{ "vmID" : "x", "n":1.50}', b'"a\\u0041"')


@pytest.mark.parametrize("wanted", ["1", "-7", "1.50", "0", '"1"', '""', "12345678901234567890123456789", "1e999"])
def test_ids_are_echoed_octet_by_octet(wanted: str) -> None:
    item = only(f'{{"jsonrpc":"2.0","method":"a","id":{wanted}}}')
    assert isinstance(item, Request)
    assert item.id == wanted.encode()


@pytest.mark.parametrize("member", ["", ',"id":null'])
def test_without_an_id_it_is_a_notification(member: str) -> None:
    assert only(f'{{"jsonrpc":"2.0","method":"a"{member}}}') == Request("a", b"{}", b"")


@pytest.mark.parametrize("wanted", ["{}", "[1]", "true", '"' + "x" * 10_000_000 + '"'])
def test_ids_that_are_no_ids_are_refused(wanted: str) -> None:
    assert refused(f'{{"jsonrpc":"2.0","method":"a","id":{wanted}}}') == (INVALID_REQUEST, b"null")


@pytest.mark.parametrize(
    "member",
    [
        '"method":"a"',
        '"jsonrpc":"1.0","method":"a"',
        '"jsonrpc":2.0,"method":"a"',
        '"jsonrpc":"2.0"',
        '"jsonrpc":"2.0","method":1',
        '"jsonrpc":"2.0","method":null',
        '"jsonrpc":"2.0","method":"a","params":1',
        '"jsonrpc":"2.0","method":"a","params":"x"',
        '"jsonrpc":"2.0","method":"a","params":null',
    ],
)
def test_an_invalid_request_is_answered_with_its_id(member: str) -> None:
    assert refused(f'{{{member},"id":"7b1b"}}') == (INVALID_REQUEST, b'"7b1b"')
    assert refused(f'[{{"id":12,{member}}}]') == (INVALID_REQUEST, b"12")


@pytest.mark.parametrize("params", ["NaN", '{"a":Infinity}', '{"a":[-Infinity]}', '{"a":"\\ud800"}', "[" * 100_000])
def test_what_is_not_json_is_answered_with_its_id_when_it_can_be_told(params: str) -> None:
    closing = "]" * params.count("[" * 100_000) * 100_000
    body = f'{{"jsonrpc":"2.0","method":"a","params":{params}{closing},"id":"7b1b"}}'
    assert refused(body) == (PARSE_ERROR, b'"7b1b"')
    assert refused(f"[{body}]") == (PARSE_ERROR, b'"7b1b"')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"\xff\xfe{\0}\0",
        b"\xef\xbb\xbf{}",
        b'{"jsonrpc":"2.0","method":"a","id":"b"',
        b'{"jsonrpc":"2.0","method":"a","params":{"x":"\xff"},"id":{}}',
        b"[" * 100_000,
        b"{" * 100_000,
        b'{"a":' * 100_000,
        b"[{}",
    ],
)
def test_what_is_not_json_at_all_has_no_id(body: bytes) -> None:
    assert refused(body) == (PARSE_ERROR, b"null")


@pytest.mark.parametrize("body", ["1", '"x"', "null", "true", "{}", "[[]]", "[1]"])
def test_json_that_is_no_request_is_invalid(body: str) -> None:
    assert refused(body) == (INVALID_REQUEST, b"null")


def test_octets_that_are_not_utf8_do_not_pass_inside_sealed_members() -> None:
    assert refused(b'{"jsonrpc":"2.0","method":"a","params":{"x":"\xff"},"id":1}')[0] == PARSE_ERROR


def test_numbers_that_no_computer_holds_stay_sealed() -> None:
    item = only('{"jsonrpc":"2.0","method":"a","params":{"x":1e999,"y":' + "1" * 5000 + '},"id":1}')
    assert isinstance(item, Request)


def test_a_batch_of_one_is_a_plain_request() -> None:
    assert only('[{"jsonrpc":"2.0","method":"a","id":1}]') == Request("a", b"{}", b"1")


def test_a_batch_keeps_its_order_and_its_bad_parts() -> None:
    parsed = jsonrpc.parse(b'[{"jsonrpc":"2.0","method":"a","id":1},7,{"jsonrpc":"2.0","method":"b"}]')
    assert parsed.batch
    kinds = [(type(item), item.id) for item in parsed.items]
    assert kinds == [(Request, b"1"), (Refused, b"null"), (Request, b"")]


def test_an_empty_batch_and_a_giant_one_are_refused_once() -> None:
    assert refused("[]") == (INVALID_REQUEST, b"null")
    assert refused(b"[" + b",".join([b"{}"] * 100_000) + b"]") == (INVALID_REQUEST, b"null")


def test_replies_are_what_the_engine_can_read() -> None:
    done = jsonrpc.result(b'"7b1b6a56-52a5-4f0c-8f43-1d1c0e6a9d10"', b"true")
    assert done == b'{"jsonrpc": "2.0", "id": "7b1b6a56-52a5-4f0c-8f43-1d1c0e6a9d10", "result": true}'
    assert len(done) == 80
    failed = jsonrpc.error(b'"x"', 99, "Recovering from crash or Initializing")
    assert failed == (
        b'{"jsonrpc": "2.0", "id": "x", "error": {"code": 99, "message": "Recovering from crash or Initializing"}}'
    )


def test_messages_with_anything_in_them_stay_json() -> None:
    body = jsonrpc.error(b"1", 1, 'a\ud800"\n\0')
    assert json.loads(body)["error"]["message"] == 'a?"\n\0'


def test_names_of_clients_cannot_break_a_line() -> None:
    assert jsonrpc.shown("a\nb\x1b[0m") == "a?b?[0m"
    assert len(jsonrpc.shown("x" * 70_000)) < 300


@given(st.binary(max_size=400))
def test_no_octets_raise(body: bytes) -> None:
    for item in jsonrpc.parse(body).items:
        if isinstance(item, Refused):
            msgspec.json.decode(jsonrpc.error(item.id, item.code, item.message))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["jsonrpc", "method", "params", "id", "x"]), _json | st.just("2.0")), _json)
def test_any_json_gets_an_answer_that_is_json(envelope: dict[str, object], other: object) -> None:
    for body in (envelope, [envelope], [envelope, other], other):
        parsed = jsonrpc.parse(json.dumps(body).encode())
        answers = [
            jsonrpc.error(item.id, item.code, item.message)
            if isinstance(item, Refused)
            else jsonrpc.result(item.id or b"null", b"true")
            for item in parsed.items
        ]
        for answer in [*answers, jsonrpc.batch(answers)]:
            json.loads(answer)
