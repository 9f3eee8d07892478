# SPDX-License-Identifier: Apache-2.0
"""Whose call is next with a worker: every caller in turn, and no place is ever lost."""

import asyncio
import random

import pytest

from vdsm_mp.api.errors import Busy
from vdsm_mp.clientif.turns import Turns


def test_callers_take_turns_not_calls() -> None:
    async def run() -> None:
        turns, order = Turns("virt", 1), []
        await turns.take("first", 1)

        async def call(caller: str) -> None:
            await turns.take(caller, 10)
            order.append(caller)
            turns.give()

        async with asyncio.TaskGroup() as group:
            for caller in ["greedy"] * 5 + ["modest"] + ["other"] * 2:
                group.create_task(call(caller))
            await asyncio.sleep(0)
            assert turns.waiting == 8
            turns.give()
        assert order == ["greedy", "modest", "other", "greedy", "other", "greedy", "greedy", "greedy"]
        assert (turns.running, turns.waiting) == (0, 0)

    asyncio.run(run())


def test_who_waits_too_long_is_told_and_loses_no_place() -> None:
    async def run() -> None:
        turns = Turns("virt", 1)
        await turns.take("first", 1)
        with pytest.raises(Busy, match="the virt worker is busy"):
            await turns.take("second", 0.01)
        assert turns.waiting == 0
        turns.give()
        assert turns.running == 0

    asyncio.run(run())


def test_who_leaves_at_the_moment_of_its_turn_gives_the_place_on() -> None:
    async def run() -> None:
        turns = Turns("virt", 1)
        await turns.take("first", 1)
        leaving = asyncio.ensure_future(turns.take("second", 10))
        staying = asyncio.ensure_future(turns.take("third", 10))
        await asyncio.sleep(0)
        turns.give()
        leaving.cancel()
        await staying
        assert turns.running == 1
        turns.give()
        assert (turns.running, turns.waiting) == (0, 0)

    asyncio.run(run())


def test_no_place_is_lost_whatever_happens() -> None:
    async def run() -> None:
        rng, turns = random.Random(7), Turns("virt", 3)

        async def call(caller: int) -> None:
            try:
                await turns.take(caller, rng.random() * 0.01)
            except Busy:
                return
            assert turns.running <= 3
            try:
                await asyncio.sleep(rng.random() * 0.002)
            finally:
                turns.give()

        tasks = [asyncio.ensure_future(call(rng.randrange(5))) for _ in range(300)]
        for task in rng.sample(tasks, 100):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (turns.running, turns.waiting) == (0, 0)

    asyncio.run(run())
