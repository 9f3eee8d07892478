# SPDX-License-Identifier: Apache-2.0
"""Whose handshake goes on, and who is pushed out."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from vdsm_mp.clientif import newcomers as module
from vdsm_mp.clientif.arrival import Arrival
from vdsm_mp.clientif.newcomers import Newcomers


class Somebody:
    def __init__(self, address: str, step: Callable[[], object] = lambda: None) -> None:
        self.address = address
        self.done = False
        self.step = step


def somebody(address: str, step: Callable[[], object] = lambda: None) -> Arrival:
    return cast(Arrival, Somebody(address, step))


def run(queue: Callable[[Newcomers], None], done: list[str], steps: int, known: tuple[str, ...] = ()) -> None:
    async def until_done() -> None:
        newcomers = Newcomers(asyncio.get_running_loop(), known.__contains__)
        queue(newcomers)
        async with asyncio.timeout(10):
            while len(done) < steps:
                await asyncio.sleep(0)

    asyncio.run(until_done())


def crowd(done: list[str]) -> Callable[[Newcomers], None]:
    def queue(newcomers: Newcomers) -> None:
        for address in [f"stranger {number}" for number in range(5)] * 20:
            newcomers.queue_step(somebody(address, lambda address=address: done.append(address)))
        for _ in range(3):
            newcomers.queue_step(somebody("engine", lambda: done.append("engine")))

    return queue


def test_each_address_has_its_turn_however_much_another_has_begun() -> None:
    done: list[str] = []
    run(crowd(done), done, 103)
    assert [at for at, who in enumerate(done) if who == "engine"] == [5, 11, 17]


def test_who_has_somebody_inside_has_every_other_turn() -> None:
    done: list[str] = []
    run(crowd(done), done, 103, known=("engine",))
    assert [at for at, who in enumerate(done) if who == "engine"] == [0, 2, 4]


def test_steps_take_a_part_of_each_turn_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEPS_S", -1.0)
    done: list[str] = []

    def queue(newcomers: Newcomers) -> None:
        def others() -> None:
            done.append("others")
            if len(done) < 8:
                asyncio.get_running_loop().call_soon(others)

        for _ in range(4):
            newcomers.queue_step(somebody("a", lambda: done.append("step")))
        asyncio.get_running_loop().call_soon(others)

    run(queue, done, 8)
    assert done == ["step", "others"] * 4


def test_who_was_pushed_out_costs_no_turn() -> None:
    done: list[str] = []

    def queue(newcomers: Newcomers) -> None:
        for number in range(1000):
            one = somebody("a", lambda number=number: done.append(str(number)))
            one.done = number != 999
            newcomers.queue_step(one)

    run(queue, done, 1)
    assert done == ["999"]


def test_a_step_that_fails_does_not_stop_the_others() -> None:
    done: list[str] = []

    def queue(newcomers: Newcomers) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: done.append(str(context["exception"])))
        for address, step in (("a", lambda: 1 // 0), ("a", lambda: done.append("a")), ("b", lambda: done.append("b"))):
            newcomers.queue_step(somebody(address, step))

    run(queue, done, 3)
    assert done == ["integer division or modulo by zero", "b", "a"]


def test_the_oldest_of_the_greediest_address_goes_first() -> None:
    loop = asyncio.new_event_loop()
    newcomers = Newcomers(loop, lambda address: False)
    loop.close()
    engine, *strangers = (somebody(name) for name in ("engine", "x", "x", "x", "y"))
    for one in (engine, *strangers):
        newcomers.add(one)
    assert newcomers.one_to_push_out() is strangers[0]
    newcomers.remove(strangers[0])
    newcomers.remove(strangers[0])
    assert newcomers.one_to_push_out() is strangers[1]
    assert len(newcomers) == len(list(newcomers)) == 4


def test_one_ipv6_network_has_one_turn_and_is_greedy_as_a_whole() -> None:
    done: list[str] = []

    def queue(newcomers: Newcomers) -> None:
        for number in range(50):
            newcomers.queue_step(somebody(f"2001:db8::{number:x}", lambda number=number: done.append(str(number))))
        newcomers.queue_step(somebody("2001:db8:0:1::1", lambda: done.append("another network")))
        newcomers.queue_step(somebody("192.0.2.1", lambda: done.append("IPv4")))
        newcomers.queue_step(somebody("2001:db8::abc", lambda: done.append("engine")))

    run(queue, done, 53, known=("2001:db8::abc",))
    assert done[:5] == ["engine", "0", "another network", "IPv4", "1"]

    loop = asyncio.new_event_loop()
    newcomers = Newcomers(loop, lambda address: False)
    loop.close()
    other, *many = (somebody(name) for name in ("192.0.2.1", "2001:db8::1", "2001:db8::2"))
    for one in (other, *many):
        newcomers.add(one)
    assert newcomers.one_to_push_out() is many[0]
