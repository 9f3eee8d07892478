# SPDX-License-Identifier: Apache-2.0
"""`prepareForShutdown` on the bus: the master's only word there, and only once it will never fork again.

Each worker binds a SUB of its own and the master's PUB connects to it, so nobody looks in vain for a socket that is
not there for most of the house's life. The same note goes down every pipe; that one is the guarantee, this one is
the broadcast that tools on the bus can see.
"""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from vdsm_mp.ipc import places
from vdsm_mp.ipc.envelope import BUS_VERSION, Broken, Notice, Seal, notices

TOPIC = b"prepareForShutdown"
#: The whole broadcast takes no longer than this.
BROADCAST_S = 0.3


def address(bus_dir: Path, worker: str, epoch: int) -> str:
    return f"ipc://{bus_dir}/{places.name(worker, epoch, 'house')}"


def announcement(seal: Seal) -> list[bytes]:
    """The frames of the broadcast; like everything on the bus they carry a seal and not the token."""
    return [TOPIC, seal.close(Notice(BUS_VERSION, "event", "master", 0, 1), b"", TOPIC), b""]


def is_genuine(seal: Seal, frames: Sequence[bytes]) -> bool:
    """Was this sent by the master of this house?"""
    if len(frames) != 3 or frames[0] != TOPIC:
        return False
    try:
        return seal.open(notices, frames[1], frames[2], TOPIC).sender == "master"
    except Broken:
        return False


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
            pub.send_multipart(announcement(Seal(token)), zmq.NOBLOCK)
