# SPDX-License-Identifier: Apache-2.0
"""Parameters of every declared verb, made from its types and then harmed; and the requests that carry them.

A mutant is `VERB JSON`. Half of them have a wrong value at one place of a plausible whole, the others are harmed
octet by octet.
"""

import json
import random
from functools import cache
from typing import Any

from msgspec import inspect

from tests.system.test_hostile_parameters import places, plausible, with_value
from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.verb import VerbSpec
from vdsm_mp.ipc import codec

#: Longer sentences about what was wrong would be the sender's own octets given back.
MAX_SAID = 16 * 1024

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**63, 2**64, -(2**70), 1e300, 0.5, "", "x", "1", "-1", " 1", "true", "1e3",
    "0x10", "..", "/", "a\0b", "x" * 5000, "\u0661", "\ud7ff\u202e", "%s", "<a>", [], {}, [[]], [None], [{}], {"": ""},
    {"a": {"b": []}}, ["x"] * 300, [[[[[[[[]]]]]]]], "11111111-2222-3333-4444-555555555555",
)  # fmt: skip
_OCTETS = (
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"true", b"[" * 3000, b'{"a":' * 3000, b'"\\ud800"', b"1e999",
    b"NaN", b"-", b"9" * 5000, b"\\u0000", b"\xff", b"\xef\xbb\xbf", b"\0", b"0.1", b"1e1", b" ",
)  # fmt: skip
_NAMES = tuple(VERBS)


@cache
def whole(name: str) -> Any:
    """Every parameter of a verb with a value that its declaration accepts."""
    info = inspect.type_info(VERBS[name].message)
    assert isinstance(info, inspect.StructType)
    return {field.encode_name: plausible(field.type) for field in info.fields}


@cache
def _places(name: str) -> tuple[tuple[Any, ...], ...]:
    return tuple(places(whole(name)))


@cache
def _sealed(name: str) -> bytes:
    return json.dumps(whole(name)).encode()


def mutant(rng: random.Random) -> bytes:
    name = rng.choice(_NAMES)
    where = _places(name)
    if where and rng.random() < 0.5:
        params = with_value(whole(name), rng.choice(where), rng.choice(_VALUES))
        return name.encode() + b" " + json.dumps(params).encode()
    octets = bytearray(_sealed(name))
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(octets) + 1)
        match rng.randrange(4):
            case 0 if octets:
                octets[min(at, len(octets) - 1)] = rng.randrange(256)
            case 1:
                del octets[at : at + rng.choice((1, 2, 8, 64))]
            case 2:
                octets[at:at] = bytes(octets[at : at + rng.randrange(64)]) * rng.choice((1, 2, 20))
            case _:
                octets[at:at] = rng.choice(_OCTETS)
    return name.encode() + b" " + bytes(octets)


def spec_and_params(data: bytes) -> tuple[VerbSpec, bytes]:
    name, _, params = data.partition(b" ")
    return VERBS[name.decode()], params


def read(data: bytes) -> object:
    """What the worker's door does with it. Raises: InvalidParameters, with a sentence of some length at most."""
    spec, params = spec_and_params(data)
    try:
        message = codec.decode_params(spec, params)
    except codec.errors.InvalidParameters as error:
        assert len(str(error)) <= MAX_SAID, "the sentence has no bound"
        codec.decode_failure(codec.encode_failure(error))
        raise
    # What was accepted travels on between workers.
    codec.decode_params(spec, codec.encode_params(message))
    return message


def request(data: bytes) -> bytes:
    """The same as a client asks it; the parameters are sealed as they are."""
    name, _, params = data.partition(b" ")
    return b'{"jsonrpc":"2.0","method":"%s","params":%s,"id":7}' % (name, params)
