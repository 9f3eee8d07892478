# SPDX-License-Identifier: Apache-2.0
import asyncio
import time
from pathlib import Path

from tests.support.bus import TOKEN, eventually, run
from vdsm_mp.ipc import shutdown
from vdsm_mp.ipc.envelope import Seal
from vdsm_mp.ipc.node import Bus


def test_every_worker_hears_the_broadcast_and_none_a_forged_one(tmp_path: Path) -> None:
    heard: list[str] = []

    async def main() -> None:
        buses = [Bus(name, tmp_path, epoch=4, token=TOKEN, calls=()) for name in ("virt", "storage", "network")]
        for bus in buses:
            bus.on_shutdown(lambda bus=bus: heard.append(bus.worker))  # type: ignore[misc]
            await bus.start()
        everybody = [(bus.worker, bus.epoch) for bus in buses]
        await asyncio.to_thread(shutdown.broadcast, tmp_path, "guessed", everybody)
        await eventually(lambda: all(bus.vitals().get("refused") == 1 for bus in buses))
        assert heard == []
        await asyncio.to_thread(shutdown.broadcast, tmp_path, TOKEN, everybody)
        await eventually(lambda: len(heard) == 3)
        for bus in buses:
            await bus.stop()

    run(main())
    assert sorted(heard) == ["network", "storage", "virt"]


def test_a_worker_that_does_not_listen_does_not_hold_the_house_up(tmp_path: Path) -> None:
    began = time.monotonic()
    shutdown.broadcast(tmp_path, TOKEN, [("virt", 1), ("storage", 1)])
    # 0.4 s, and what a busy machine makes of that; not the half minute for which sockets linger.
    assert time.monotonic() - began < 5


def test_the_broadcast_does_not_show_the_token() -> None:
    assert TOKEN.encode() not in b"".join(shutdown.announcement(Seal(TOKEN)))
