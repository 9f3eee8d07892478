# SPDX-License-Identifier: Apache-2.0
"""Fifty clients at the public port while workers are killed: the whole way, door, bus and room, with an exact count.

Every question gets exactly one answer or a closed connection, nothing that changes something runs twice, and what
was answered with 99 has not run.
"""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.eventually import eventually
from tests.support.house import RunningHouse
from tests.support.load import Faults, Journal, Kind, Load, check, summary
from vdsm_mp.wire.client import Client, ConnectionLost

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a house needs root to become its user")

CALLERS = 50
ROUNDS = ("back", "front", "clientif", "back", "front")


class Clients:
    """One connection per caller, opened again when it was lost."""

    def __init__(self, house: RunningHouse) -> None:
        self._house = house
        self._open: dict[str, Client] = {}
        self.lost = 0

    def call(self, verb: str, name: str, **more: str) -> object:
        caller = name.partition("-")[0]
        client = self._open.get(caller) or self._connect(caller)
        try:
            return client.call(verb, {"text": name, **more}, timeout_s=20)
        except ConnectionLost:
            self.lost += 1
            self._open.pop(caller).close()
            raise

    def _connect(self, caller: str) -> Client:
        until = time.monotonic() + 10
        while True:
            try:
                client = self._open[caller] = Client("127.0.0.1", self._house.port, context=None)
                return client
            except ConnectionLost:
                # Accepted by the kernel for a door that then died; not one question was asked.
                if time.monotonic() > until:
                    raise

    def close(self) -> None:
        for client in self._open.values():
            client.close()


def kinds(clients: Clients, pool: ThreadPoolExecutor) -> list[Kind]:
    def asking(verb: str, more: Callable[[str], dict[str, str]] = lambda _: {}) -> Callable[[str], object]:
        async def ask(name: str) -> object:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool, lambda: clients.call(verb, name, **more(name)))

        return ask

    same: Callable[[str], object] = lambda name: name  # noqa: E731
    return [
        Kind("Load.look", False, 70, 12, asking("Load.look"), same),
        Kind("Load.change", True, 10, 12, asking("Load.change"), same),
        Kind("Load.turn", True, 10, 12, asking("Load.turn", lambda name: {"thing": name[-1]}), same),
        Kind("Load.through", True, 10, 12, asking("Load.through"), same),
    ]


def test_every_question_at_the_door_gets_exactly_one_answer_while_workers_are_killed() -> None:
    faults = Faults()
    with RunningHouse.start(table="tests.support.load_table") as house, ThreadPoolExecutor(CALLERS) as pool:
        clients = Clients(house)
        load = Load(kinds(clients, pool), CALLERS, seed=7)
        with ThreadPoolExecutor(1) as runner:
            running = runner.submit(lambda: asyncio.run(load.run()))
            try:
                for worker in ROUNDS:
                    before = len(load.history)
                    eventually(lambda before=before: len(load.history) > before + 200, within_s=20)  # type: ignore[misc]
                    house.kill_worker(worker)
                    faults.happened(f"kill -9 {worker}")
                before = len(load.history)
                eventually(lambda: len(load.history) > before + 200, within_s=20)
            finally:
                load.stop()
                running.result(30)
                clients.close()
        journal = Journal(house.root / "state/journal")
        ran = journal.read()
        journal.close()
        told = f"{summary(load.history, faults)}, connections lost {clients.lost}"
        print(told)
        assert check(load.history, ran) == [], told
        assert faults.executed == {"kill -9 back": 2, "kill -9 front": 2, "kill -9 clientif": 1}
        assert clients.lost >= CALLERS / 2
        assert house.terminate() == 0
