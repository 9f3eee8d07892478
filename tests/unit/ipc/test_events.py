# SPDX-License-Identifier: Apache-2.0
"""Events between two buses on one loop, over real sockets."""

import threading
from pathlib import Path

import pytest

from tests.support.bus import bus, eventually, run, served
from tests.support.bus_verbs import Echo, Moved, Noticed


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
