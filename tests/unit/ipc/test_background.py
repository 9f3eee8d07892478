# SPDX-License-Identifier: Apache-2.0
"""Work that outlives its call."""

import asyncio
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.support.bus import eventually, run, served
from vdsm_mp.api.errors import Busy
from vdsm_mp.api.errors_virt import VmNotResponding
from vdsm_mp.api.ports import Background
from vdsm_mp.ipc import ports
from vdsm_mp.ipc.lanes import Limits
from vdsm_mp.tasks import jobs
from vdsm_mp.tasks.jobs import Jobs, NotYet
from vdsm_mp.tasks.progress import Progress


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


FEW = Limits(background=(1, 100))


def fill(background: Background, go: threading.Event) -> None:
    """One job that waits for `go`, and as many behind it as find room."""
    background.start("long", lambda: go.wait(20) and None)
    with pytest.raises(Busy):
        while True:
            background.start("fills the queue", lambda: None)


def test_background_work_that_is_due_waits_for_room_however_much_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ports, "_PUT_OFF_S", 0.02)

    async def main() -> None:
        async with served(tmp_path, limits=FEW) as (_, server):
            done: list[int] = []
            go, background = threading.Event(), server.background
            fill(background, go)
            timers = [background.later(0, f"watch {number}", partial(done.append, number)) for number in range(1100)]
            await eventually(lambda: "watch 1099 has to wait" in caplog.text)
            timers[7].cancel()
            await asyncio.sleep(0.1)
            assert done == []
            go.set()
            await eventually(lambda: len(done) == 1099)
            assert sorted(done) == [number for number in range(1100) if number != 7]

    run(main())
    assert caplog.text.count("watch 0 has to wait") == 1


def test_a_job_that_comes_again_ends_though_a_thousand_others_wait_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ports, "_PUT_OFF_S", 0.02)
    monkeypatch.setattr(jobs, "AGAIN_S", 0.5)

    async def main() -> None:
        async with served(tmp_path, limits=FEW) as (_, server):
            go, background = threading.Event(), server.background
            found = Jobs(background, server.publisher.publish, "virt")

            def not_yet(progress: Progress) -> None:
                raise NotYet(lambda progress: None, VmNotResponding("its QEMU hangs"))

            found.start("a job", "snapshot_vm", not_yet)
            await eventually(lambda: server.lanes.background_running == 0)
            fill(background, go)
            for number in range(1100):
                background.later(0, f"watch {number}", lambda: None)
            await eventually(lambda: "snapshot_vm a job has to wait" in caplog.text)
            assert found.infos()["a job"]["status"] == "running"
            go.set()
            await eventually(lambda: found.infos()["a job"]["status"] == "done")

    run(main())


def test_background_work_that_fails_is_logged_with_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with served(tmp_path) as (_, server):
            server.background.start("refresh of disk 1", broken)
            await eventually(lambda: "refresh of disk 1 failed" in caplog.text)

    run(main())
