# SPDX-License-Identifier: Apache-2.0
"""Whose handshake goes on, and who is pushed out."""

import asyncio
from dataclasses import dataclass
from typing import cast

from vdsm_mp.clientif.arrival import Arrival
from vdsm_mp.clientif.newcomers import Newcomers


@dataclass(eq=False)
class Somebody:
    address: str


def test_each_address_has_its_turn_however_much_another_has_begun() -> None:
    done: list[str] = []

    async def run() -> None:
        newcomers = Newcomers(asyncio.get_running_loop())
        for number in range(100):
            newcomers.queue_step("stranger", lambda number=number: done.append(f"stranger {number}"))
        newcomers.queue_step("engine", lambda: done.append("engine"))
        while len(done) < 101:
            await asyncio.sleep(0)

    asyncio.run(run())
    assert done.index("engine") == 1
    assert done[2:4] == ["stranger 1", "stranger 2"]


def test_a_step_that_fails_does_not_stop_the_others() -> None:
    done: list[int] = []
    failed: list[object] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: failed.append(context["exception"]))
        newcomers = Newcomers(loop)
        newcomers.queue_step("a", lambda: done.append(1 // 0))
        newcomers.queue_step("a", lambda: done.append(1))
        newcomers.queue_step("b", lambda: done.append(2))
        while len(done) < 2:
            await asyncio.sleep(0)
        # Nothing is left that would keep later ones from being run.
        newcomers.queue_step("c", lambda: done.append(3))
        while len(done) < 3:
            await asyncio.sleep(0)

    asyncio.run(run())
    assert (done, [type(error) for error in failed]) == ([2, 1, 3], [ZeroDivisionError])


def test_the_oldest_of_the_greediest_address_goes_first() -> None:
    loop = asyncio.new_event_loop()
    newcomers = Newcomers(loop)
    loop.close()
    engine, *strangers = (cast(Arrival, Somebody(name)) for name in ("engine", "x", "x", "x", "y"))
    for somebody in (engine, *strangers):
        newcomers.add(somebody)
    assert newcomers.one_to_push_out() is strangers[0]
    newcomers.remove(strangers[0])
    newcomers.remove(strangers[0])
    assert newcomers.one_to_push_out() is strangers[1]
    assert len(newcomers) == len(list(newcomers)) == 4
