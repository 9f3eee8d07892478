# SPDX-License-Identifier: Apache-2.0
"""What clients write for one and the same parameter: every verb reads all of its forms as the same message.

Engines send numbers and truths as text, scripts send text as numbers, maps carry a null for what is not known, and
members that a host does not know come along. At whatever depth that happens, the declared message is what arrives.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import inspect

from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.ipc import codec

ID = "11111111-2222-3333-4444-555555555555"
ABSENT, STRANGER = object(), object()
#: Path into the parameters, and what stands there instead.
Form = tuple[tuple[str | int, ...], Any]

PUBLIC = [spec for spec in VERBS.values() if not spec.internal and inspect.type_info(spec.message).fields]  # type: ignore[union-attr]


def sample(info: inspect.Type) -> Any:
    """A value that the declaration takes, with all optional members; 7 and "7" for numbers and text."""
    match info:
        case inspect.StructType():
            return {field.encode_name: sample(field.type) for field in info.fields}
        case inspect.UnionType():
            return sample(next(kind for kind in info.types if not isinstance(kind, inspect.NoneType)))
        case inspect.ListType():
            return [sample(info.item_type)]
        case inspect.IntType():
            return 7
        case inspect.BoolType():
            return True
        case inspect.StrType():
            return ID if info.pattern else "7"
        case inspect.Metadata():
            return sample(info.type)
        case inspect.DictType() | inspect.AnyType():
            return {}
        case _:
            raise TypeError(info)


def same(info: inspect.Type, at: tuple[str | int, ...] = ()) -> Iterator[Form]:
    """Other ways to write what `sample` writes."""
    kinds = info.types if isinstance(info, inspect.UnionType) else (info,)
    numbers = any(isinstance(kind, inspect.IntType) for kind in kinds)
    # Only what is written as the first kind stands in the sample.
    match kinds[0]:
        case inspect.IntType() if len([k for k in kinds if not isinstance(k, inspect.NoneType)]) == 1:
            yield at, "7"
        case inspect.BoolType():
            yield from ((at, word) for word in ("true", "True", "TRUE", 1, "1"))
        case inspect.StrType() if not kinds[0].pattern and not numbers:
            yield at, 7
        case inspect.ListType():
            yield from same(kinds[0].item_type, (*at, 0))
        case inspect.StructType():
            yield at, STRANGER
            for field in kinds[0].fields:
                yield from same(field.type, (*at, field.encode_name))


def left_out(info: inspect.Type, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where the optional members are."""
    kinds = info.types if isinstance(info, inspect.UnionType) else (info,)
    match kinds[0]:
        case inspect.ListType():
            yield from left_out(kinds[0].item_type, (*at, 0))
        case inspect.StructType():
            for field in kinds[0].fields:
                if not field.required:
                    yield (*at, field.encode_name)
                yield from left_out(field.type, (*at, field.encode_name))


def written(whole: Any, at: tuple[str | int, ...], value: Any) -> bytes:
    changed = json.loads(json.dumps(whole))
    place = changed
    for step in at if value is STRANGER else at[:-1]:
        place = place[step]
    if value is STRANGER:
        place["noSuchMember"] = {"a": [None, {"b": 1.5}]}
    elif value is ABSENT:
        del place[at[-1]]
    else:
        place[at[-1]] = value
    return json.dumps(changed).encode()


@pytest.mark.parametrize("spec", PUBLIC, ids=lambda spec: spec.name)
def test_every_form_of_a_parameter_is_read_as_the_same_message(spec: Any) -> None:
    info = inspect.type_info(spec.message)
    whole = sample(info)
    message = codec.decode_params(spec, json.dumps(whole).encode())
    for at, value in same(info):
        sent = written(whole, at, value)
        assert codec.decode_params(spec, sent) == message, sent


@pytest.mark.parametrize("spec", PUBLIC, ids=lambda spec: spec.name)
def test_a_null_for_an_optional_parameter_is_as_good_as_none(spec: Any) -> None:
    info = inspect.type_info(spec.message)
    whole = sample(info)
    for at in left_out(info):
        without = codec.decode_params(spec, written(whole, at, ABSENT))
        assert codec.decode_params(spec, written(whole, at, None)) == without, at


def test_several_forms_at_once_are_read() -> None:
    """As an engine starts a migration: text where numbers and truths belong, null for what it does not know."""
    params = {
        "vmID": ID,
        "params": {
            "vmId": ID, "method": "online", "src": "host", "dst": "other:54321", "dstqemu": None, "mode": None,
            "abortOnError": "true", "autoConverge": "true", "compressed": "false", "encrypted": False,
            "maxBandwidth": "52", "parallel": None, "downtime": 500, "outgoingLimit": 2, "consoleAddress": None,
            "cpusets": [0, "1-2"], "zerocopy": "False",
            "convergenceSchedule": {
                "init": [{"name": "setDowntime", "params": ["100"]}],
                "stalling": [{"limit": "1", "action": {"name": "abort", "params": None}}],
            },
        },
    }  # fmt: skip
    read = codec.decode_params(VERBS["VM.migrate"], json.dumps(params).encode()).params
    assert (read.dst, read.dstqemu, read.max_bandwidth, read.parallel) == ("other:54321", None, 52, None)
    assert (read.auto_converge, read.compressed, read.zerocopy, read.cpusets) == (True, False, False, ["0", "1-2"])
    assert read.convergence_schedule.stalling[0].limit == 1


def test_a_truth_where_text_is_wanted_is_its_word() -> None:
    params = {"storagepoolID": ID, "prevID": "-1", "prevLver": -1, "enableScsiFencing": False, "domVersion": 5}
    read = codec.decode_params(VERBS["StoragePool.spmStart"], json.dumps(params).encode())
    assert (read.prev_lver, read.enable_scsi_fencing, read.dom_version) == ("-1", "false", "5")
