# SPDX-License-Identifier: Apache-2.0
"""A road between clients and the door of a house under load that carries octets in odd pieces, holds some up, and is
cut at any octet: in a handshake, a frame, an answer.

A relay of TCP in one thread, which alone has the sockets: what it closes is closed at once. Loss and order of packets
are TCP's to mend; they are tried on TUN devices (`tests/process/test_door_roads.py`).
"""

import contextlib
import random
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from tests.faults.load import Load
from tests.faults.world import World
from tests.support.eventually import eventually
from tests.support.load import check
from vdsm_mp.wire.client import Client
from vdsm_mp.wire.tls import client_context

#: Of both directions together. A handshake with certificates is about five thousand.
_MOST_OCTETS = 20_000
_MOST_PIECE = 400
#: One piece of so many is held up for so long.
_HELD_EVERY, _HELD_S = 50, 0.02
_STUCK_S = 10.0
_LASTS_S = 12.0
_CALLERS, _PER_S = 20, 80.0
#: Fewer prove little.
_ENOUGH_CUTS = 30


@dataclass
class _Pair:
    """near: the client's side. left: octets until the cut. reset: how the door hears of it."""

    near: socket.socket
    far: socket.socket
    left: int
    reset: bool


class TornRoad:
    """Listens on `port`; `cuts` counts. After `mend` nothing is cut any more."""

    def __init__(self, target: int, rng: random.Random) -> None:
        self.cuts = 0
        self._target, self._rng = target, rng
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._mended, self._over = threading.Event(), threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._pairs: list[_Pair] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def mend(self) -> None:
        self._mended.set()

    def close(self) -> None:
        self._over.set()
        self._thread.join(_STUCK_S + 5)

    def _run(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(0.1):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.data.near.fileno() >= 0:  # else: ended by its other side just now
                    self._carry(key.data, key.fileobj)  # type: ignore[arg-type]
        for pair in list(self._pairs):
            self._end(pair)
        self._listener.close()
        self._selector.close()

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._target), timeout=_STUCK_S)
        except OSError:
            near.close()
            return
        near.settimeout(_STUCK_S)
        pair = _Pair(near, far, self._rng.randrange(1, _MOST_OCTETS), self._rng.random() < 0.5)
        self._pairs.append(pair)
        for sock in (near, far):
            self._selector.register(sock, selectors.EVENT_READ, pair)

    def _carry(self, pair: _Pair, source: socket.socket) -> None:
        sink = pair.far if source is pair.near else pair.near
        try:
            octets = source.recv(self._rng.randrange(1, _MOST_PIECE))
            if self._rng.randrange(_HELD_EVERY) == 0:
                self._over.wait(_HELD_S)
            if not self._mended.is_set():
                octets = octets[: pair.left]
                pair.left -= len(octets)
            sink.sendall(octets)
        except OSError:
            octets = b""
        if not octets:
            self._end(pair)
        elif pair.left <= 0:
            self.cuts += 1
            self._end(pair)

    def _end(self, pair: _Pair) -> None:
        """The client hears of it by a reset, so that its questions of that moment are known to be without an answer."""
        self._pairs.remove(pair)
        for sock, reset in ((pair.near, True), (pair.far, pair.reset)):
            self._selector.unregister(sock)
            if reset:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


@contextlib.contextmanager
def torn_road(target: int, rng: random.Random) -> Iterator[TornRoad]:
    road = TornRoad(target, rng)
    try:
        yield road
    finally:
        road.close()


def tear(world: World) -> None:
    """Twenty more clients come by that road for a while: each question is answered or its connection closed, nobody
    else notices, and the door keeps nothing of them."""
    house = world.house
    assert house.files is not None
    pid, context = house.pid_of("clientif"), client_context(house.files)
    held = int(house.worker("clientif")["vitals"]["connections"])
    with torn_road(house.port, random.Random(len(world.faults))) as road, world.fault("none") as fault:

        def connect() -> Client:
            return Client("127.0.0.1", road.port, context=context)

        load = Load(connect, world.questions(), callers=_CALLERS, per_s=_PER_S, seed=len(world.faults))
        load.start()
        threading.Event().wait(_LASTS_S)
        road.mend()
        load.stop()
        fault.numbers |= {"cuts": road.cuts, "questions": len(load.history)}
        fault.happened = road.cuts >= _ENOUGH_CUTS
        fault.broken += check(load.history, {})
        if not any(operation.outcome == "done" for operation in load.history):
            fault.broken.append("nobody was served on a torn road")
        road.close()
        eventually(lambda: int(house.worker("clientif")["vitals"]["connections"]) <= held + 2, within_s=30)
        if house.pid_of("clientif") != pid:
            fault.broken.append("the door was restarted")
