# SPDX-License-Identifier: Apache-2.0
"""Two buses on one loop, over real sockets."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.support import bus_verbs
from tests.support.bus import bus, eventually, run, served
from tests.support.bus_verbs import (
    BUSTEST2,
    Change,
    Echo,
    Elsewhere,
    Fail,
    Kill,
    Large,
    Look,
    Moved,
    Steps,
    TimeLeft,
    TimeLeftThrough,
    Turn,
    module,
)
from vdsm_mp.api.errors import (
    Busy,
    DeadlineExceeded,
    InvalidParameters,
    NotAllowed,
    RemoteError,
    ResourceUnavailable,
    StillStarting,
    UnknownVerb,
)
from vdsm_mp.api.ports import CallContext
from vdsm_mp.common import log
from vdsm_mp.common.errors import Internal
from vdsm_mp.ipc.dispatch import Dispatch
from vdsm_mp.ipc.lanes import Limits
from vdsm_mp.ipc.ports import current


def test_a_call_comes_back_typed_and_a_sealed_letter_comes_back_sealed(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, _):
            assert await client.ask(Echo(text="ü")) == "ü"
            assert await client.ask(Turn(thing_id="x", step=1)) is None
            assert await client.ask(Steps(thing_id="x")) == [1]
            assert await client.call_raw("bustest.echo", b' {"text" : "a"}') == b'"a"'
            assert await client.call_raw("bustest.turn", b'{"thing_id":"x","step":2}', deadline_s=5) == b"true"

    run(main())


def test_errors_of_the_other_side_arrive_as_themselves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, _):
            with pytest.raises(ResourceUnavailable, match="disk 1 is in use: vm 2"):
                await client.ask(Fail(how="known"))
            with pytest.raises(Internal):
                await client.ask(Fail(how="unforeseen"))
            with pytest.raises(InvalidParameters, match="text"):
                await client.call_raw("bustest.echo", b"{}")
            with pytest.raises(UnknownVerb):
                await client.call_raw("bustest.nothing", b"{}")

    run(main())


def test_a_pool_thread_may_wait_and_the_loop_may_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, _):
            assert await asyncio.to_thread(client.caller.ask, Echo(text="a")) == "a"
            with pytest.raises(RuntimeError, match="loop may not wait"):
                client.caller.ask(Echo(text="a"))
            with pytest.raises(ResourceUnavailable):
                await asyncio.to_thread(client.caller.ask, Fail(how="known"))

    run(main())


def test_a_worker_can_ask_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (_, server):
            assert await server.ask(Echo(text="a")) == "a"
            assert await server.ask(Look()) == 1
            with pytest.raises(DeadlineExceeded):
                await server.ask(Look(takes_s=0.3), deadline_s=0.05)

    run(main())


def test_only_rows_of_the_process_table_may_call_and_both_sides_see_to_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with bus(tmp_path, "bustest", calls=(), callers=("scheduler",)) as server:
            world = bus_verbs.World(1, server.publisher)
            server.set_handlers(Dispatch("bustest", [module(*bus_verbs.BUSTEST)], [world]))
            async with bus(tmp_path, "network", calls=()) as network:
                network.peer_changed("bustest", 1, True)
                with pytest.raises(NotAllowed, match=r"the network worker may not call bustest\.echo"):
                    await network.ask(Echo(text="a"))
            async with bus(tmp_path, "virt", calls=("bustest",)) as virt:
                virt.peer_changed("bustest", 1, True)
                with pytest.raises(NotAllowed, match=r"the virt worker may not call bustest\.echo"):
                    await virt.ask(Echo(text="a"))
            async with bus(tmp_path, "scheduler", calls=("bustest",)) as scheduler:
                scheduler.peer_changed("bustest", 1, True)
                assert await scheduler.ask(Echo(text="a")) == "a"

    run(main())


def test_before_its_room_is_ready_a_worker_answers_99(tmp_path: Path) -> None:
    async def main() -> None:
        async with bus(tmp_path, "bustest", calls=()), bus(tmp_path) as client:
            with pytest.raises(StillStarting):
                await client.ask(Echo(text="nobody announced it"))
            client.peer_changed("bustest", 1, True)
            with pytest.raises(StillStarting) as caught:
                await client.ask(Echo(text="no handlers yet"))
            assert caught.value.code == 99

    run(main())


def test_a_deadline_answers_once_and_the_late_reply_is_dropped_and_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, server):
            # The asker's clock decides here; the other side believes that there is time.
            answers: list[Any] = []
            question = client.call_then(
                "bustest.look", b'{"takes_s":0.1}', lambda body, error: answers.append((body, error)), deadline_s=20
            )
            assert question is not None
            client._calls.too_late(question)
            assert isinstance(answers[0][1], DeadlineExceeded)
            await eventually(lambda: client.vitals().get("late_replies") == 1)
            assert len(answers) == 1
            assert client.vitals()["in_flight"] == {"bustest": 0}
            # What nobody waits for is not even sent; one that came too late to be begun is not counted.
            while not server.vitals().get("answered_too_late"):
                with pytest.raises(DeadlineExceeded, match=r"bustest\.look did not end within 0\.05 s"):
                    await client.ask(Look(takes_s=0.2), deadline_s=0.05)

    run(main())


def test_a_call_that_was_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, _):
            task = asyncio.ensure_future(client.ask(Look(takes_s=0.1)))
            await eventually(lambda: client.vitals()["in_flight"] == {"bustest": 1})
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert client.vitals()["in_flight"] == {"bustest": 0}
            await eventually(lambda: client.vitals().get("late_replies") == 1)

    run(main())


def test_the_time_allowed_shrinks_along_the_way(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, _), bus(tmp_path, "bustest2", calls=("bustest",)) as through:
            through.set_handlers(Dispatch("bustest2", [module(*BUSTEST2)], [Elsewhere(through.caller)]))
            through.peer_changed("bustest", 1, True)
            client.peer_changed("bustest2", 1, True)
            assert 49 < await client.ask(TimeLeft(), deadline_s=50) <= 50
            # It asks for 50 s in the name of a caller who has 3.
            assert 2 < await client.ask(TimeLeftThrough(), deadline_s=3) <= 3

    run(main())


def test_a_call_made_while_serving_carries_its_flow(tmp_path: Path) -> None:
    seen: list[CallContext] = []

    async def main() -> None:
        async with served(tmp_path) as (client, server):
            original = server._service._dispatch
            assert original is not None

            def spy(handler: Any, message: Any, ctx: CallContext) -> Any:
                seen.append(ctx)
                assert (current.get(), log.flow.get()) == (ctx, ctx.flow_id)
                return Dispatch.run(original, handler, message, ctx)

            original.run = spy  # type: ignore[method-assign]
            await client.call_raw("bustest.look", b"", flow_id="flow-1", peer="::1:1234")
            await client.call_raw("bustest.echo", b'{"text":""}', flow_id="ü\ud800" * 500, peer="x" * 900)
            assert (current.get(), log.flow.get()) == (None, "")

    run(main())
    assert (seen[0].flow_id, seen[0].peer) == ("flow-1", "::1:1234")
    assert (len(seen[1].flow_id), len(seen[1].peer)) == (128, 128)


def test_turns_of_a_thing_are_kept_across_the_bus_and_urgent_does_not_queue(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, _):
            stuck = asyncio.ensure_future(client.ask(Turn(thing_id="a", step=0, takes_s=0.3)))
            behind = [asyncio.ensure_future(client.ask(Turn(thing_id="a", step=n))) for n in range(1, 20)]
            await client.ask(Turn(thing_id="b", step=0))
            assert await client.ask(Kill(thing_id="a")) == "a"
            assert not stuck.done()
            await asyncio.gather(stuck, *behind)
            assert await client.ask(Steps(thing_id="a")) == list(range(20))

    run(main())


def test_a_deadline_frees_the_caller_and_not_the_key(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, server):
            errors: list[BaseException | None] = []
            question = client.call_then(
                "bustest.turn",
                b'{"thing_id":"a","step":0,"takes_s":0.5}',
                lambda body, error: errors.append(error),
                deadline_s=20,
            )
            assert question is not None
            await eventually(lambda: server.lanes.running() == ["bustest.turn thing=a"])
            client._calls.too_late(question)
            assert isinstance(errors[0], DeadlineExceeded)
            assert server.lanes.running() == ["bustest.turn thing=a"]
            # Expires in the queue: it never runs.
            with pytest.raises(DeadlineExceeded):
                await client.ask(Turn(thing_id="a", step=1), deadline_s=0.05)
            await client.ask(Turn(thing_id="a", step=2))
            assert await client.ask(Steps(thing_id="a")) == [0, 2]

    run(main())


def test_full_lanes_say_busy_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, limits=Limits(read=(1, 1))) as (client, _):
            asked = [asyncio.ensure_future(client.ask(Look(takes_s=0.2))) for _ in range(5)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert [type(answer) for answer in answers] == [int, int, Busy, Busy, Busy]

    run(main())


def test_a_reply_larger_than_a_message_may_be_is_an_error_for_its_caller_only(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, max_message_bytes=100_000) as (client, _):
            with pytest.raises(RemoteError, match="more than the bus carries"):
                await client.ask(Large(size=200_000))
            assert len(await client.ask(Large(size=50_000))) == 50_000

    run(main())


def test_a_request_larger_than_a_message_may_be_is_refused_where_it_is_made(tmp_path: Path) -> None:
    async def main() -> None:
        async with bus(tmp_path, max_message_bytes=100_000) as client:
            client.peer_changed("bustest", 1, True)
            with pytest.raises(InvalidParameters, match="larger"):
                await client.ask(Echo(text="x" * 200_000))

    run(main())


def test_draining_refuses_new_calls_and_finishes_the_running_ones(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, server):
            running = asyncio.ensure_future(client.ask(Change(token="a", takes_s=0.2)))
            await eventually(lambda: server.lanes.serving == 1)
            draining = asyncio.ensure_future(server.drain(5))
            await eventually(lambda: server.background.draining)
            with pytest.raises(StillStarting):
                await client.ask(Echo(text="a"))
            assert await draining is True
            await server.stop()
            assert await running == 1

    run(main())


def test_draining_ends_at_its_deadline_and_names_what_still_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, server):
            asked = asyncio.ensure_future(client.ask(Turn(thing_id="a", step=0, takes_s=0.4)))
            await eventually(lambda: server.lanes.serving == 1)
            assert await server.drain(0.05) is False
            assert server.vitals()["stuck"] == ["bustest.turn thing=a"]
            await asked

    run(main())
    assert "still running: bustest.turn thing=a" in caplog.text


def test_the_trace_shows_every_message_and_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with served(tmp_path) as (client, server):
            client.subscribe(Moved, lambda event: None)
            client.set_trace(True)
            server.set_trace(True)
            await client.call_raw("bustest.echo", b'{"text":"shown","password":"hidden"}', flow_id="f1")
            server.publish(Moved(thing_id="a", place=1))
            await eventually(lambda: "< bustest.moved event bustest.1/1" in caplog.text)
            client.set_trace(False)
            server.set_trace(False)
            caplog.clear()
            await client.ask(Echo(text="silent"))
            assert not caplog.records
            caplog.clear()

    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    keep = Keep()
    logging.getLogger("ipc.trace").addHandler(keep)
    try:
        run(main())
    finally:
        logging.getLogger("ipc.trace").removeHandler(keep)
    text = "\n".join(lines)
    assert text.count("bustest.echo") == 2
    assert "flow=f1" in text and '"shown"' in text
    assert "hidden" not in text


def test_a_message_class_that_fails_in_its_own_code_is_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(spec: object, raw: bytes) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with served(tmp_path) as (client, _):
            with monkeypatch.context() as patch:
                patch.setattr("vdsm_mp.ipc.codec.decode_params", broken)
                with pytest.raises(Internal):
                    await client.ask(Echo(text="a"))
            assert await client.ask(Echo(text="a")) == "a"

    run(main())
    assert "bustest.echo could not be taken up" in caplog.text


def test_a_trace_ends_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, _):
            client.trace_for(60)
            client.trace_for(0.02)
            assert client._calls.traced
            await eventually(lambda: not client._calls.traced)

    run(main())
