# SPDX-License-Identifier: Apache-2.0
"""One TCP port of one network namespace made reachable in another, under the same number of 127.0.0.1.

with Relay(port, at=os.getpid(), to=libvirtd.inner_pid):
    socket.create_connection(("127.0.0.1", port))
"""

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

_CLONE_NEWNET = 0x40000000
_WAIT_S = 10.0


def enter(pid: int) -> None:
    """This thread, and what it starts, has the network of that process from now on."""
    with open(f"/proc/{pid}/ns/net", "rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"the network of process {pid} cannot be entered")


def made_inside(pid: int, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket of that network, which it keeps. Raises: what make raised."""

    def run() -> socket.socket:
        enter(pid)
        return make()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result()


class Relay:
    """at, to: processes of both namespaces. Connections end with either side, or with the relay."""

    def __init__(self, port: int, *, at: int, to: int) -> None:
        self._port = port
        self._to = to
        self._open: set[socket.socket] = set()
        self._server = made_inside(at, lambda: socket.create_server(("127.0.0.1", port)))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._server.accept()
                try:
                    far = made_inside(self._to, lambda: socket.create_connection(("127.0.0.1", self._port), _WAIT_S))
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._open |= {near, far}
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(_WAIT_S)
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def relays(stack: Any, ports: dict[int, int]) -> None:
    """Every port everywhere. ports: {port: a process of the namespace that serves it}; ours has none of them."""
    for port, home in ports.items():
        for other in {os.getpid(), *ports.values()} - {home}:
            stack.enter_context(Relay(port, at=other, to=home))
