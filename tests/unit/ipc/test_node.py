# SPDX-License-Identifier: Apache-2.0
"""Two buses on one loop, over real sockets."""

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.support import bus_verbs
from tests.support.bus import TOKEN, bus, eventually, run, served
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
    Noticed,
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
    PeerRestarted,
    RemoteError,
    ResourceUnavailable,
    StillStarting,
    UnknownVerb,
)
from vdsm_mp.api.ports import CallContext
from vdsm_mp.common import log
from vdsm_mp.common.errors import Internal
from vdsm_mp.ipc import ports
from vdsm_mp.ipc.dispatch import Dispatch
from vdsm_mp.ipc.envelope import BUS_VERSION, Request, Seal
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
            with pytest.raises(DeadlineExceeded, match=r"bustest\.look did not end within 0\.05 s"):
                await client.ask(Look(takes_s=0.2), deadline_s=0.05)
            # What nobody waits for is not even sent.
            await eventually(lambda: server.vitals().get("answered_too_late") == 1)

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
            with pytest.raises(DeadlineExceeded):
                await client.ask(Turn(thing_id="a", step=0, takes_s=0.3), deadline_s=0.05)
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


# Forged and broken messages


def raw_dealer(context: "zmq.Context[zmq.Socket[bytes]]", path: Path) -> "zmq.Socket[bytes]":
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.connect(f"ipc://{path}/bustest.1.call")
    return dealer


def request(**changes: Any) -> Request:
    until = time.monotonic() + 10
    fields: dict[str, Any] = {
        "version": BUS_VERSION,
        "kind": "call",
        "id": 1,
        "sender": "clientif",
        "epoch": 1,
        "to": "bustest",
        "verb": "bustest.change",
        "deadline": until,
        "flow": "",
        "peer": "",
    }
    return Request(**{**fields, **changes})


def test_forged_and_misdirected_messages_are_not_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    body = b'{"token":"forged"}'
    good = Seal(TOKEN)

    async def main() -> None:
        async with served(tmp_path) as (client, server):
            with zmq.Context() as context:
                dealer = raw_dealer(context, tmp_path)
                dealer.send_multipart([Seal("guessed").close(request(), body), body])
                dealer.send_multipart([good.close(request(), b'{"token":"another"}'), body])
                dealer.send_multipart([good.close(request(to="storage"), body), body])
                dealer.send_multipart([b"", b""])
                dealer.send_multipart([b"one frame"])
                dealer.send_multipart([b"far", b"too", b"many", b"frames"] * 50)
                await eventually(lambda: server.vitals().get("refused") == 5)
                assert await client.ask(Change(token="forged")) == 1
                dealer.close()

    run(main())
    assert "wrong seal" in caplog.text


def test_a_worker_of_another_bus_version_is_answered_by_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path):
            with zmq.Context() as context:
                dealer = raw_dealer(context, tmp_path)
                dealer.send_multipart([Seal(TOKEN).close(request(version=2, id=77), b""), b""])
                await eventually(lambda: dealer.poll(0))
                frame, body = dealer.recv_multipart()
                assert b",77," in frame
                assert b"bus version 2, ours is 1" in body
                dealer.close()

    run(main())


def test_an_expired_request_is_not_run(tmp_path: Path) -> None:
    body = b'{"token":"late"}'

    async def main() -> None:
        async with served(tmp_path) as (client, server):
            with zmq.Context() as context:
                dealer = raw_dealer(context, tmp_path)
                frame = Seal(TOKEN).close(request(deadline=time.monotonic() - 1), body)
                dealer.send_multipart([frame, body])
                await eventually(lambda: server.vitals().get("expired") == 1)
                assert await client.ask(Change(token="late")) == 1
                dealer.close()

    run(main())


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    async def main() -> None:
        with pytest.raises(PermissionError, match="0700"):
            async with bus(tmp_path):
                raise AssertionError

    run(main())


# Peers that come and go


def test_when_a_peer_is_gone_every_call_is_answered_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, server):
            asked = [asyncio.ensure_future(client.ask(Change(token=str(n), takes_s=0.3))) for n in range(20)]
            await eventually(lambda: server.lanes.serving == 20)
            client.peer_changed("bustest", 1, False)
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(answer) for answer in answers} == {PeerRestarted}
            assert "may have run" in str(answers[0])
            with pytest.raises(StillStarting):
                await client.ask(Change(token="x"))

    run(main())


def test_a_safe_verb_is_asked_once_more_of_the_next_worker(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, _), bus(tmp_path, "bustest", calls=(), epoch=2) as successor:
            asked = asyncio.ensure_future(client.ask(Look(takes_s=0.2)))
            await eventually(lambda: client.vitals()["in_flight"] == {"bustest": 1})
            client.peer_changed("bustest", 1, False)
            world = bus_verbs.World(2, successor.publisher)
            successor.set_handlers(Dispatch("bustest", [module(*bus_verbs.BUSTEST)], [world]))
            client.peer_changed("bustest", 2, True)
            assert await asked == 2
            assert client.vitals()["asked_again"] == 1

    run(main())


def test_a_safe_verb_whose_worker_does_not_come_back_or_dies_again_is_answered_99(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, _):
            asked = asyncio.ensure_future(client.ask(Look(takes_s=0.5), deadline_s=0.1))
            await eventually(lambda: client.vitals()["in_flight"] == {"bustest": 1})
            client.peer_changed("bustest", 1, False)
            with pytest.raises(StillStarting):
                await asked
            client.peer_changed("bustest", 2, True)
            twice = asyncio.ensure_future(client.ask(Look()))
            await eventually(lambda: client.vitals()["in_flight"] == {"bustest": 1})
            client.peer_changed("bustest", 2, False)
            client.peer_changed("bustest", 3, True)
            client.peer_changed("bustest", 3, False)
            with pytest.raises(StillStarting):
                await twice

    run(main())


def test_old_news_about_a_peer_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, epoch=5) as (client, _):
            client.peer_changed("bustest", 4, True)
            client.peer_changed("bustest", 4, False)
            client.peer_changed("bustest", 5, True)
            assert await client.ask(Look()) == 5

    run(main())


# Events


def test_who_joins_late_gets_the_last_values_first(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, server):
            for place in range(3):
                server.publish(Moved(thing_id="a", place=place))
                server.publish(Moved(thing_id="b", place=place * 10))
            seen: list[object] = []
            client.subscribe(Moved, seen.append, lambda publisher: seen.append(f"resync {publisher}"))
            await eventually(lambda: len(seen) == 3)
            server.publish(Moved(thing_id="a", place=4))
            await eventually(lambda: len(seen) == 4)
            assert seen == [
                Moved(thing_id="a", place=2),
                Moved(thing_id="b", place=20),
                "resync bustest",
                Moved(thing_id="a", place=4),
            ]

    run(main())


def test_events_without_a_last_value_start_with_a_resync(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, server):
            seen: list[object] = []
            client.subscribe(Noticed, seen.append, lambda publisher: seen.append(f"resync {publisher}"))
            await eventually(lambda: seen == ["resync bustest"])
            for number in range(500):
                server.publish(Noticed(number=number))
            await eventually(lambda: len(seen) == 501)
            assert seen[1:] == [Noticed(number=number) for number in range(500)]

    run(main())


def test_a_lost_tail_is_noticed_by_the_mark_that_follows(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, server):
            seen: list[object] = []
            client.subscribe(Moved, seen.append, lambda publisher: seen.append("resync"))
            await eventually(lambda: seen == ["resync"])
            # The last event of a burst gets lost: nothing after it would show the gap.
            lost = server._outlet._pump
            server._outlet._pump = None
            server.publish(Moved(thing_id="a", place=1))
            server._outlet._pump = lost
            await eventually(lambda: seen == ["resync", Moved(thing_id="a", place=1), "resync"])
            assert client.vitals()["event_gaps"] == 1

    run(main())


def test_a_restarted_publisher_brings_a_resync(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, server):
            seen: list[object] = []
            client.subscribe(Moved, seen.append, lambda publisher: seen.append("resync"))
            server.publish(Moved(thing_id="a", place=1))
            await eventually(lambda: Moved(thing_id="a", place=1) in seen)
            await server.stop()
            client.peer_changed("bustest", 1, False)
            async with bus(tmp_path, "bustest", calls=(), epoch=2) as successor:
                successor.publish(Moved(thing_id="a", place=7))
                seen.clear()
                client.peer_changed("bustest", 2, True)
                await eventually(lambda: seen == [Moved(thing_id="a", place=7), "resync"])

    run(main())


def test_a_flood_from_a_thread_is_bounded_and_ends_in_the_right_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdsm_mp.ipc.outlet.MOST_WAITING", 100)

    async def main() -> None:
        async with served(tmp_path) as (client, server):
            places: dict[str, int] = {}
            client.subscribe(Moved, lambda event: places.__setitem__(event.thing_id, event.place))

            def flood() -> None:
                for place in range(5000):
                    server.publisher.publish(Moved(thing_id=str(place % 3), place=place))
                server.publisher.publish(Moved(thing_id="last", place=1))

            # While the loop is held up nothing can leave; of what does not fit, the newest per thing is kept.
            thread = threading.Thread(target=flood)
            thread.start()
            thread.join()
            assert len(server._outlet._queue) == 100
            await eventually(lambda: places == {"0": 4998, "1": 4999, "2": 4997, "last": 1})
            assert server.vitals()["events_overflowed"] == 1

    run(main())


def test_a_subscriber_that_fails_does_not_harm_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with served(tmp_path) as (client, server):
            seen: list[object] = []

            def broken(event: Moved) -> None:
                raise ZeroDivisionError

            client.subscribe(Moved, broken)
            client.subscribe(Moved, seen.append)
            server.publish(Moved(thing_id="a", place=1))
            await eventually(lambda: len(seen) == 1)

    run(main())
    assert "subscriber's function failed" in caplog.text


def test_publishing_never_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with served(tmp_path) as (_, server):
            server.publish(Moved(thing_id=object(), place=1))  # type: ignore[arg-type]
            server.publish(Echo(text="not an event"))

    run(main())
    assert caplog.text.count("cannot be published") == 2


# Background work, and looking in


def test_background_work_keeps_its_order_outlives_its_call_and_is_drained(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (_, server):
            done: list[int] = []
            background = server.background
            for number in range(10):
                background.start("count", lambda number=number: done.append(number), key="one")  # type: ignore[misc]
            background.later(0.05, "later", lambda: done.append(99))
            background.later(0.05, "never", lambda: done.append(-1)).cancel()
            await eventually(lambda: len(done) == 11)
            assert done == [*range(10), 99]
            go = threading.Event()
            background.start("long", lambda: go.wait(10) and None)
            await eventually(lambda: server.lanes.background_running == 1)
            assert not background.draining
            assert await server.drain(0.05) is False
            assert background.draining
            go.set()
            assert await server.drain(5) is True

    run(main())


def test_background_work_that_is_due_waits_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ports, "_PUT_OFF_S", 0.02)
    monkeypatch.setattr(ports, "_PUT_OFF_AT_MOST", 2)

    async def main() -> None:
        async with served(tmp_path, limits=Limits(background=(1, 1))) as (_, server):
            done: list[int] = []
            go, background = threading.Event(), server.background
            background.start("long", lambda: go.wait(10) and None)
            await eventually(lambda: server.lanes.background_running == 1)
            background.start("fills the queue", lambda: None)
            for number in range(3):
                background.later(0, f"watch {number}", lambda number=number: done.append(number))  # type: ignore[misc]
            await eventually(lambda: "watch 2 is not started" in caplog.text)
            await asyncio.sleep(0.1)
            assert done == []
            go.set()
            await eventually(lambda: sorted(done) == [0, 1])

    run(main())
    assert caplog.text.count("watch 0 has to wait") == 1


def test_background_work_that_fails_is_logged_with_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with served(tmp_path) as (_, server):
            server.background.start("refresh of disk 1", broken)
            await eventually(lambda: "refresh of disk 1 failed" in caplog.text)

    run(main())


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
