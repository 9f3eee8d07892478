# SPDX-License-Identifier: Apache-2.0
import errno
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import bus_verbs
from tests.support.bus_verbs import BUSTEST, Change, Echo, Fail, TimeLeft, Turn, World, module
from vdsm_mp.api.errors import NotSupported, ResourceUnavailable, UnknownVerb
from vdsm_mp.api.ports import CallContext
from vdsm_mp.api.verb import Lane, Message, handles, verb
from vdsm_mp.common.errors import Internal
from vdsm_mp.ipc import codec
from vdsm_mp.ipc.dispatch import Dispatch
from vdsm_mp.ipc.handlers import Unhandled


class Nothing:
    def publish(self, event: object) -> None:
        raise AssertionError(event)


def dispatch(*more: Callable[..., Any], state: tuple[object, ...] | None = None) -> Dispatch:
    world = World(1, Nothing())
    return Dispatch("bustest", [module(*BUSTEST), module(*more)], (world,) if state is None else state)


def run(served: Dispatch, message: Message, name: str) -> tuple[bool, bytes]:
    return served.run(served.find(name), message, CallContext(name, "flow", "peer", time.monotonic() + 10))


def test_handlers_get_what_they_ask_for_by_type() -> None:
    served = dispatch()
    assert run(served, Echo(text="a"), "bustest.echo") == (True, b'"a"')
    assert run(served, Change(token="t"), "bustest.change") == (True, b"1")
    assert run(served, Turn(thing_id="x", step=1), "bustest.turn") == (True, b"true")
    ok, left = run(served, TimeLeft(), "bustest.time_left")
    assert ok and 9 < float(left) <= 10


def test_a_room_that_forgot_a_handler_cannot_be_built() -> None:
    with pytest.raises(Unhandled, match=r"bustest\.echo has no handler; bustest\.kill has no handler"):
        rest = [f for f in BUSTEST if f not in (bus_verbs.echo, bus_verbs.kill)]
        Dispatch("bustest", [module(*rest)], (World(1, Nothing()),))


def test_a_room_with_two_handlers_for_a_verb_cannot_be_built() -> None:
    @handles(Echo)
    def again(ask: Echo) -> str:
        return ask.text

    with pytest.raises(Unhandled, match=r"bustest\.echo has two handlers"):
        dispatch(again)


def test_the_same_handler_seen_through_two_modules_is_one() -> None:
    dispatch(bus_verbs.echo)


def test_a_handler_of_somebody_elses_verb_is_refused() -> None:
    with pytest.raises(Unhandled, match="belongs to bustest2"):
        dispatch(bus_verbs.time_left_through, state=(World(1, Nothing()),))


@pytest.mark.parametrize("state", [(), (World(1, Nothing()), World(2, Nothing()))])
def test_what_a_handler_wants_must_be_there_once(state: tuple[object, ...]) -> None:
    with pytest.raises(Unhandled, match=f"{len(state)} objects of the room are a World"):
        dispatch(state=state)


def test_a_coroutine_is_no_handler() -> None:
    @handles(Echo)
    async def echo(ask: Echo) -> str:
        return ask.text

    with pytest.raises(Unhandled, match="rooms are synchronous"):
        Dispatch("bustest", [module(echo, *BUSTEST[1:])], (World(1, Nothing()),))


@verb("bustest.planned", owner="bustest", internal=True, planned=True)
class Planned(Message, frozen=True, kw_only=True):
    """Not built."""


def test_a_planned_verb_needs_no_handler_and_says_so() -> None:
    with pytest.raises(NotSupported):
        dispatch().find("bustest.planned")
    with pytest.raises(UnknownVerb):
        dispatch().find("bustest.never_heard_of")


def test_an_error_on_purpose_is_told_and_logged_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ok, body = run(dispatch(), Fail(how="known"), "bustest.fail")
    error = codec.decode_failure(body)
    assert not ok
    assert isinstance(error, ResourceUnavailable)
    assert "Traceback" not in caplog.text
    assert "bustest.fail ResourceUnavailable: disk 1 is in use: vm 2 took=" in caplog.text


@pytest.mark.parametrize("how", ["unforeseen", "exit"])
def test_what_nobody_foresaw_stays_in_the_log(how: str, caplog: pytest.LogCaptureFixture) -> None:
    ok, body = run(dispatch(), Fail(how=how), "bustest.fail")
    error = codec.decode_failure(body)
    assert not ok
    assert type(error) is Internal
    assert b"foresaw" not in body
    assert "Traceback" in caplog.text


def test_what_the_system_refused_is_told_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    @handles(Echo)
    def echo(ask: Echo) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/vdsm/storage/link")

    served = Dispatch("bustest", [module(echo, *BUSTEST[1:])], (World(1, Nothing()),))
    ok, body = run(served, Echo(text=""), "bustest.echo")
    assert not ok
    assert str(codec.decode_failure(body)) == (
        "The host's system refused: No space left on device: '/run/vdsm/storage/link'"
    )
    assert "Traceback" in caplog.text


def test_a_result_that_cannot_be_encoded_is_an_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    @handles(Echo)
    def echo(ask: Echo) -> Any:
        return object()

    served = Dispatch("bustest", [module(echo, *BUSTEST[1:])], (World(1, Nothing()),))
    ok, body = run(served, Echo(text=""), "bustest.echo")
    assert not ok and isinstance(codec.decode_failure(body), Internal)
    assert "Traceback" in caplog.text


def test_a_finished_call_leaves_one_line_and_a_poll_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    served = dispatch()
    run(served, Turn(thing_id="x1", step=1), "bustest.turn")
    run(served, Echo(text=""), "bustest.echo")
    assert [r.getMessage().partition("took")[0] for r in caplog.records] == ["bustest.turn thing=x1 done "]


def test_the_key_of_a_call_names_the_thing() -> None:
    handler = dispatch().find("bustest.turn")
    assert handler.spec.lane is Lane.KEYED
    assert handler.key(Turn(thing_id="x", step=1)) == "thing_id=x"
