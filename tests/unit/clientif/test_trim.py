# SPDX-License-Identifier: Apache-2.0
"""When memory is given back."""

import asyncio

import pytest

from vdsm_mp.clientif import trim
from vdsm_mp.clientif.trim import Trim


def test_once_after_many_have_left_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trim, "_WAIT_S", 0.05)
    done: list[int] = []

    async def run() -> None:
        after = Trim(asyncio.get_running_loop(), lambda: done.append(1))
        for _ in range(63):
            after.one_left()
        await asyncio.sleep(0.1)
        assert not done
        for _ in range(1000):
            after.one_left()
        await asyncio.sleep(0.2)
        assert len(done) == 1
        for _ in range(63):
            after.one_left()
        await asyncio.sleep(0.1)
        assert len(done) == 1
        after.one_left()
        after.stop()
        await asyncio.sleep(0.1)
        assert len(done) == 1
        after.large_one_left()
        await asyncio.sleep(0.2)
        assert len(done) == 2

    asyncio.run(run())


def test_the_real_one_works() -> None:
    async def run() -> None:
        Trim(asyncio.get_running_loop())._due()

    asyncio.run(run())
