# SPDX-License-Identifier: Apache-2.0
"""`prepareForShutdown` on the bus: the master's only word there, and only once it will never fork again.

Each worker binds a SUB of its own and the master's PUB connects to it, so nobody looks in vain for a socket that is
not there for most of the house's life. The same note goes down every pipe; that one is the guarantee, this one is
the broadcast that tools on the bus can see.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TOPIC = b"prepareForShutdown"
#: The whole broadcast takes no longer than this.
BROADCAST_S = 0.3


def address(bus_dir: Path, worker: str, epoch: int) -> str:
    return f"ipc://{bus_dir}/{worker}.{epoch}.house"


async def hear(bus_dir: Path, worker: str, epoch: int, token: str, prepare: Callable[[], None]) -> None:
    """Wait for the broadcast; calls `prepare` for a genuine one. A task of the worker's runner."""
    import zmq
    import zmq.asyncio

    with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as sub:
        sub.setsockopt(zmq.LINGER, 0)
        sub.setsockopt(zmq.MAXMSGSIZE, 1024)
        sub.setsockopt(zmq.RCVHWM, 4)
        sub.subscribe(TOPIC)
        sub.setsockopt(zmq.IPC_FILTER_UID, os.geteuid())
        before = os.umask(0o077)
        try:
            sub.bind(address(bus_dir, worker, epoch))
        finally:
            os.umask(before)
        while True:
            parts = await sub.recv_multipart()
            if parts == [TOPIC, token.encode()]:
                prepare()


def broadcast(bus_dir: Path, token: str, workers: Sequence[tuple[str, int]]) -> None:
    """Tell every worker, from the master, in at most BROADCAST_S. Loads zmq: never before the last fork."""
    import zmq

    ends = time.monotonic() + BROADCAST_S
    with zmq.Context() as context, context.socket(zmq.XPUB) as pub:
        pub.setsockopt(zmq.LINGER, 100)
        pub.setsockopt(zmq.SNDHWM, 16)
        for name, epoch in workers:
            pub.connect(address(bus_dir, name, epoch))
        listening = 0
        while listening < len(workers) and (left := ends - time.monotonic()) > 0:
            if pub.poll(int(left * 1000)):
                pub.recv()  # a subscription has arrived
                listening += 1
        with contextlib.suppress(zmq.Again):
            pub.send_multipart([TOPIC, token.encode()], zmq.NOBLOCK)
