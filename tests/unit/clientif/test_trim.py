# SPDX-License-Identifier: Apache-2.0
"""When memory is given back."""

import asyncio
import ctypes
from pathlib import Path

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


def resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_the_real_one_gives_back_what_lies_between_things_in_use() -> None:
    """In a thread, which has an arena of its own."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    size, count = 64 * 1024, 1024

    async def run() -> None:
        blocks = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size))) for _ in range(count)]
        for block in blocks:
            ctypes.memset(block, 1, size)
        for block in blocks[:-1]:
            libc.free(block)
        before = resident_kib()
        Trim(asyncio.get_running_loop())._due()
        assert before - resident_kib() > size * count // 1024 // 2
        libc.free(blocks[-1])

    asyncio.run(run())
