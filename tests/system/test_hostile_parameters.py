# SPDX-License-Identifier: Apache-2.0
"""Every declared verb, every parameter, every kind of wrong value: an error for the client, and nothing else happens.

No answer shows a traceback, no worker dies or meets an error that nobody foresaw, and no file outside is touched. A
run with VDSM_MP_FAULTS_STRIDE=1 tries each value at each place; otherwise each place gets some of them in turn.
"""

import itertools
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect

from tests.support.house import RunningHouse
from tests.support.needs import needs_root
from vdsm_mp.api.catalogue import VERBS
from vdsm_mp.api.errors import RemoteError
from vdsm_mp.api.verb import VerbSpec
from vdsm_mp.wire.client import Client

pytestmark = [pytest.mark.system, needs_root(), pytest.mark.timeout(900)]

STRIDE = int(os.environ.get("VDSM_MP_FAULTS_STRIDE", "9"))
#: They act on the machine that runs the tests, which is not the agent's alone.
_NOT_HERE = {
    "Host.setupNetworks", "Host.setSafeNetworkConfig", "Host.confirmConnectivity", "Host.fenceNode", "Host.setKsmTune",
    "Host.setMOMPolicyParameters", "Host.shutdown", "Host.reboot",
}  # fmt: skip
#: Sent and not awaited, so that the door's limit on open calls is not what is tested.
_BATCH = 20


def hostile(canary: Path) -> list[Any]:
    """Values for any parameter."""
    good = str(uuid.uuid4())
    return [
        f"../../../../../..{canary}", str(canary), f"{good}\n", f"{good}/../x", f"\0{canary}", "a\0b", "..", ".", "/",
        "", good.upper(), "x" * 10_000, "١٢٣", "\ud7ff\u202e", "-o", "--help", "$(id)", "%s%n", "{0.__class__}",
        0, -1, 2**31, 2**63, 2**64, -(2**70), 1e300, True, None, [], {}, [[]], [None], {"": ""}, {"a": {"b": []}},
        [good] * 2000, {"type": "tree", "id": f"..{canary}"}, "<domain/>", "<a>" * 500,
    ]  # fmt: skip


def plausible(info: inspect.Type, depth: int = 0) -> Any:
    """A value that the declaration accepts, so that one wrong neighbour is what the handler meets."""
    if depth > 6:
        return None
    match info:
        case inspect.StructType():
            return {f.encode_name: plausible(f.type, depth + 1) for f in info.fields if f.required}
        case inspect.UnionType():
            return plausible(next(t for t in info.types if not isinstance(t, inspect.NoneType)), depth)
        case inspect.ListType():
            return [plausible(info.item_type, depth + 1)]
        case inspect.IntType():
            return 1
        case inspect.FloatType():
            return 1.0
        case inspect.BoolType():
            return False
        case inspect.StrType():
            return str(uuid.uuid4())
        case inspect.EnumType():
            return next(iter(info.cls)).value
        case inspect.LiteralType():
            return info.values[0]
        case inspect.Metadata():
            return plausible(info.type, depth)
        case _:
            return {}


def places(value: Any, depth: int = 0) -> Iterator[tuple[Any, ...]]:
    """Paths into a plausible value: every member of every object, first items of lists."""
    if depth > 4:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (key,)
            for path in places(inner, depth + 1):
                yield (key, *path)
    elif isinstance(value, list) and value:
        yield (0,)
        for path in places(value[0], depth + 1):
            yield (0, *path)


def with_value(whole: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = json.loads(json.dumps(whole))
    at = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return changed


def attempts(spec: VerbSpec, values: list[Any], turn: Iterator[int]) -> Iterator[Any]:
    info = inspect.type_info(spec.message)
    assert isinstance(info, inspect.StructType)
    whole = {field.encode_name: plausible(field.type) for field in info.fields}
    yield {}
    yield []
    yield {**whole, "noSuchParameter": values[0]}
    for path in places(whole):
        for value in values:
            if next(turn) % STRIDE == 0:
                yield with_value(whole, path, value)


def answered(client: Client, verb: str, batch: list[bytes]) -> int:
    """How many of a batch were refused; all are answered."""
    refused = 0
    for request_id in [client.start(verb, params) for params in batch]:
        try:
            client.wait(request_id, timeout_s=100, method=verb)
        except RemoteError as error:
            refused += 1
            said = str(error)
            assert "Traceback" not in said and 'File "' not in said, (verb, said)
    return refused


def test_no_parameter_of_any_verb_gets_anywhere_it_should_not() -> None:
    turn = itertools.count()
    with RunningHouse.start() as house:
        canary = house.root / "canary"
        canary.mkdir(mode=0o777)
        (canary / "file").write_text("untouched")
        canary.chmod(0o777)
        before = house.all_pids()[:6]
        tried = refused = 0
        with house.client() as client:
            for spec in VERBS.values():
                if spec.planned or spec.internal or spec.name in _NOT_HERE:
                    continue
                values = hostile(canary)
                sealed = [json.dumps(params).encode() for params in attempts(spec, values, turn)]
                for batch in _batches(sealed):
                    refused += answered(client, spec.name, batch)
                    tried += len(batch)
        log = house.log_text()
        print(f"{tried} calls, {refused} refused")
        assert house.all_pids()[:6] == before
        assert "Traceback (most recent call last)" not in log, log[log.index("Traceback (most recent") - 500 :][:3000]
        assert [path.name for path in canary.iterdir()] == ["file"]
        assert (canary / "file").read_text() == "untouched"
        assert refused > tried / 2


def _batches(items: list[bytes]) -> Iterator[list[bytes]]:
    for at in range(0, len(items), _BATCH):
        yield items[at : at + _BATCH]
