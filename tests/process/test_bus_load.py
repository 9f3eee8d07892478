# SPDX-License-Identifier: Apache-2.0
"""Fifty callers while the worker they call is killed and frozen: every question exactly one answer, nothing twice."""

import asyncio
import time
from pathlib import Path

from tests.support.bus import Peer, bus, eventually, run
from tests.support.bus_verbs import Change, Echo, Look
from tests.support.load import Faults, Journal, Kind, Load, check, summary
from vdsm_mp.ipc.node import Bus

CALLERS = 50
KILLS = 6


def kinds(client: Bus) -> list[Kind]:
    async def echo(name: str) -> object:
        return await client.ask(Echo(text=name), deadline_s=5)

    async def look(name: str) -> object:
        return await client.ask(Look(takes_s=0.005), deadline_s=5)

    async def change(name: str) -> object:
        return await client.ask(Change(token=name, takes_s=0.01), deadline_s=5)

    async def impatient(name: str) -> object:
        return await client.ask(Change(token=name, takes_s=0.01), deadline_s=0.012)

    return [
        Kind("echo", False, 60, 5, echo, lambda name: name),
        Kind("look", False, 20, 5, look),
        Kind("change", True, 15, 5, change, lambda _: 1),
        Kind("change in a hurry", True, 5, 0.012, impatient, lambda _: 1),
    ]


def test_every_question_gets_exactly_one_answer_while_the_worker_keeps_dying(tmp_path: Path) -> None:
    faults = Faults()
    journal = Journal(tmp_path / "journal")

    async def main() -> None:
        async with bus(tmp_path) as client:
            load = Load(kinds(client), CALLERS, seed=4)
            running = asyncio.ensure_future(load.run())
            epoch = 1
            worker = await asyncio.to_thread(Peer, tmp_path, epoch)
            client.peer_changed("bustest", epoch, True)
            try:
                for round_number in range(KILLS):
                    await _served_by(client, load, epoch)
                    if round_number % 3 == 2:
                        worker.freeze()
                        await _asked(load, 60)
                        worker.thaw()
                        faults.happened("SIGSTOP and SIGCONT")
                    worker.kill()
                    faults.happened("kill -9")
                    client.peer_changed("bustest", epoch, False)
                    epoch += 1
                    worker = await asyncio.to_thread(Peer, tmp_path, epoch)
                    client.peer_changed("bustest", epoch, True)
                await _served_by(client, load, epoch)
                load.stop()
                await running
            finally:
                load.stop()
                worker.end()
            told = summary(load.history, faults)
            assert check(load.history, journal.read()) == [], told
            assert faults.executed == {"kill -9": KILLS, "SIGSTOP and SIGCONT": KILLS // 3}
            outcomes = {operation.outcome for operation in load.history}
            assert {"done", "unknown", "not run"} <= outcomes, told
            assert client.vitals()["in_flight"] == {"bustest": 0}

    run(main())
    journal.close()


async def _served_by(client: Bus, load: Load, epoch: int) -> None:
    """Until this incarnation has answered a good number of questions."""
    before = len(load.history)
    await eventually(lambda: len(load.history) > before + 150)
    assert await client.ask(Look()) == epoch


async def _asked(load: Load, more: int) -> None:
    """Until so much more was asked, or everybody waits for an answer."""
    before, until = len(load.history), time.monotonic() + 0.3
    await eventually(lambda: len(load.history) > before + more or time.monotonic() > until)
