# SPDX-License-Identifier: Apache-2.0
"""Buses for tests: in this process, or a server in a process of its own that can be stopped and killed."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.support import bus_verbs
from vdsm_mp.ipc.dispatch import Dispatch
from vdsm_mp.ipc.lanes import Limits
from vdsm_mp.ipc.node import Bus

TOKEN = "a-token-for-tests"
REPOSITORY = Path(__file__).parents[2]


def run(main: Coroutine[Any, Any, None], within_s: float = 40.0) -> None:
    """Run a test's coroutine on a fresh loop."""

    async def bounded() -> None:
        async with asyncio.timeout(within_s):
            await main

    asyncio.run(bounded())


async def eventually(condition: Callable[[], object], *, within_s: float = 10.0) -> None:
    """Let the loop run until the condition is true."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"not true within {within_s} s"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def bus(
    run_dir: Path,
    worker: str = "clientif",
    *,
    epoch: int = 1,
    token: str = TOKEN,
    calls: tuple[str, ...] = ("bustest", "bustest2"),
    callers: tuple[str, ...] | None = None,
    limits: Limits | None = None,
    max_message_bytes: int = 16 * 1024 * 1024,
) -> AsyncIterator[Bus]:
    """A started bus without handlers."""
    made = Bus(
        worker,
        run_dir,
        epoch=epoch,
        token=token,
        calls=calls,
        callers=callers,
        limits=limits,
        max_message_bytes=max_message_bytes,
    )
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@asynccontextmanager
async def served(run_dir: Path, **options: Any) -> AsyncIterator[tuple[Bus, Bus]]:
    """(client, server) in this process and on this loop; the server has all handlers."""
    async with (
        bus(run_dir, "bustest", calls=(), **options) as server,
        bus(run_dir) as client,
    ):
        world = bus_verbs.World(server.epoch, server.publisher)
        server.set_handlers(Dispatch("bustest", [bus_verbs.module(*bus_verbs.BUSTEST)], [world]))
        client.peer_changed("bustest", server.epoch, True)
        yield client, server


class Peer:
    """The `bustest` worker as a process."""

    def __init__(self, run_dir: Path, epoch: int, *arguments: str) -> None:
        self.epoch = epoch
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.bus_peer", str(run_dir), str(epoch), TOKEN, *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        """kill -9, and reap."""
        self.process.kill()
        self.process.communicate(timeout=10)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> str:
        """Let it leave, by force when it is frozen; what it wrote to stderr."""
        if self.process.returncode is not None:
            return ""
        if self.process.poll() is None:
            self.thaw()
        try:
            _, err = self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, err = self.process.communicate()
        return err.decode()


@contextmanager
def peer(run_dir: Path, epoch: int = 1, *arguments: str) -> Iterator[Peer]:
    made = Peer(run_dir, epoch, *arguments)
    try:
        yield made
    finally:
        made.end()
