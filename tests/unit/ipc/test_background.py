# SPDX-License-Identifier: Apache-2.0
"""Work that outlives its call."""

import asyncio
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.support.bus import eventually, run, served
from vdsm_mp.ipc import ports
from vdsm_mp.ipc.lanes import Limits


def test_background_work_keeps_its_order_outlives_its_call_and_is_drained(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as (_, server):
            done: list[int] = []
            background = server.background
            for number in range(10):
                background.start("count", partial(done.append, number), key="one")
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
                background.later(0, f"watch {number}", partial(done.append, number))
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
