# SPDX-License-Identifier: Apache-2.0
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.support.bus_verbs import Echo
from vdsm_mp.api.errors import (
    DeadlineExceeded,
    InvalidParameters,
    PeerRestarted,
    RemoteError,
    ResourceUnavailable,
    StillStarting,
)
from vdsm_mp.api.verb import DONE, Message, Status, VerbSpec, spec_of
from vdsm_mp.common.errors import Error, NotFound
from vdsm_mp.ipc import codec


class Sizes(Message, frozen=True, kw_only=True):
    size: int = msgspec.field(name="sizeGiB")
    name: str
    force: bool = False
    labels: dict[str, str] | None = None
    limits: Any = None


PUBLIC = replace(spec_of(Echo), name="Volume.resize", message=Sizes, internal=False)


def public(raw: bytes) -> Any:
    return codec.decode_params(PUBLIC, raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"sizeGiB": 7, "name": "a", "force": true}',
        b'{"sizeGiB": "7", "name": "a", "force": "true"}',
        b'{"sizeGiB": "7", "name": "a", "force": "True", "labels": null}',
        b' {"sizeGiB": 7, "name": "a", "force": 1, "unknown": {"x": [1]}} ',
        b'[7, "a", true]',
        b'["7", "a", "true", null]',
    ],
)
def test_public_parameters_are_read_as_leniently_as_the_original_reads_them(raw: bytes) -> None:
    assert public(raw) == Sizes(size=7, name="a", force=True)


@pytest.mark.parametrize("raw", [b'{"sizeGiB": 7, "name": "a", "force": null}', b'[7, "a", null]', b'[7, "a"]'])
def test_null_or_nothing_for_an_optional_parameter_is_its_default(raw: bytes) -> None:
    assert public(raw) == Sizes(size=7, name="a")


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "sizeGiB"),
        (b"null", "sizeGiB"),
        (b'{"sizeGiB": "seven", "name": "a"}', "sizeGiB"),
        (b'{"sizeGiB": 7, "name": null}', "name"),
        (b'{"sizeGiB": 7, "name": ["a"]}', "name"),
        (b'[7, "a", true, null, 5, 6]', "positional"),
        (b'"text"', "object"),
        (b"17", "object"),
        (b"{", "truncated"),
        (b'{"sizeGiB": NaN, "name": "a"}', "JSON"),
        (b'{"sizeGiB": 9223372036854775808, "name": "a"}', "sizeGiB: Number out of range"),
        (b'{"sizeGiB": "-18446744073709551621", "name": "a"}', "sizeGiB: Number out of range"),
        (b'{"sizeGiB": 1' + b"0" * 400 + b', "name": "a"}', "sizeGiB: Number out of range"),
        (b'{"sizeGiB": 7, "name": "a", "limits": [{"most": 1e300}]}', "limits[0].most: Number out of range"),
        (b"\xff\xfe", "JSON"),
        (b'{"sizeGiB": ' + b"[" * 100_000, "recursion"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_wrong_parameters_are_told_with_their_place(raw: bytes, told: str) -> None:
    with pytest.raises(InvalidParameters) as caught:
        public(raw)
    assert caught.value.code == -32602
    assert told in str(caught.value)
    assert "Volume.resize" in str(caught.value)


def test_a_number_of_64_bits_and_any_text_are_let_in() -> None:
    large = public(b'{"sizeGiB": 9223372036854775807, "name": "9999999999999999999", "limits": {"most": 1e18}}')
    assert (large.size, large.name, large.limits) == (2**63 - 1, "9999999999999999999", {"most": 1e18})


def test_a_number_where_text_is_wanted_is_its_digits() -> None:
    assert public(b'{"sizeGiB": 7, "name": 8, "force": null}') == Sizes(size=7, name="8")
    assert public(b"[7, -12]") == Sizes(size=7, name="-12")


def test_internal_parameters_are_read_strictly() -> None:
    with pytest.raises(InvalidParameters):
        codec.decode_params(replace(PUBLIC, internal=True), b'{"sizeGiB": "7", "name": "a"}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["sizeGiB", "name", "force", "labels", "x"]), inner, max_size=5)
    ),
    max_leaves=15,
)


@settings(max_examples=400, deadline=None)
@given(raw=st.binary(max_size=60) | JSON.map(msgspec.json.encode))
def test_no_parameters_do_more_than_be_refused(raw: bytes) -> None:
    try:
        assert isinstance(public(raw), Sizes)
    except InvalidParameters as error:
        assert str(error)


def test_a_verb_without_a_reply_answers_true() -> None:
    spec: VerbSpec = replace(PUBLIC, reply=None)
    assert codec.encode_reply(spec, None) == b"true"
    assert codec.decode_reply(spec, b"true") is None


def test_a_status_comes_back_as_one() -> None:
    spec = replace(PUBLIC, name="Volume.status", reply=Status)
    assert codec.decode_reply(spec, codec.encode_reply(spec, DONE)) == DONE


def test_a_reply_that_is_not_what_was_declared_is_an_error_and_not_a_surprise() -> None:
    with pytest.raises(RemoteError, match=r"bustest\.echo"):
        codec.decode_reply(spec_of(Echo), b"17")


class NoSuchThing(NotFound):
    """Takes keywords only, so that its arguments cannot be had from `args`."""

    code = 4711
    msg = "There is no {self.thing}"

    def __init__(self, *, thing: str) -> None:
        self.thing = thing


@pytest.mark.parametrize(
    "error",
    [
        DeadlineExceeded("VM.pause", 3),
        PeerRestarted("virt", "VM.pause"),
        StillStarting(),
        ResourceUnavailable("disk", "vm"),
        NoSuchThing(thing="disk 7"),
    ],
)
def test_an_error_arrives_as_the_same_class_with_the_same_sentence(error: Error) -> None:
    arrived = codec.decode_failure(codec.encode_failure(error))
    assert type(arrived) is type(error)
    assert (str(arrived), arrived.code, vars(arrived)) == (str(error), error.code, vars(error))


def test_an_error_of_an_unknown_class_keeps_its_code_and_sentence() -> None:
    arrived = codec.decode_failure(msgspec.json.encode(codec.Failure(17, "OfARoomElsewhere", "sentence")))
    assert isinstance(arrived, RemoteError)
    assert (arrived.code, str(arrived)) == (17, "sentence")


def test_a_name_on_the_wire_never_makes_a_class_that_is_no_error() -> None:
    for name in ("Popen", "SystemExit", "Exception", "object", "Error"):
        arrived = codec.decode_failure(msgspec.json.encode(codec.Failure(17, name, "sentence")))
        assert isinstance(arrived, RemoteError)


def test_an_error_with_a_broken_sentence_still_travels() -> None:
    error = NoSuchThing(thing="x")
    del error.thing
    arrived = codec.decode_failure(codec.encode_failure(error))
    assert arrived.code == 4711
    assert "NoSuchThing" in str(arrived)


def test_an_error_with_something_json_does_not_know_travels_as_text() -> None:
    error = ResourceUnavailable("disk", "vm")
    error.holder = object()  # type: ignore[assignment]
    assert codec.decode_failure(codec.encode_failure(error)).code == error.code


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=60) | JSON.map(msgspec.json.encode))
def test_no_failure_body_does_more_than_become_an_error(raw: bytes) -> None:
    assert isinstance(codec.decode_failure(raw), Error)
