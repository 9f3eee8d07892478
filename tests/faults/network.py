# SPDX-License-Identifier: Apache-2.0
"""A bad road between a client and the door: octets come late, in small pieces, or the connection is reset half-way.

A relay of TCP in this process. Loss of packets is not made: TCP mends it, and what clients see of it is delay.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

from tests.faults.world import World
from vdsm_mp.api.errors import DeadlineExceeded
from vdsm_mp.wire.client import Client, ConnectionLost
from vdsm_mp.wire.tls import client_context

#: Octets forwarded at a time, so that frames arrive in pieces.
_PIECE = 200


class Relay:
    """Listens on a free port; every octet takes `delay_s` in each direction."""

    def __init__(self, port: int, delay_s: float) -> None:
        self.delay_s = delay_s
        self._target = port
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target), timeout=30)
                self._pairs.append((near, far))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while octets := source.recv(65536):
                time.sleep(self.delay_s)
                for at in range(0, len(octets), _PIECE):
                    sink.sendall(octets[at : at + _PIECE])
            sink.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """RST on every connection, in both directions."""
        for pair in self._pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.close()
        self._pairs.clear()

    def close(self) -> None:
        self._listener.close()
        self.reset()


@contextlib.contextmanager
def relay(port: int, delay_s: float) -> Iterator[Relay]:
    made = Relay(port, delay_s)
    try:
        yield made
    finally:
        made.close()


def bad_road(world: World) -> None:
    """A client whose octets take half a second each way is served; one that is cut off may come again at once."""
    pid = world.house.pid_of("clientif")
    assert world.house.files is not None
    context = client_context(world.house.files)
    with relay(world.house.port, 0.5) as road, world.fault("none") as fault:
        with Client("127.0.0.1", road.port, context=context) as slow:
            began = time.monotonic()
            if slow.call("Host.ping2", timeout_s=20) is not True:
                fault.broken.append("a client with a slow connection was not served")
            took = time.monotonic() - began
            fault.happened = took >= 2 * road.delay_s
            fault.numbers["slow call"] = took
            slow.start("Host.getAllVmStats", b"{}")
            road.reset()
            try:
                slow.call("Host.ping2", timeout_s=10)
                fault.broken.append("a call came through a connection that was reset")
            except ConnectionLost:
                pass
            except DeadlineExceeded:
                fault.broken.append("a reset of the connection was not noticed")
        road.delay_s = 0.0
        again = time.monotonic()
        with Client("127.0.0.1", road.port, context=context) as back:
            back.call("Host.ping2", timeout_s=10)
        fault.ready_s = time.monotonic() - again
        if world.house.pid_of("clientif") != pid:
            fault.broken.append("the door was restarted")
