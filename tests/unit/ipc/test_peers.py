# SPDX-License-Identifier: Apache-2.0
"""Workers that come and go: what is asked of them is answered, once."""

import asyncio
from pathlib import Path

import pytest

from tests.support import bus_verbs
from tests.support.bus import bus, eventually, run, served
from tests.support.bus_verbs import Change, Look, module
from vdsm_mp.api.errors import PeerRestarted, StillStarting
from vdsm_mp.ipc import calls
from vdsm_mp.ipc.dispatch import Dispatch


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


def test_a_safe_verb_waits_for_the_next_worker_but_not_for_a_long_back_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "NEXT_WORKER_S", 0.3)

    async def main() -> None:
        async with served(tmp_path) as (client, _), bus(tmp_path, "bustest", calls=(), epoch=2) as successor:
            world = bus_verbs.World(2, successor.publisher)
            successor.set_handlers(Dispatch("bustest", [module(*bus_verbs.BUSTEST)], [world]))
            asked = [asyncio.ensure_future(client.ask(Look(takes_s=1.0))) for _ in range(2)]
            await eventually(lambda: client.vitals()["in_flight"] == {"bustest": 2})
            client.peer_changed("bustest", 1, False)
            async with asyncio.timeout(10):
                answers = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(answer) for answer in answers} == {StillStarting}
            client.peer_changed("bustest", 2, True)
            assert "asked_again" not in client.vitals()
            assert await client.ask(Look()) == 2

    run(main())


def test_a_safe_verb_that_the_next_worker_has_may_take_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "NEXT_WORKER_S", 0.3)

    async def main() -> None:
        async with served(tmp_path) as (client, _), bus(tmp_path, "bustest", calls=(), epoch=2) as successor:
            world = bus_verbs.World(2, successor.publisher)
            successor.set_handlers(Dispatch("bustest", [module(*bus_verbs.BUSTEST)], [world]))
            asked = asyncio.ensure_future(client.ask(Look(takes_s=1.0)))
            await eventually(lambda: client.vitals()["in_flight"] == {"bustest": 1})
            client.peer_changed("bustest", 1, False)
            client.peer_changed("bustest", 2, True)
            assert await asked == 2

    run(main())


def test_old_news_about_a_peer_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, epoch=5) as (client, _):
            client.peer_changed("bustest", 4, True)
            client.peer_changed("bustest", 4, False)
            client.peer_changed("bustest", 5, True)
            assert await client.ask(Look()) == 5

    run(main())
